"""What each method can and cannot do, on three bases of the testbed.

Writes docs/methods.csv, and blocks of docs/methods.md and README.md. The trials and ablations are those of the demo,
run in the same way, and there is one more question: whether it matters that the distance of states is hyperbolic.
There the same two adapters are trained with one loss after another, at budgets that leave something to win.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from harness import evidence
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from icl.demo import FULL, QUICK, DemoJob, run_plan, tables
from icl.demo.demo_plan import DemoPlan
from icl.evaluation import mean_interval
from icl.testbed.trials import COMPARISONS

DOCS = Path(__file__).parent.parent / "docs"
README = DOCS.parent / "README.md"
BASELINE, NO_TEACHER = "L2", "no teacher"


class Comparisons(DemoPlan):
    """The trials alone."""

    def _list_jobs(self) -> Iterator[DemoJob]:
        return (job for job in super()._list_jobs() if job.kind == "trial")


def measured(plan: DemoPlan, out: Path, what: str) -> dict[DemoJob, dict[str, Any]]:
    """Run a plan and return its results."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[now]}"))
    with Progress(*columns) as progress:
        bar = progress.add_task(what, total=sum(job.cost for job in plan.jobs()), now="")
        return run_plan(plan, out, lambda job, cost: progress.update(bar, advance=cost, now=f"{job.name} {job.task}"))


def percent(low: float, high: float) -> str:
    """Return an interval as text."""
    return f"({low:.2f}-{high:.2f})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def methods(rows: Sequence[tables.MethodRow]) -> str:
    """Return the table of the methods."""
    told = {True: "yes", False: "**no**", None: ""}
    return markdown(
        ("task", "method", "accuracy", "mark", "holds", "parameters", "seconds", "of 0-shot", "of 16-shot"),
        [
            (
                row.task,
                row.method,
                f"{row.accuracy:.3f} {percent(row.low, row.high)}",
                row.mark or "",
                told[row.holds],
                "" if row.parameters is None else f"{row.parameters:,}",
                "" if row.seconds is None else f"{row.seconds:.0f}",
                "" if row.latency is None else f"{row.latency:.2f}",
                "" if row.latency_16 is None else f"{row.latency_16:.2f}",
            )
            for row in rows
        ],
    )


def ablations(rows: Sequence[tables.AblationRow]) -> str:
    """Return the table of ablations."""
    return markdown(
        ("method", "task", "what", "variant", "accuracy", "parameters", "steps"),
        [
            (
                row.method,
                row.task,
                row.group,
                row.variant,
                f"{row.accuracy:.3f} {percent(row.low, row.high)}",
                f"{row.parameters:,}",
                str(row.steps),
            )
            for row in rows
        ],
    )


def comparisons(results: Mapping[DemoJob, Mapping[str, Any]]) -> list[tuple[str, str, float, float, float, float]]:
    """Task, loss, accuracy, and what it has over the L2 loss with bounds, base by base."""
    answers: dict[tuple[str, str], dict[int, Sequence[bool]]] = {}
    for job, result in results.items():
        answers.setdefault((job.task, job.name), {})[job.seed] = result["correct"]
    rows = []
    for (task, name), by_seed in answers.items():
        baseline = answers[task, BASELINE]
        gains = [fmean(own) - fmean(baseline[seed]) for seed, own in by_seed.items()]
        accuracy = fmean(fmean(own) for own in by_seed.values())
        rows.append((task, name, accuracy, fmean(gains), *mean_interval(gains)))
    return rows


def compared(rows: Sequence[tuple[str, str, float, float, float, float]]) -> str:
    """Return the table of losses."""
    return markdown(
        ("task", "loss", "accuracy", "less that of L2"),
        [
            (task, name, f"{accuracy:.3f}", "" if name == BASELINE else f"{gain:+.3f} ({low:+.3f} to {high:+.3f})")
            for task, name, accuracy, gain, low, high in rows
        ],
    )


def write_csv(
    file: Path, rows: Sequence[tables.MethodRow], variants: Sequence[tables.AblationRow], losses: Sequence[Any]
) -> None:
    """Write methods.csv."""
    names = [
        "table",
        *dict.fromkeys(f.name for kind in (tables.MethodRow, tables.AblationRow) for f in fields(kind)),
        "gain",
    ]
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, names, restval="")
        writer.writeheader()
        writer.writerows({"table": "methods", **asdict(row)} for row in rows)
        writer.writerows({"table": "ablations", **asdict(row)} for row in variants)
        for task, name, accuracy, gain, low, high in losses:
            row = {"task": task, "method": name, "accuracy": accuracy, "gain": gain, "low": low, "high": high}
            writer.writerow({"table": "losses", **row})


def main(
    out: Annotated[Path, typer.Option(help="Of results: run again, it goes on there.")] = Path("out/methods"),
    docs: Annotated[Path, typer.Option(help="Folder of methods.md and methods.csv.")] = DOCS,
    readme: Annotated[Path, typer.Option(help="Page with the short table.")] = README,
    quick: Annotated[bool, typer.Option("--quick", help="Two steps of a few; wants --docs and --readme.")] = False,
) -> None:
    """Run all trials on all bases, some ten minutes on two cores, and write the tables.

    Example: python bench/methods.py --out out/methods
    """
    if quick and (docs == DOCS or readme == README):
        raise typer.BadParameter("--quick wants --docs and --readme: its figures are no measurement")
    plan, losses = FULL, Comparisons("comparisons", trials=COMPARISONS, vectors=(), ablations=())
    if quick:
        plan = replace(QUICK, seeds=(1, 2), trials=FULL.trials[::6], vectors=FULL.vectors[:1], queries=24, steps=2)
        losses = replace(losses, seeds=(1, 2), trials=COMPARISONS[:4], steps=2)
    results = measured(plan, out, "methods")
    rows, variants = tables.method_rows(plan, results), tables.ablation_rows(plan, results)
    gains = comparisons(measured(losses, out, "losses"))
    write_csv(docs / "methods.csv", rows, variants, gains)
    page = [
        "Accuracy is the mean over three bases on 240 test images each, with the interval of 95 % over the bases "
        "(Student's t); seconds are those of training on one thread.",
        methods(rows),
        "## Ablations",
        "One thing changed at a time, at budgets where differences show, on one base; intervals are Wilson's over its "
        "answers.",
        ablations(variants),
        "## Does geometry matter?",
        "HiFICL on `unseen_classes` and Hyper-ICL on `options`, 150 steps on 200 queries, with one loss after another "
        "beside the cross-entropy; the last column is a mean over bases, with its interval.",
        compared(gains),
    ]
    made = "Made by `python bench/methods.py`."
    evidence.put(docs / "methods.md", "methods", [made, "", "\n\n".join(page), ""])
    short = [row for row in rows if row.mark or row.method in ("zero-shot", "16-shot")]
    evidence.put(readme, "methods", ["", methods(short), "", made, ""])
    Console().print(f"{docs / 'methods.md'} and {readme} are written.")


if __name__ == "__main__":
    typer.run(main)
