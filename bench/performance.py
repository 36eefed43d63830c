"""Measures how fast the kernels are and what memory they take, and writes docs/performance.md, .csv and .png.

Each file beside this one that measures an op runs under pytest in a process of its own, so that its memory is not
hidden by what others have left; this gathers their rows and makes the page.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from harness import evidence, readme, table
from harness.report import findings, render, verdict
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).parent
OPS = ("pairwise_dist", "nearest", "contrastive_loss", "rowwise", "dist_exp0", "overhead")


def measure(ops: list[str], path: Path, quick: bool, console: Console) -> bool:
    """Whether all went well; the rows are in ``path``."""
    well = True
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        # Where memory means nothing, one process is enough.
        for batch in [ops] if quick else [[op] for op in ops]:
            task = progress.add_task(", ".join(batch), total=None)
            files = [str(HERE / f"{op}.py") for op in batch]
            command = [sys.executable, "-u", "-m", "pytest", "-v", *files, "--csv", str(path), *["--quick"] * quick]
            output = []
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    output.append(line)
                    if found := re.search(r"collected (\d+) items", line):
                        progress.update(task, total=int(found[1]))
                    elif line.startswith("not installed"):
                        console.print(line.strip())
                    elif " PASSED " in line:
                        progress.advance(task)
            if process.returncode:
                well = False
                console.out(*output, sep="", highlight=False)
    return well


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"An op: {', '.join(OPS)}. May be repeated.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes; wants --out.")] = False,
    render_only: Annotated[bool, typer.Option("--render-only", help="Measure nothing: page and figure.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.", show_default="docs")] = None,
) -> None:
    """Measure all ops, or some, whose rows then take the place of theirs in the table. Exit with 1 if one fails.

    Example: python bench/performance.py --quick --out /tmp/performance
    """
    if unknown := set(only or ()) - set(OPS):
        raise typer.BadParameter(f"--only must be of {', '.join(OPS)}, got {', '.join(sorted(unknown))}")
    if quick and not out:
        raise typer.BadParameter("--quick is not for docs; name a folder by --out")
    out = out or HERE.parent / "docs"
    out.mkdir(parents=True, exist_ok=True)
    final, console, well = out / "performance.csv", Console(), True
    if not render_only:
        # The old rows stay until all new ones are there.
        with TemporaryDirectory() as folder:
            path = Path(folder) / final.name
            if only and final.exists():
                shutil.copy(final, path)
            well = measure(only or list(OPS), path, quick, console)
            if well:
                shutil.copy(path, final)
    if not well:
        console.print("[red]a benchmark failed; nothing written[/]")
        raise typer.Exit(1)
    rows = table.read(final)
    render(rows, out, "python bench/performance.py" + " --quick" * quick)
    if out == HERE.parent / "docs":
        evidence.put(HERE.parent / "README.md", "speed", readme.speed(rows, "python bench/performance.py"))
    summary = Table("what", "measured", "target", "met", "worst", box=None)
    for finding in findings(rows):
        summary.add_row(*verdict(finding))
    Console(width=150).print(summary)


if __name__ == "__main__":
    typer.run(main)
