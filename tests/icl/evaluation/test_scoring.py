"""Metrics by name."""

import pytest

from icl.evaluation.metrics.captions import bleu4, cider_d
from icl.evaluation.metrics.scoring import METRICS, MetricScore


def test_metrics_are_those_of_their_evaluators() -> None:
    said = ["a dog and a cat", "two red buses", "a man"]
    right = [["a dog on a couch", "a dog"], ["a bus"], ["a woman with a dog", "a person"]]
    assert METRICS["cider"](said, right).rows == tuple(cider_d(said, right))
    assert METRICS["bleu4"](said, right) == MetricScore(bleu4(said, right), None)
    # of dog, cat, bus and person the cat is in no reference
    assert METRICS["chair_s"](said, right).rows == (1, 0, 0)
    assert METRICS["chair_i"](said, right) == MetricScore(1 / 4, None)
    assert METRICS["exact"](said, right).rows == (0, 0, 0)
    assert METRICS["vqa"](["dog"], [["dog"] * 3 + ["cat"] * 7]).value == pytest.approx(0.9)
