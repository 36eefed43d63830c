"""Builds the kernels, checks every op on the GPU against float64 on the CPU, and measures how near each is to the card.

The floor of an op is the larger of two times that are measured here: its matrix products, each in as many products of
bfloat16 as its digits take, at the rate of a plain torch.matmul of bfloat16; and its arguments and results, read and
written once, at the rate of a copy. The formula in use for the same is timed as it is and under torch.compile.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from harness import peers, points, rows, table
from harness.measure import BACKWARD, FORWARD, OURS, PASSES, WAYS, Group, Implementation, Result
from harness.report import duration
from harness.sizes import shape
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy

from hyperbolic import kernels
from hyperbolic.pairwise import contrastive_loss, nearest, pairwise_dist

ROOT = Path(__file__).parent.parent
FLOOR, EAGER, COMPILED = "floor", "formula", "torch.compile"
PRODUCTS = 6  # of bfloat16, for one of float32
NEIGHBORS, TEMPERATURE = 16, 0.1
MODELS = ("lorentz", "poincare")
# Compiling takes longer than all else, so of the row-wise functions these stand for the rest.
COMPILED_ROWS = ("expmap0", "dist")
SECONDS = 0.5  # for one implementation, after the first calls


class Sizes(NamedTuple):
    """How large the arguments are."""

    name: str
    pairs: tuple[int, int]
    loss: tuple[int, int]
    bank: tuple[int, int, int]
    rows: tuple[int, int]


FULL = Sizes("full", (16384, 512), (65536, 512), (64, 1_000_000, 256), (10_000_000, 64))
CHECK = Sizes("check", (700, 96), (700, 96), (40, 5000, 96), (999, 65))


class Job(NamedTuple):
    """A group to time, and the work of its matrix products."""

    group: Group
    flops: float  # of its matrix products, each in one pass of bfloat16


def jobs(sizes: Sizes) -> Iterator[Job]:
    """Yield everything that is timed."""
    for model in MODELS:
        for passes in PASSES:
            backward = passes == BACKWARD
            products = 3 if backward else 1  # backward: one more for each side
            n, dim = sizes.pairs
            make = partial(pairs, model, n, dim, backward)
            ours: Callable[..., Any] = partial(pairwise_dist, model=model)
            formula: Callable[..., Any] = peers.matmul_acosh(model)
            distances = group("pairwise_dist", model, passes, shape(n, n, dim), make, ours, formula)
            yield Job(distances, 2.0 * products * n * n * dim)
            n, dim = sizes.loss
            make = partial(positives, model, n, dim, backward)
            ours = partial(contrastive_loss, temperature=TEMPERATURE, model=model)
            formula = partial(loss_formula, model)
            loss = group("contrastive_loss", model, passes, shape(n, dim), make, ours, formula)
            yield Job(loss, 2.0 * products * n * n * dim)
        queries, n, dim = sizes.bank
        ours, formula = partial(nearest, k=NEIGHBORS, model=model), partial(nearest_formula, model)
        make = partial(bank, model, *sizes.bank)
        described = f"{shape(*sizes.bank)}, k={NEIGHBORS}"
        search = group("nearest", model, FORWARD, described, make, ours, formula)
        yield Job(search, 2.0 * queries * n * dim)
        for name in rows.functions(model):
            for passes in PASSES:
                make = partial(many, model, name, *sizes.rows, passes == BACKWARD)
                ours = getattr(rows.MODULES[model], name)
                yield Job(group("rowwise", model, passes, shape(*sizes.rows), make, ours, None, case=name), 0.0)


def group(
    op: str,
    model: str,
    passes: str,
    described: str,
    make: Callable[[], Sequence[Tensor]],
    ours: Callable[..., Any],
    formula: Callable[..., Any] | None,
    case: str = "",
) -> Group:
    """Return an operator, its formula in eager and compiled torch, and the floor."""
    way = WAYS[passes]
    implementations = {OURS: Implementation(way(ours))}
    if formula:
        implementations |= {EAGER: Implementation(way(formula)), COMPILED: Implementation(way(torch.compile(formula)))}
    else:
        implementations[EAGER] = peers.row_wise(model, case, way)["geoopt"]
        if case in COMPILED_ROWS:
            run, prepare = peers.row_wise(model, case, lambda f: way(torch.compile(f)))["geoopt"]
            implementations[COMPILED] = Implementation(run, prepare)
    return Group(f"gpu {op}", case, model, passes, described, make, implementations, FLOOR)


def pairs(model: str, n: int, dim: int, backward: bool) -> list[Tensor]:
    """Return two sets of points and the cotangents of their distances."""
    x, y = (points.spread(model, seed, n, dim) for seed in (1, 2))
    return [x, y, points.normal(3, n, n)] if backward else [x, y]


def positives(model: str, n: int, dim: int, backward: bool) -> list[Tensor]:
    """Return points, positives close to them, and the cotangents of the loss."""
    x = points.spread(model, 1, n, dim)
    y = x + 0.3 * points.tangents(model, 2, x)
    return [x, y, torch.tensor(1.0)] if backward else [x, y]


def bank(model: str, queries: int, n: int, dim: int) -> list[Tensor]:
    """Return queries and a bank."""
    return [points.spread(model, 1, queries, dim), points.spread(model, 2, n, dim)]


def many(model: str, name: str, n: int, dim: int, backward: bool) -> list[Tensor]:
    """A hundredth of the rows, a hundred times: drawing them takes long, and their values do not matter here."""
    times = 100 if n % 100 == 0 else 1
    some = rows.inputs(model, name, n // times, dim, backward)
    return [a.cuda().repeat(times, *[1] * (a.dim() - 1)) for a in some]


def loss_formula(model: str, x: Tensor, y: Tensor) -> Tensor:
    """Return the contrastive loss as written down."""
    return cross_entropy(-peers.matmul_acosh(model)(x, y) / TEMPERATURE, torch.arange(len(x), device=x.device))


def nearest_formula(model: str, query: Tensor, rows_of_bank: Tensor) -> Any:
    """Return the nearest rows by way of the matrix of distances."""
    return peers.matmul_acosh(model)(query, rows_of_bank).topk(NEIGHBORS, largest=False)


def tensors(result: Any) -> list[Tensor]:
    """Return a result as a list of tensors."""
    return [result] if isinstance(result, Tensor) else list(result)


def error(job: Job) -> float:
    """Return the error of the results on the GPU against those of float64 on the CPU.

    It is relative to the largest; for indices, it is how many are others.
    """
    inputs = job.group.inputs()
    run = job.group.implementations[OURS].run
    got, want = tensors(run(*(a.cuda() for a in inputs))), tensors(run(*(a.cpu().double() for a in inputs)))
    errors = []
    for a, b in zip(got, want):
        difference = (a.cpu().double() - b.double()).abs().max().item()
        errors.append(difference if b.dtype == torch.int64 else difference / b.abs().max().item())
    return max(errors)


def timed(call: Callable[[], Any]) -> Result:
    """By events on the device; memory is the most that was allocated beyond what was there, results included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    memory = (torch.cuda.max_memory_allocated() - before) / 1e6
    samples: list[float] = []
    while len(samples) < 3 or (sum(samples) < SECONDS and len(samples) < 50):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end) / 1e3)
    return Result(samples, memory)


