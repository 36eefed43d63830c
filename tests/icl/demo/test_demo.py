"""The demo: its plan is whole, it goes on where it was cut short, and its page says what was measured."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from scipy import stats
from typer.testing import CliRunner

from icl.cli.app import app
from icl.demo import page, tables, verdict
from icl.demo.demo_plan import FULL, QUICK, STANDARD, DemoJob, DemoPlan
from icl.demo.execution import group_jobs, run_plan
from icl.demo.jobs import read_result, result_file, write_result
from icl.demo.selection import STRATEGIES
from icl.testbed.trials import TRIALS, Trial

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
ONE_A_CLASS = next(trial for trial in TRIALS if trial.data == "one a class")
TINY = DemoPlan(
    "tiny", seeds=(1,), trials=(ONE_A_CLASS,), vectors=("Task vector",), vector_tasks=("fixed_map",), ablations=(),
    steps=12, shots=(4,), queries=40, rounds=1,
)  # fmt: skip


def invented(job: DemoJob) -> dict[str, Any]:
    """What the job could have left; ``right`` of 10 answers are right, more for a later seed."""
    size = 7 + job.seed
    correct = [True] * size + [False] * (10 - size)
    answers: dict[str, Any] = {"correct": correct, "parameters": 520, "seconds": 2.5, "curve": [[10, 2.0], [20, 0.5]]}
    shots, queries = job.subject if job.kind == "selection" else ((), 0)
    names = [name for name, _ in job.subject[1]] if job.kind == "latency" else []
    times = {name: {"ms": 8.0, "of_zero-shot": 1.25, "of_16-shot": 0.625} for name in ["zero-shot", "16-shot", *names]}
    heads = {"word": "apple", "attention": [[0.25, 0.75], [1.0, 0.0]]}
    picture = (
        "data:image/png;base64,"
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    )
    card = {"picture": picture, "label": "one"}
    left = {
        "selection": {
            "samples": [card] * 10,
            "query": card,
            "sheets": [{"strategy": name, "cards": [card] * 4} for name in STRATEGIES],
            "queries": queries,
            "right": {f"{name}/{k}": queries // 2 for name in STRATEGIES for k in shots},
            "lift": {"before": {"loss": 1.0}, "after": {"loss": 0.25}},
            "bank": {"rows": 1437, "dim": 16, "c": 0.5},
            "disk": {
                "points": [[0.5 * i, 0.3] for i in range(5)],
                "c": 0.5,
                "stress": 0.2,
                "explained": 0.8,
                "labels": ["one", "two", "one", "two", "query"],
                "names": [f"image {i}" for i in range(5)],
                "pictures": [picture] * 5,
                "edges": [[0, 4]],
                "stars": [4],
            },
        },
        "base": {"frozen": [False] * 10, "teacher": [True] * 10},
        "latency": {"rounds": 3, "methods": times},
        "attention": {
            "answer": "arrow",
            "heads": 2,
            "tokens": [{"word": "<image>", "picture": picture}, {"word": "is"}],
            "without": heads,
            "with": {**heads, "word": "arrow"},
        },
    }
    return {**left.get(job.kind, answers), "cpu_seconds": 1.5}


def written(plan: DemoPlan, folder: Path) -> str:
    return page.write_page(plan, {job: invented(job) for job in plan.jobs()}, folder).read_text(encoding="utf-8")


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


def test_jobs() -> None:
    for plan in (FULL, STANDARD, QUICK, TINY):
        jobs = plan.jobs()
        assert len({job.key for job in jobs}) == len(jobs)
        together = group_jobs(jobs)
        assert sorted(job.key for group in together for job in group) == sorted(job.key for job in jobs)
        assert all(len({(job.task, job.seed) for job in group}) == 1 for group in together)
    assert len(FULL.seeds) == 3
    # one base of three, and nothing else less
    assert replace(FULL, name=STANDARD.name, seeds=(1,)) == STANDARD
    job = next(job for job in FULL.jobs() if job.kind == "trial")
    assert job.fingerprint == replace(job, cost=1.0).fingerprint
    others = [replace(job, seed=2), replace(job, subject=replace(job.subject, steps=3)), replace(job, task="parity")]
    assert len({other.fingerprint for other in [job, *others]}) == 4


def test_results_of_another_job_do_not_count(tmp_path: Path) -> None:
    job = next(job for job in FULL.jobs() if job.kind == "trial")
    write_result(tmp_path, job, {"correct": [True]})
    assert read_result(tmp_path, job) == {"correct": [True]}
    assert read_result(tmp_path, replace(job, subject=replace(job.subject, learning_rate=1.0))) is None
    file = result_file(tmp_path, job)
    file.write_text(file.read_text()[:20])
    assert read_result(tmp_path, job) is None


def test_intervals() -> None:
    correct = [[True] * right + [False] * (10 - right) for right in (6, 7, 9)]
    row = tables.accuracy_of(correct)
    wanted = stats.t.interval(0.95, 2, loc=fmean([0.6, 0.7, 0.9]), scale=stats.sem([0.6, 0.7, 0.9]))
    assert (row["low"], row["high"]) == pytest.approx((wanted[0], min(1.0, wanted[1])))
    assert (row["seeds"], row["interval_of"]) == (3, "seeds")
    one = tables.accuracy_of(correct[:1])
    exact = stats.binomtest(6, 10).proportion_ci(method="wilson")
    assert (one["low"], one["high"], one["interval_of"]) == pytest.approx((exact.low, exact.high, "answers"))


def result(method: str, accuracy: float, low: float, high: float, **others: Any) -> tables.MethodRow:
    return tables.MethodRow("options", method, accuracy, low, high, 3, "seeds", **others)


def test_headline() -> None:
    """Yes where the best trained adapter is within the interval of 16 demonstrations; a vector is not trained."""
    bare, shots = result("zero-shot", 0.2, 0.1, 0.3, latency=1.0), result("16-shot", 0.95, 0.9, 1.0, latency=2.5)
    weak, strong = (
        result(name, a, 0, 1, parameters=8, latency=t) for name, a, t in (("A", 0.5, 1.1), ("B", 0.91, 1.2))
    )
    vector = result("Task vector", 0.99, 0, 1, parameters=0, latency=1.0)
    other = [replace(row, task="parity") for row in (bare, shots, replace(weak, latency=1.4))]
    unanswered = [replace(strong, task="many_to_one")]
    verdicts = verdict.judge_tasks([bare, shots, weak, strong, vector, *other, *unanswered])
    assert [(each.task, each.best.method, each.reached) for each in verdicts] == [
        ("options", "B", True),
        ("parity", "A", False),
    ]
    assert verdict.headline(verdicts) == (
        "16-shot quality without a demonstration in the prompt: yes on 1 of 2 tasks (not on parity). "
        "At 1.20 to 1.40 times the time of zero-shot, where 16 demonstrations take 2.50 times."
    )


def choice(strategy: str, shots: int, accuracy: float) -> tables.StrategyRow:
    return tables.StrategyRow(strategy, shots, accuracy, accuracy - 0.02, accuracy + 0.02, 3, "seeds")


def test_choice_in_words() -> None:
    rices = [choice("RICES", shots, 0.8) for shots in (1, 4, 8, 16)]
    level = [choice("hyperbolic", shots, accuracy) for shots, accuracy in ((1, 0.7), (4, 0.81), (8, 0.79), (16, 0.8))]
    assert verdict.compare_strategies([*rices, *level]) == (
        "The hyperbolic score is not better than RICES on this bank: it is worse with 1; "
        "neither better nor worse, within the intervals, with 4, 8 and 16 demonstrations."
    )
    ahead = [choice("hyperbolic", shots, 0.9) for shots in (1, 4, 8, 16)]
    assert verdict.compare_strategies([*rices, *ahead]) == (
        "Against RICES the hyperbolic score is better with 1, 4, 8 and 16 demonstrations."
    )


def test_page(tmp_path: Path) -> None:
    text = written(FULL, tmp_path)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text(encoding="utf-8"))))
    for line in lines:
        assert unescape(text).count(f"<td>{line['method']}</td>") >= 1
    judged = [line for line in lines if line["holds"]]
    assert text.count('<span class="yes">') == sum(line["holds"] == "True" for line in judged) > 0
    assert text.count('<span class="no">') == sum(line["holds"] == "False" for line in judged) > 0
    every = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in every["methods"]] == [line["method"] for line in lines]
    assert len(every["ablations"]) == len(FULL.ablations)
    # seeds 0, 1, 2 are right in 7, 8 and 9 of 10
    hyper = next(line for line in lines if line["method"] == "Hyper-ICL, CE")
    assert float(hyper["accuracy"]) == pytest.approx(0.8)


def test_page_of_a_cut_plan_judges_nothing(tmp_path: Path) -> None:
    text = written(QUICK, tmp_path)
    assert "nothing is judged" in text
    assert 'class="yes"' not in text
    assert 'class="no"' not in text
    assert f"{QUICK.steps} of 400 steps" in text


def test_page_of_one_base_leaves_marks_to_three(tmp_path: Path) -> None:
    text = written(STANDARD, tmp_path)
    assert "Marks are of three trainings: icl demo --full judges them." in text
    assert 'class="yes"' not in text
    assert len(json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["ablations"]) == len(FULL.ablations)


def test_names_are_no_markup(tmp_path: Path) -> None:
    hostile: Trial = replace(ONE_A_CLASS, name="</script><script>alert(1)</script>, CE")
    text = written(replace(TINY, trials=(hostile,)), tmp_path)
    assert "<script>alert(1)" not in text


def test_killed_and_run_again(tmp_path: Path) -> None:
    """Whole, in processes; stopped after the first results, it goes on with the others."""
    script = (
        "import signal\nfrom pathlib import Path\nfrom icl.demo.execution import run_plan\n"
        "from tests.icl.demo.test_demo import TINY\n"
        # which a job in the background has ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"if __name__ == '__main__':\n    run_plan(TINY, Path({str(tmp_path)!r}), lambda job, cost: None, 1)\n"
    )
    (tmp_path / "go.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        [sys.executable, tmp_path / "go.py"], env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    results = tmp_path / "results"
    try:
        deadline = time.monotonic() + 300
        while not list(results.glob("*.json")):
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        assert first.wait(60) != 0
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    before = {file: file.read_bytes() for file in results.glob("*.json")}
    jobs = TINY.jobs()
    assert 0 < len(before) < len(jobs)
    done: dict[str, float] = {}
    found = run_plan(TINY, tmp_path, lambda job, cost: done.update({job.key: done.get(job.key, 0.0) + cost}), 1)
    assert list(found) == jobs
    assert done == pytest.approx({job.key: job.cost for job in jobs})
    assert {file: file.read_bytes() for file in before} == before
    assert list(run_plan(TINY, tmp_path, lambda job, cost: None, 1)) == jobs  # nothing is left to do

    right = next(result["right"] for job, result in found.items() if job.kind == "selection")
    assert right["RICES/4"] > right["random/4"]
    assert right["hyperbolic/4"] > right["random/4"]
    row = {row.method: row for row in tables.method_rows(TINY, found)}
    assert row["zero-shot"].accuracy < 0.1 < 0.9 < row["16-shot"].accuracy
    assert row["HiFICL, CE, one a class"].holds is None
    assert "12 of 200 steps" in page.write_page(TINY, found, tmp_path).read_text(encoding="utf-8")
    assert (tmp_path / "banks" / "base" / "demonstrations" / "demonstrations.jsonl").exists()


@pytest.mark.parametrize(("options", "chosen"), [([], STANDARD), (["--full"], FULL), (["--quick"], QUICK)])
def test_command(options: list[str], chosen: DemoPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no bar can be drawn, each tenth is a line."""

    def invent(plan: DemoPlan, folder: Path, progress: Callable[[DemoJob, float], None]) -> dict[DemoJob, Any]:
        assert (plan, folder) == (chosen, tmp_path / chosen.name)
        for job in plan.jobs():
            for _ in range(7):  # sevenths add up to a little less
                progress(job, job.cost / 7)
        return {job: invented(job) for job in plan.jobs()}

    monkeypatch.setattr("icl.demo.execution.run_plan", invent)
    said = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), *options])
    assert said.exit_code == 0, said.output
    assert said.stdout == f"{tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").exists()
    tenths = [int(percent) for percent in re.findall(r"^(\d+) %, \w+: ", said.stderr, re.MULTILINE)]
    assert tenths == list(range(10, 101, 10))


def test_plans_exclude_each_other(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--full", "--quick"])
    assert said.exit_code == 2
    assert "exclude each other" in said.output


def test_help() -> None:
    said = CliRunner().invoke(app, ["demo", "--help"])
    assert said.exit_code == 0
    assert "Example: icl demo --quick" in " ".join(said.output.split())
