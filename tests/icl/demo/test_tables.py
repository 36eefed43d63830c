"""Tables have every row, and intervals are those of scipy."""

from statistics import fmean

import pytest
from scipy import stats

from icl.demo import tables
from icl.demo.demo_plan import FULL
from tests.icl.demos import invented

# What was promised of each method: task, name, the least accuracy (or, negative, the most).
PROMISED = [
    ("options", "Hyper-ICL, CE", 0.95),
    ("options", "zero-shot", -0.40),
    ("last_block", "Hyper-ICL, CE", 0.93),
    ("last_block", "zero-shot", -0.55),
    ("set_conflict", "Hyper-ICL, CE", 0.82),
    ("options", "Hyper-ICL, anchor and CE", 0.92),
    ("fixed_map", "Hyper-ICL, CE", -0.15),
    ("options", "rank 4 less rank 1", 0.10),
    ("fixed_map", "HiFICL, CE", 0.97),
    ("fixed_map", "zero-shot", -0.02),
    ("fixed_map", "HiFICL, CE, one a class", 0.95),
    ("last_block", "HiFICL, CE", 0.95),
    ("fixed_map", "HiFICL, anchor, no labels", 0.95),
    ("unseen_classes", "HiFICL, L2 and CE", 0.80),
    ("unseen_classes", "HiFICL, CE", -0.05),
    ("fixed_map", "MimIC, CE", 0.95),
    ("fixed_map", "MimIC, L2 and CE", 0.75),
    ("set_conflict", "Hyper-ICL and HiFICL, CE", 0.95),
]


def test_plan_has_every_row() -> None:
    rows = tables.method_rows(FULL, {job: invented(job) for job in FULL.jobs()})
    found = {(row.task, row.method): row for row in rows}
    assert len(found) == len(rows)
    for task, method, bound in PROMISED:
        row = found[task, method]
        assert row.mark == (f"≥ {bound:.2f}" if bound > 0 else f"≤ {-bound:.2f}")
        assert row.holds is (row.accuracy >= bound if bound > 0 else row.accuracy <= -bound)
    assert sum(row.mark is not None for row in rows) == len(PROMISED)
    beside = {row.method.partition(",")[0] for row in rows if row.mark is None}
    assert {"16-shot", "LIVE", "LoRA", "Task vector", "Function vector", "In-context vector"} <= beside
    assert {(row.task, "16-shot") for row in rows} <= set(found)


def test_ablations_are_those_of_the_methods() -> None:
    variants = tables.ablation_rows(FULL, {job: invented(job) for job in FULL.jobs()})
    groups: dict[str, set[str]] = {}
    for row in variants:
        groups.setdefault(f"{row.method} {row.group}", set()).add(row.variant)
    assert groups["Hyper-ICL loss"] == {"CE alone", "L2 and CE", "anchor alone", "anchor and CE"}
    assert groups["Hyper-ICL rank"] == {"1", "2", "4", "8"}
    assert groups["Hyper-ICL gate"] == {"layer", "head", "token"}
    assert groups["Hyper-ICL curvature"] == {"0.01", "0.1", "1"}
    assert groups["Hyper-ICL teacher's shots"] == {"4", "8", "16"}
    assert groups["Hyper-ICL corrects"] == {"scores", "output"}
    assert groups["HiFICL start"] == {"paper", "identity"}
    assert len({tuple(sorted(names)) for names in groups.values()}) == len(groups)


def test_intervals() -> None:
    correct = [[True] * right + [False] * (10 - right) for right in (6, 7, 9)]
    row = tables.accuracy_of(correct)
    wanted = stats.t.interval(0.95, 2, loc=fmean([0.6, 0.7, 0.9]), scale=stats.sem([0.6, 0.7, 0.9]))
    assert (row["low"], row["high"]) == pytest.approx((wanted[0], min(1.0, wanted[1])))
    assert (row["seeds"], row["interval_of"]) == (3, "seeds")
    one = tables.accuracy_of(correct[:1])
    exact = stats.binomtest(6, 10).proportion_ci(method="wilson")
    assert (one["low"], one["high"], one["interval_of"]) == pytest.approx((exact.low, exact.high, "answers"))