class Ceilings(NamedTuple):
    """What the card reaches in a copy and in a matrix product."""

    copy: float  # bytes/s, read and written
    matmul: float  # flop/s, bfloat16

    @staticmethod
    def measured() -> Ceilings:
        """Measure both on this card."""
        a = torch.empty(1 << 30, device="cuda").normal_()
        b = torch.empty_like(a)
        copy = 2 * a.nbytes / timed(lambda: b.copy_(a)).quantiles()[1]
        n = 8192
        m = torch.randn(2, n, n, device="cuda").bfloat16()
        return Ceilings(copy, 2 * n**3 / timed(lambda: m[0] @ m[1]).quantiles()[1])

    def floor(self, job: Job, inputs: Sequence[Tensor], results: Sequence[Tensor]) -> float:
        """Return the seconds below which the job cannot be."""
        moved = sum(a.nbytes for a in (*inputs, *results))
        if job.group.passes == BACKWARD:
            moved += inputs[-1].nbytes  # the forward's result, which has the shape of the cotangent
        return max(PRODUCTS * job.flops / self.matmul, moved / self.copy)


def measure(job: Job, ceilings: Ceilings, console: Console) -> dict[str, Result]:
    """Time a job and compare its results."""
    inputs = [a.cuda() for a in job.group.inputs()]
    results = {}
    for name, (run, prepare) in job.group.implementations.items():
        try:
            call = partial(run, *prepare(*inputs))
            out = tensors(call())
            if name == OURS:
                results[FLOOR] = Result([ceilings.floor(job, inputs, out)], 0.0)
            del out
            results[name] = timed(call)
        except torch.OutOfMemoryError:
            console.print(f"{job.group}: {name} does not fit the memory")
        torch.cuda.empty_cache()
    return results


