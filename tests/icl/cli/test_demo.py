"""``icl demo``: its plans, progress and help."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from icl.cli.app import app
from icl.demo.demo_plan import FULL, QUICK, STANDARD, DemoJob, DemoPlan
from tests.icl.demos import invented


@pytest.mark.parametrize(("options", "chosen"), [([], STANDARD), (["--full"], FULL), (["--quick"], QUICK)])
def test_command(options: list[str], chosen: DemoPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no bar can be drawn, each tenth is a line."""

    def invent(plan: DemoPlan, folder: Path, progress: Callable[[DemoJob, float], None]) -> dict[DemoJob, Any]:
        assert (plan, folder) == (chosen, tmp_path / chosen.name)
        for job in plan.jobs():
            for _ in range(7):  # sevenths add up to a little less
                progress(job, job.cost / 7)
        return {job: invented(job) for job in plan.jobs()}

    monkeypatch.setattr("icl.demo.run_plan", invent)
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
