"""What a billion demonstrations would take: recall against probed cells, measured, and a cost model fed by one shard.

Simulates the cells of docs/scaling.md on one machine, on a bank of harness/bank.py. A search that probes p cells and
ranks their rows exactly finds a neighbour exactly if its cell is among the p, so one pass gives the recall for every p.
Writes scaling.csv, scaling.png and the generated part of scaling.md. The recalls are the same on every run.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, NamedTuple

import faiss
import numpy as np
import torch
import typer
from harness.bank import demonstrations
from harness.table import environment
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from torch import Tensor

from hyperbolic import pairwise
from icl.bank import AnchorBank
from icl.bank.search import lorentz_kmeans

LORENTZ, EUCLIDEAN, INNER, RAW = (
    "Lorentz k-means",
    "Euclidean k-means",
    "inner-product IVF, ranked exactly",
    "inner-product IVF",
)
# The colours of Okabe and Ito, told apart with any colour vision.
COLORS = {LORENTZ: "#0072B2", EUCLIDEAN: "#009E73", INNER: "#D55E00", RAW: "#CC79A7"}
K, CELLS, QUERIES, BATCH = 10, 128, 512, 64
# A machine of the model, what of its memory holds points, and the bank.
GIB, CORES, SHARE, BILLION = 256, 32, 0.75, 1_000_000_000
BEGIN, END = "<!-- begin: bench/scaling.py -->", "<!-- end: bench/scaling.py -->"


class Shard(NamedTuple):
    """What was measured on one bank."""

    rows: int
    dim: int
    threads: int
    built: float
    """Rows a second: checked, written to Lance and copied for the search."""
    disk: float
    """Bytes a row."""
    batched: float
    """Pairs of query and row a second, in batches."""
    single: float
    """And for one query at a time."""
    assigned: float
    """Rows a second that find their cell."""


class Point(NamedTuple):
    """Of a curve: what a number of probed cells finds, and what share of all rows it ranks."""

    recall: float
    ranked: float


Cells = tuple[Tensor, Tensor]
"""The cell of each row, (rows,), and the turn of each cell in the search for each query, from 1, (queries, cells)."""


def by_lorentz(points: Tensor, query: Tensor, seed: int) -> Cells:
    """Return the cells of a Lorentz k-means."""
    centroids = lorentz_kmeans.kmeans(points, CELLS, seed=seed)
    every = torch.arange(CELLS).expand(len(query), -1)
    return lorentz_kmeans.assign(points, centroids), lorentz_kmeans.probes(query, every, centroids)


def by_faiss(quantizer: faiss.Index, bank: np.ndarray, asked: np.ndarray) -> Cells:
    """Return the cells of a quantizer of faiss."""
    order = torch.from_numpy(quantizer.search(asked, CELLS)[1])
    return torch.from_numpy(quantizer.search(bank, 1)[1][:, 0]), order.argsort(1) + 1


def by_distance(points: Tensor, query: Tensor, seed: int) -> Cells:
    """Return the cells of a Euclidean k-means."""
    kmeans = faiss.Kmeans(points.shape[1], CELLS, seed=seed)
    kmeans.train(points.numpy())
    return by_faiss(kmeans.index, points.numpy(), query.numpy())


def by_inner_product(points: Tensor, query: Tensor, probed: list[int], seed: int) -> tuple[Cells, dict[int, Tensor]]:
    """Of FAISS on ambient coordinates (x, x0), whose inner product with (y, -y0) is Lorentz's: the largest is nearest.

    And what the index itself finds for every number of probed cells.
    """
    time, query_time = ((1 + x.square().sum(1, keepdim=True)).sqrt() for x in (points, query))
    bank, asked = torch.cat([points, time], 1).numpy(), torch.cat([query, -query_time], 1).numpy()
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(bank.shape[1]), bank.shape[1], CELLS, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed
    index.train(bank)
    index.add(bank)
    found = {}
    for p in probed:
        index.nprobe = p
        found[p] = torch.from_numpy(index.search(asked, K)[1])
    return by_faiss(index.quantizer, bank, asked), found


def recalls(points: Tensor, query: Tensor, probed: list[int], seed: int = 0) -> dict[str, list[Point]]:
    """Of the K nearest, the share that is found with each number of probed cells."""
    truth = pairwise.nearest(query, points, K).indices
    inner, found = by_inner_product(points, query, probed, seed)
    curves = {}
    for name, (cell, turn) in {
        LORENTZ: by_lorentz(points, query, seed),
        EUCLIDEAN: by_distance(points, query, seed),
        INNER: inner,
    }.items():
        needed, size = turn.gather(1, cell[truth]), torch.bincount(cell, minlength=CELLS) / len(points)
        curves[name] = [
            Point((needed <= p).double().mean().item(), ((turn <= p) * size).sum(1).mean().item()) for p in probed
        ]
    hits = [(found[p][:, :, None] == truth[:, None, :]).any(1).double().mean().item() for p in probed]
    return curves | {RAW: [Point(hit, curve.ranked) for hit, curve in zip(hits, curves[INNER])]}


def seconds(call: Callable[[], object], calls: int) -> float:
    """Return the median time of some calls."""
    times = []
    for _ in range(calls):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return median(times)


def shard(points: Tensor, query: Tensor, threads: int) -> Shard:
    """Measure one shard on this machine."""
    rows, dim = points.shape
    with TemporaryDirectory() as folder:
        start = perf_counter()
        bank = AnchorBank.build(Path(folder) / "bank", {"point": points})
        built = perf_counter() - start
        disk = sum(path.stat().st_size for path in bank.folder.rglob("*") if path.is_file())
        bank.search(query[:BATCH], K)
        batched = seconds(lambda: bank.search(query[:BATCH], K), 5)
        single = seconds(lambda: bank.search(query[:1], K), 9)
    centroids = lorentz_kmeans.kmeans(points, CELLS, iterations=1)
    some = points[: 1 << 17]
    assigned = seconds(lambda: lorentz_kmeans.assign(some, centroids), 3)
    return Shard(
        rows, dim, threads, rows / built, disk / rows, BATCH * rows / batched, rows / single, len(some) / assigned
    )


def model(one: Shard, p: int, point: Point) -> list[str]:
    """A billion rows in CELLS cells, p of them probed by every query, on machines that hold all points in memory."""
    machines = math.ceil(BILLION * one.dim * 4 / (GIB * SHARE * 2**30))
    scanned = BILLION * point.ranked
    # p cells lie on as many machines, as far as there are; a core is as fast as here
    alone = scanned / (one.single / one.threads * CORES * min(machines, p))
    throughput = one.batched / one.threads * CORES * machines / scanned
    return [str(p), f"{point.recall:.3f}", f"{scanned:.3g}", f"{alone:.2g}", f"{throughput:.3g}"]


def page(curves: dict[str, list[Point]], probed: list[int], one: Shard, command: str) -> list[str]:
    """Return the lines of scaling.md."""

    def table(header: list[str], body: list[list[str]]) -> list[str]:
        return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body)] + [""]

    told = ", ".join(f"{name} {value}" for name, value in environment("").items() if value)
    machines = math.ceil(BILLION * one.dim * 4 / (GIB * SHARE * 2**30))
    lines = [BEGIN, f"Generated by `{command}`; {told}. {one.rows:,} rows, dim {one.dim}.", ""]
    lines += [
        f"Recall at {K} of {QUERIES} queries against the cells probed out of {CELLS}, and the share of rows ranked:",
        "",
    ]
    shares = [
        [str(p), *(f"{curve[i].recall:.3f}, {curve[i].ranked:.1%}" for curve in curves.values())]
        for i, p in enumerate(probed)
    ]
    lines += table(["cells probed", *curves], shares)
    lines += ["![Recall against probed cells](scaling.png)", "", "One shard, measured:", ""]
    lines += table(
        ["what", "figure"],
        [
            ["build, rows a second", f"{one.built:.3g}"],
            ["on disk, bytes a row (Lance and the copy that is searched)", f"{one.disk:.0f}"],
            ["in memory, bytes a row", f"{4 * one.dim}"],
            [f"search in batches of {BATCH}, pairs a second, {one.threads} threads", f"{one.batched:.3g}"],
            [f"search, one query at a time, pairs a second, {one.threads} threads", f"{one.single:.3g}"],
            [f"finding the cell out of {CELLS}, rows a second", f"{one.assigned:.3g}"],
        ],
    )
    hours = BILLION / (one.built / one.threads * CORES * machines) / 3600
    lines += [
        f"The model: {BILLION:.0e} rows in {CELLS} cells, on machines with {CORES} cores and {GIB} GiB, of which"
        f" {SHARE:.0%} holds points. {machines} machines, {BILLION * one.dim * 4 / 1e12:.2g} TB in memory,"
        f" {BILLION * one.disk / 1e12:.2g} TB on disk, built in {hours:.2g} hours.",
        "",
    ]
    header = ["cells probed", "recall", "rows ranked", "seconds of a query alone", "queries/s in batches"]
    lines += table(header, [model(one, p, r) for p, r in zip(probed, curves[LORENTZ])])
    return [*lines, END]


def draw(curves: dict[str, list[Point]]) -> Figure:
    """Draw recall against the part of the bank that is read."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for (name, curve), marker in zip(curves.items(), "os^D"):
        ranked, recall = [100 * point.ranked for point in curve], [point.recall for point in curve]
        axis.plot(ranked, recall, color=COLORS[name], marker=marker, label=name)
    axis.set(xscale="log", ylim=(0, 1.03), xlabel="% of the rows ranked", ylabel=f"recall at {K}")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return figure


