"""The demo goes on where it was cut short."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icl.demo import page, tables
from icl.demo.demo_plan import FULL, QUICK, STANDARD, DemoPlan
from icl.demo.execution import group_jobs, run_plan
from tests.icl.demos import TINY


@pytest.mark.parametrize("plan", [FULL, STANDARD, QUICK, TINY], ids=lambda plan: plan.name)
def test_groups_share_a_task_and_a_base(plan: DemoPlan) -> None:
    jobs = plan.jobs()
    groups = group_jobs(jobs)
    assert sorted(job.key for group in groups for job in group) == sorted(job.key for job in jobs)
    assert all(len({(job.task, job.seed) for job in group}) == 1 for group in groups)


def test_killed_and_run_again(tmp_path: Path) -> None:
    """Whole, in processes; stopped after the first results, it goes on with the others."""
    script = (
        "import signal\nfrom pathlib import Path\nfrom icl.demo.execution import run_plan\n"
        "from tests.icl.demos import TINY\n"
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
