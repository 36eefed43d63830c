"""The tables of bench/methods.py: what stands in them is what the answers say."""

import csv
from pathlib import Path
from typing import Any

import methods
import pytest
from scipy import stats

from icl.demo.demo_plan import DemoJob, DemoPlan
from icl.testbed.trials import COMPARISONS

RIGHT = {"L2": [4, 3, 2], "geodesic": [7, 5, 3]}


def answers(job: DemoJob) -> list[bool]:
    """The first of 10 are right: as many as the loss has on this base."""
    count = RIGHT.get(job.name, [5, 4, 3])[job.seed]
    return [i < count for i in range(10)]


def left(plan: DemoPlan, out: Path, what: str) -> dict[DemoJob, dict[str, Any]]:
    outcome = {"parameters": 1234, "seconds": 2.0, "curve": []}
    trials = [job for job in plan.jobs() if job.kind in ("trial", "ablation")]
    return {job: {**outcome, "correct": answers(job)} for job in trials}


def test_gains_are_by_base() -> None:
    plan = methods.Comparisons("", trials=COMPARISONS, vectors=(), ablations=())
    rows = {(task, name): figures for task, name, *figures in methods.comparisons(left(plan, Path(), ""))}
    assert set(rows) == {(trial.task, trial.name) for trial in COMPARISONS}
    accuracy, gain, low, high = rows["options", "geodesic"]
    assert (accuracy, gain) == (pytest.approx(0.5), pytest.approx(0.2))
    wanted = stats.t.interval(0.95, 2, loc=0.2, scale=stats.sem([0.3, 0.2, 0.1]))
    assert (low, high) == pytest.approx(wanted)
    assert rows["unseen_classes", "L2"][1] == 0


def test_only_trials_are_compared() -> None:
    assert {job.kind for job in methods.Comparisons("", trials=COMPARISONS).jobs()} == {"trial"}


def test_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "measured", left)
    begin, end = "<!-- methods: generated, do not edit -->", "<!-- end of methods -->"
    pages = [tmp_path / "methods.md", tmp_path / "README.md"]
    for page in pages:
        page.write_text(f"before\n\n{begin}\nstale\n{end}\n\nafter\n")
    methods.main(tmp_path / "out", tmp_path, pages[1], quick=False)
    page, short = (page.read_text() for page in pages)
    for text in (page, short):
        assert text.startswith("before")
        assert text.endswith("after\n")
        assert "stale" not in text
        assert "| fixed_map | HiFICL, CE | 0.400 (0.15-0.65) | ≥ 0.97 | **no** | 1,234 | 2 |" in text
    assert "| options | geodesic | 0.500 | +0.200 (-0.048 to +0.448) |" in page
    assert "LoRA" in page
    assert "LoRA" not in short
    with (tmp_path / "methods.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["table"] for row in rows} == {"methods", "ablations", "losses"}
    kept = next(row for row in rows if row["table"] == "losses" and row["method"] == "geodesic")
    assert float(kept["gain"]) == pytest.approx(0.2)