def write(out: Path, curves: dict[str, list[Point]], probed: list[int], one: Shard, command: str) -> None:
    """The hand-written text of the page stays."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "scaling.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["what", "cells probed", "value"])
        for name, curve in curves.items():
            writer.writerows([f"recall, {name}", p, f"{point.recall:.4f}"] for p, point in zip(probed, curve))
            writer.writerows([f"rows ranked, {name}", p, f"{point.ranked:.5f}"] for p, point in zip(probed, curve))
        writer.writerows([name, "", f"{value:.6g}"] for name, value in one._asdict().items())
    draw(curves).savefig(out / "scaling.png", dpi=130)
    path, lines = out / "scaling.md", "\n".join(page(curves, probed, one, command))
    text = path.read_text(encoding="utf-8") if path.exists() else f"{BEGIN}{END}\n"
    before, _, rest = text.partition(BEGIN)
    path.write_text(before + lines + rest.partition(END)[2], encoding="utf-8")


def main(
    rows: Annotated[int, typer.Option(help="Of the simulated bank.")] = 1_000_000,
    dim: Annotated[int, typer.Option(help="Of its points.")] = 128,
    threads: Annotated[int, typer.Option(help="Of the measurements.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.", show_default="docs")] = None,
) -> None:
    """Measure, and write the page.

    Example: python bench/scaling.py --rows 100000 --out /tmp/scaling
    """
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    pieces = track(demonstrations(rows + QUERIES, dim), "points", total=-(-(rows + QUERIES) // (1 << 14)))
    points = torch.cat(list(pieces))
    points, query = points[:-QUERIES], points[-QUERIES:]
    probed = [2**i for i in range(8)]
    console = Console()
    with console.status("recall against probed cells"):
        curves = recalls(points, query, probed)
    with console.status("one shard"):
        one = shard(points, query, threads)
    command = "python bench/scaling.py" + (f" --rows {rows}" if rows != 1_000_000 else "")
    write(out or Path(__file__).parent.parent / "docs", curves, probed, one, command)
    console.print(*page(curves, probed, one, command), sep="\n", soft_wrap=True, markup=False)


if __name__ == "__main__":
    typer.run(main)