def told(job: Job, results: dict[str, Result]) -> list[str]:
    """Return a row of the table."""
    ours, floor = results[OURS].quantiles()[1], results[FLOOR].seconds[0]
    ratios = [f"{results[n].quantiles()[1] / ours:.3g} x" if n in results else "" for n in (EAGER, COMPILED)]
    return [str(job.group), duration(ours), f"{floor / ours:.0%}", f"{results[OURS].memory:.0f} MB", *ratios]


def main(
    out: Annotated[Path | None, typer.Option(help="Folder for performance.csv.", show_default="docs")] = None,
    only: Annotated[list[str] | None, typer.Option(help="An op, such as nearest. May be repeated.")] = None,
    build: Annotated[bool, typer.Option(help="Build the kernels first.")] = True,
) -> None:
    """Build, check and measure; rows take the place of those of the same ops in the table. Exit with 1 without a GPU.

    Example: python bench/gpu.py --only pairwise_dist --out /tmp/gpu
    """
    console = Console(width=170)
    if not torch.cuda.is_available():
        console.print("no GPU: torch.cuda.is_available() is false; nothing measured")
        raise typer.Exit(1)
    if build:
        subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=ROOT, check=True)
        # this process has loaded the ones before
        raise typer.Exit(subprocess.call([sys.executable, *sys.argv, "--no-build"]))
    wanted = [f"gpu {op}" for op in only or ("pairwise_dist", "contrastive_loss", "nearest", "rowwise")]
    bad = []
    for job in jobs(CHECK):
        if job.group.op in wanted and not (off := error(job)) <= (1e-4 if "loss" in job.group.op else 3e-6):
            bad.append(f"{job.group}: off by {off:.2g}")
    console.print(*bad or ["every op agrees with float64"], sep="\n")
    if bad:
        raise typer.Exit(1)
    ceilings = Ceilings.measured()
    console.print(f"copy {ceilings.copy / 1e12:.2f} TB/s, bfloat16 product {ceilings.matmul / 1e12:.0f} TFLOP/s")
    environment = {"cpu": torch.cuda.get_device_name(), "threads": "", "kernels": f"sm {kernels().cuda}"}
    environment["kernels"] += f", triton {metadata.version('triton')}"
    page = Table("op", "time", "of the floor", "memory", EAGER, COMPILED, box=None)
    measured: list[dict[str, str]] = []
    for job in jobs(FULL):
        if job.group.op in wanted:
            results = measure(job, ceilings, console)
            page.add_row(*told(job, results))
            measured += [row | environment for row in table.rows(job.group, results, FULL.name)]
    console.print(page)
    folder = out or ROOT / "docs"
    folder.mkdir(parents=True, exist_ok=True)
    table.replace(folder / "performance.csv", measured)


if __name__ == "__main__":
    typer.run(main)
