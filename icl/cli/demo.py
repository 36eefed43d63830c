"""``icl demo``: everything on the testbed, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from icl.common.console import ProgressBar, interruptible

if TYPE_CHECKING:
    from icl.demo import DemoJob


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the report and of all that is made for it.")] = Path("out/demo"),
    full: Annotated[bool, typer.Option("--full", help="Three trainings of the model, and marks judged.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Less of everything, and training cut short.")] = False,
) -> None:
    """Build a bank, choose demonstrations, train every adapter, and write report.html.

    Needs no network and no GPU. Some two minutes on two cores; with --full about five. Run again after an interruption,
    it goes on where it was.
    """
    if full and quick:
        raise typer.BadParameter("--full and --quick exclude each other")
    from icl.demo import FULL, QUICK, STANDARD, run_plan, write_page

    plan = FULL if full else QUICK if quick else STANDARD
    columns = TextColumn("{task.fields[activity]}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with (
        interruptible("run the same command again, it goes on there"),
        ProgressBar(*columns, TimeRemainingColumn()) as bar,
    ):
        task = bar.add_task("", total=sum(job.cost for job in plan.jobs()), activity="starting")

        def advance(job: DemoJob, cost: float) -> None:
            bar.update(task, advance=cost, activity=f"{job.kind}: {job.name} {job.task}"[:48].ljust(48))

        results = run_plan(plan, out / plan.name, advance)
    print(write_page(plan, results, out))
