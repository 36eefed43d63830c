"""A learning rate that is looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from icl.training.execution import train
from tests.icl.runs import (
    CutError,
    assert_same_adapter,
    cut_at,
    describe_run,
)


def test_rate_is_looked_for_where_none_is_given(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is the one that is told, the lowest that does nearly as well as the best; and looking leaves no trace."""
    caplog.set_level("INFO", "icl")
    with pytest.raises(CutError):
        train(describe_run(method="hificl", training={"learning_rate": None}), "a", cut_at(5))
    record = json.loads(Path("a/run.json").read_text())
    losses = {float(rate): loss for rate, loss in record["learning_rate"]["dev_losses"].items()}
    assert set(losses) >= {0.005, 0.016, 0.05}
    value = record["learning_rate"]["value"]
    untrained = untrained_loss()
    gains = {rate: untrained - loss for rate, loss in losses.items()}
    assert value == min(rate for rate, gain in gains.items() if gain >= 0.9 * max(gains.values()))
    assert f"learning rate {value:g}, by the loss of dev after 8 steps" in caplog.text
    caplog.clear()
    train(describe_run(method="hificl", training={"learning_rate": None}), "a")
    assert "learning rate" not in caplog.text, "found already"
    train(describe_run(method="hificl", training={"learning_rate": value}), "b")
    assert_same_adapter("a", "b")


def untrained_loss() -> float:
    """The loss of dev of HiFICL at its start, which does next to nothing: that of the base."""
    from icl import testbed
    from icl.prompts.collator import Collator
    from icl.training.settings import DemonstrationSettings
    from icl.training.splits import FileSplit

    model, processor = testbed.load()
    asked = FileSplit("dev.jsonl", DemonstrationSettings()).examples(0)
    with torch.no_grad():
        return float(model(**Collator(processor)([asked[i] for i in range(len(asked))])["student"]).loss)
