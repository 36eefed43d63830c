"""The rows that are made of measurements."""

import csv
import io
import math
from pathlib import Path

import pytest

from icl.evaluation.measurement import Cost, Distances
from icl.evaluation.metrics.scoring import MetricScore
from icl.evaluation.result_tables import markdown_tables
from icl.evaluation.results import Results
from tests.icl.measurements import make_measurement, print_tables


def test_intervals_are_for_seeds_where_there_are_some_else_for_examples(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    for seed, right in enumerate(([1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0])):
        results.add(make_measurement("several", seed, *right, train_seconds=10.0 * seed))
    results.add(make_measurement("right or wrong", 0, *[1.0] * 10))
    results.add(make_measurement("shares", 0, 0.3, 0.6, 0.9))
    several, binary, shares = Results(tmp_path / "results.json").rows()
    half = 4.302653 * 0.25 / math.sqrt(3)  # Student's t of two degrees of freedom
    assert (several["exact"], several["interval_of"], several["seeds"]) == (0.75, "seeds", 3)
    assert several["train_seconds"] == 10
    assert several["exact_low"] == pytest.approx(0.75 - half)
    assert several["exact_high"] == pytest.approx(0.75 + half)
    z2 = 1.959964**2
    assert (binary["interval_of"], binary["exact_high"]) == ("examples", 1)
    assert binary["exact_low"] == pytest.approx(10 / (10 + z2))  # Wilson's, where all are right
    assert shares["exact_low"] == pytest.approx(0.6 - 4.302653 * 0.3 / math.sqrt(3))


def test_cost_is_compared_with_the_most_demonstrations() -> None:
    results = Results()
    results.add(make_measurement("zero-shot", 0, 0.0))
    results.add(make_measurement("k-shot", 0, 1.0, shots=4, strategy="random", prefill=4.0))
    results.add(make_measurement("k-shot", 0, 1.0, shots=16, strategy="random", prefill=8.0))
    results.add(make_measurement("adapter", 0, 1.0, prefill=1.2, parameters=2312))
    assert [row["prefill_of_k_shot"] for row in results.rows()] == [1 / 8, 4 / 8, 1, pytest.approx(0.15)]
    lines = list(csv.DictReader(io.StringIO(results.csv())))
    assert [line["method"] for line in lines] == ["zero-shot", "k-shot", "k-shot", "adapter"]
    assert lines[3]["prefill_of_zero_shot"] == "1.2"
    assert "| adapter | 0 | 2,312 |" in markdown_tables(results.rows())
    assert "peak MB" not in markdown_tables(results.rows())  # what is nowhere known has no column


def test_rows_of_two_models_are_apart() -> None:
    """Ratios are within a model; other weights under the same name are another."""
    results = Results()
    for model, base, prefill in (("small", "1", 2.0), ("large", "2", 8.0), ("large", "3", 4.0)):
        results.add(make_measurement("zero-shot", 0, 0.0, model=model, base=base))
        results.add(
            make_measurement("k-shot", 0, 1.0, model=model, base=base, shots=4, strategy="random", prefill=prefill)
        )
        results.add(make_measurement("adapter", 0, 1.0, model=model, base=base, prefill=1.0))
    rows = results.rows()
    assert [row["model"] for row in rows] == ["small"] * 3 + ["large (2)"] * 3 + ["large (3)"] * 3
    assert [row["prefill_of_k_shot"] for row in rows] == [0.5, 1, 0.5, 0.125, 1, 0.125, 0.25, 1, 0.25]
    assert "| large (3) | task | k-shot |" in markdown_tables(rows)
    assert "large (2)" in print_tables(rows, 120)


def test_milliseconds_agree_with_ratios_whatever_the_load() -> None:
    """The machine was three times as slow when zero-shot was measured."""
    results = Results()
    results.add(make_measurement("zero-shot", 0, 0.0, zero_ms=30.0))
    results.add(make_measurement("k-shot", 0, 1.0, shots=4, strategy="random", zero_ms=10.0, prefill=2.0))
    results.add(make_measurement("adapter", 0, 1.0, zero_ms=11.0, prefill=1.1))
    zero, *others = results.rows()
    assert zero["prefill_ms"] == 11
    assert [row["prefill_ms"] / zero["prefill_ms"] for row in others] == [2, pytest.approx(1.1)]
    assert [row["prefill_of_zero_shot"] for row in others] == [2, 1.1]


def test_seed_that_decides_nothing_is_no_seed() -> None:
    results = Results()
    for seed in range(3):
        results.add(make_measurement("zero-shot", seed, 1.0, 0.0, choice="the same"))
    (row,) = results.rows()
    assert (row["seeds"], row["interval_of"]) == (1, "examples")


def test_seeds_measured_with_other_settings_are_not_averaged() -> None:
    results = Results()
    results.add(make_measurement("k-shot", 0, 0.0, settings={"prompt": "a"}))
    results.add(make_measurement("k-shot", 1, 0.0, settings={"prompt": "a"}))
    results.add(make_measurement("adapter", 0, 0.0, settings={"prompt": "a"}))
    results.add(make_measurement("k-shot", 0, 1.0, settings={"prompt": "b"}, choice="b"))
    rows = {row["method"]: row for row in results.rows()}
    assert (rows["k-shot"]["exact"], rows["k-shot"]["seeds"], rows["k-shot"]["test_reads"]) == (1, 1, 2)
    assert rows["adapter"]["note"] == "other prompt than rows measured later"
    assert rows["adapter"]["prefill_of_k_shot"] is None
    # the earlier choice again counts as the last
    results.add(make_measurement("k-shot", 0, 0.0, settings={"prompt": "a"}))
    rows = {row["method"]: row for row in results.rows()}
    assert (rows["k-shot"]["exact"], rows["k-shot"]["seeds"], rows["adapter"]["note"]) == (0, 2, None)


def test_distances_from_another_teacher_are_not_shown() -> None:
    results = Results()
    results.add(make_measurement("adapter", 0, 0.0, distances=Distances(1.0, 1.0, 1.0, "4 shots")))
    results.add(make_measurement("zero-shot", 0, 0.0, distances=Distances(2.0, 2.0, 2.0, "8 shots")))
    assert [row["geodesic"] for row in results.rows()] == [2, None]


def test_metric_that_only_some_seeds_have_is_no_mean() -> None:
    results = Results()
    results.add(make_measurement("a", 0, 1.0))
    results.add(make_measurement("a", 1, 0.0, scores={"vqa": MetricScore(0.5, (0.5,))}))
    (row,) = results.rows()
    assert (row["exact"], row["vqa"], row["seeds"]) == (None, 0.5, 1)


def test_times_that_load_has_swallowed_are_unknown() -> None:
    results = Results()
    results.add(make_measurement("zero-shot", 0, 0.0))
    swallowed = Cost(10, 2.0, -0.5, 2.0, 1.0, 1, 1, 1, None)
    results.add(make_measurement("adapter", 0, 0.0, cost=swallowed))
    assert [row["decode_of_zero_shot"] for row in results.rows()] == [1, None]
