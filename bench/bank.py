"""What a bank costs: opening it in a new process, searching it against the bare kernel, appending to it.

A bank of a million demonstrations is made in a temporary folder; all is measured on it in one run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from hyperbolic import pairwise
from icl.bank import AnchorBank

QUERIES, K, ROUNDS = 64, 16, 9

OPEN = """
import sys
from pathlib import Path
from time import perf_counter

import torch
from icl.bank.anchor_bank import AnchorBank

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

before, start = resident(), perf_counter()
bank = AnchorBank.open(sys.argv[1])
bank.vectors()
print(perf_counter() - start, resident() - before, resident())
"""


def rows_of(points: torch.Tensor, name: str) -> dict[str, object]:
    """Return columns of a bank with these points."""
    ids = [f"{name} {i}" for i in range(len(points))]
    return {"id": ids, "task": [("vqa", "ocr")[i % 2] for i in range(len(points))], "point": points}


def main(
    rows: Annotated[int, typer.Option(help="Of the bank.")] = 1_000_000,
    dim: Annotated[int, typer.Option(help="Of the points.")] = 256,
    appended: Annotated[int, typer.Option(help="Rows of an append.")] = 10_000,
) -> None:
    """Build a bank, and time what its users wait for.

    Example: python bench/bank.py --rows 100000
    """
    console = Console()
    generator = torch.Generator().manual_seed(0)
    table = Table("what", "measured", title=f"{rows} x {dim} rows, {QUERIES} queries, k = {K}")
    with TemporaryDirectory() as folder:
        start = perf_counter()
        with Progress(console=console) as progress:
            task = progress.add_task("build", total=rows)
            points = torch.randn(rows, dim, generator=generator) / 10
            advance = lambda done: progress.advance(task, done)  # noqa: E731
            bank = AnchorBank.build(Path(folder) / "bank", rows_of(points, "demo"), progress=advance)
        table.add_row("build", f"{perf_counter() - start:.1f} s")
        command = [sys.executable, "-c", OPEN, str(bank.folder)]
        seconds, grown, whole = map(float, subprocess.run(command, capture_output=True, check=True).stdout.split())
        table.add_row(
            "open, in a new process", f"{seconds:.3f} s, {grown:.0f} MB more than its imports ({whole:.0f} MB)"
        )
        query = torch.randn(QUERIES, dim, generator=generator) / 10
        bare, searched = [], []
        for _ in range(ROUNDS):
            start = perf_counter()
            pairwise.nearest(query, points, K)
            bare.append(perf_counter() - start)
            start = perf_counter()
            bank.search(query, K)
            searched.append(perf_counter() - start)
        ratio = median(searched) / median(bare)
        table.add_row("search", f"{1e3 * median(searched):.0f} ms, {ratio:.2f} x nearest on the tensor in memory")
        more = torch.randn(appended, dim, generator=generator) / 10
        start = perf_counter()
        bank.append(rows_of(more, "more"))
        table.add_row(f"append of {appended}", f"{perf_counter() - start:.2f} s")
        start = perf_counter()
        bank.search(query, K)
        table.add_row("search after it", f"{1e3 * (perf_counter() - start):.0f} ms, once")
        start = perf_counter()
        bank.search(query, K, where="task = 'vqa'")
        table.add_row("search of the half that a condition leaves", f"{perf_counter() - start:.2f} s")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
