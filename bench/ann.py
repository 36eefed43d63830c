"""Recall and speed of the approximate index against exact search, in one run on one bank.

The bank is a hierarchy of concepts at radius 1 to 6 with demonstrations round them (harness/bank.py). Queries are drawn
like the rows and are not among them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated

import torch
import typer
from harness.bank import demonstrations
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table
from torch import Tensor

from icl.bank import AnchorBank, Hits
from icl.bank.search import approximate as ann

BATCH, BATCHES, K = 64, 9, 10


def bank_of(folder: Path, rows: int, dim: int, console: Console) -> tuple[AnchorBank, Tensor]:
    """A bank, and queries that are not in it."""
    pieces = demonstrations(rows + BATCH * BATCHES, dim)
    points = torch.cat(list(track(pieces, "points", total=-(-(rows + BATCH * BATCHES) // (1 << 14)), console=console)))
    bank, query = points[: -BATCH * BATCHES], points[-BATCH * BATCHES :]
    return AnchorBank.build(folder, {"point": bank}), query


def timed(search: Callable[[Tensor], Hits], query: Tensor) -> tuple[list[Hits], float]:
    """What each batch finds, and the median of their seconds, without the first, which opens files."""
    hits, seconds = [], []
    for batch in query.split(BATCH):
        start = perf_counter()
        hits.append(search(batch))
        seconds.append(perf_counter() - start)
    return hits, median(seconds[1:])


def main(
    rows: Annotated[int, typer.Option(help="Of the bank.")] = 1_000_000,
    dim: Annotated[int, typer.Option(help="Of the points.")] = 128,
    recall: Annotated[float, typer.Option(help="What the index is built for.")] = 0.95,
    threads: Annotated[int, typer.Option(help="For both searches.")] = 2,
) -> None:
    """Build a bank and its index, and compare.

    Example: python bench/ann.py --rows 100000
    """
    torch.set_num_threads(threads)
    console = Console()
    with TemporaryDirectory() as folder:
        bank, query = bank_of(Path(folder) / "bank", rows, dim, console)
        start = perf_counter()
        with Progress(console=console) as progress:
            task = progress.add_task("index", total=rows)
            record = ann.build_index(bank, recall, K, progress=lambda added: progress.advance(task, added))
        built = perf_counter() - start
        exact, slow = timed(lambda batch: bank.search(batch, K), query)
        hits, fast = timed(lambda batch: ann.search_index(bank, batch, K), query)
    hit = [(f.dist <= e.dist[:, -1:]).double() for f, e in zip(hits, exact)]
    title = f"{rows} rows, dim {dim}, batches of {BATCH}, k = {K}, {threads} threads"
    table = Table("", "exact", "index", title=title)
    share = torch.cat(hit).mean().item()
    table.add_row("recall@10", "1", f"{share:.4f} (promised {record.recall:.4f})")
    table.add_row("ms a batch, median", f"{1e3 * slow:.1f}", f"{1e3 * fast:.2f}")
    table.add_row("queries/s", f"{BATCH / slow:.0f}", f"{BATCH / fast:.0f}")
    table.add_row("times as fast", "1", f"{slow / fast:.1f}")
    table.add_row("build", "", f"{built:.0f} s, connectivity {record.connectivity}, expansion {record.expansion}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
