"""Measures the error contract of docs/numerics.md against the mpmath oracles, for this library and for others.

All get the same arguments: rows of ``hyperbolic.testing.Sampler`` and a curvature parameter that the type can hold.
The figures depend on this file and on the versions of what it measures, not on the number of processes.
"""

from __future__ import annotations

import csv
import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import metadata
from itertools import product
from math import inf, nan
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import geoopt
import mpmath
import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import pad

from hyperbolic import __version__
from hyperbolic.testing import CASES, Case, Sampler, contract, covector_error, oracle

OURS = "hyperbolic"
GRADIENT = "gradient of dist"
FUNCTIONS = ["dist", GRADIENT, "dist0", "dist_exp0", "expmap0", "logmap0", "expmap", "logmap", "transport"]
FUNCTIONS += ["mobius_add", "lorentz_to_poincare", "poincare_to_lorentz", "exterior_angle", "half_aperture"]
CURVATURES = (0.01, 0.1, 1.0, 2.0, 10.0)
# Per dimension, the pairs for dist and the rows for any other function; as many for each curvature.
ROWS = {512: (220, 30), 16: (1000, 120), 2: (1300, 160)}
QUICK = {512: (2, 1), 16: (30, 6), 2: (60, 12)}
# How long tangents at the origin are in float32 and float64, where the contract promises more than the sampler draws.
LONGEST = {"dist_exp0": (1e4, 1e4), "expmap0": (87.0, 700.0)}
UNITS = {"point": "eps (1 + r + n + sinh r_out)", "tangent": "Riemannian eps", "covector": "dual eps"}
# The colours of Okabe and Ito, told apart with any colour vision.
COLORS = {OURS: "#0072B2", "geoopt": "#D55E00", "hypll": "#009E73", "MERU formula": "#CC79A7"}
MARKERS = dict(zip(COLORS, "os^D"))

try:
    # What the methods of its PoincareBall call; its Curvature would round c to float32.
    from hypll.manifolds.poincare_ball.math import diffgeom as hypll
except ImportError:
    hypll = None
VERSIONS = {OURS: __version__} | {name: metadata.version(name) for name in ("torch", "geoopt")}
VERSIONS |= {"hypll": metadata.version("hypll")} if hypll else {}

Function = Callable[[list[Tensor], Tensor], Tensor]


def meru(args: list[Tensor], c: Tensor) -> Tensor:
    """The distance of Desai et al., 2023."""
    x, y = args
    x0, y0 = ((1 / c + p.square().sum(-1)).sqrt() for p in args)
    return torch.acosh(torch.clamp(-c * ((x * y).sum(-1) - x0 * y0), min=1 + 1e-8)) / c.sqrt()


def geoopt_lorentz(case: Case, method: str, args: list[Tensor], c: Tensor) -> Tensor:
    """Geoopt's curvature parameter is the squared radius, and its points carry the time component, first."""
    manifold = geoopt.Lorentz(k=1 / c)
    ambient = [pad(a, (1, 0)) for a in args]
    ambient = [manifold.projx(a) if kind == "point" else a for kind, a in zip(case.arguments, ambient)]
    if case.arguments[-1] == "tangent":
        ambient[-1][..., :1] = (args[0] * args[-1]).sum(-1, keepdim=True) / ambient[0][..., :1]
    out: Tensor = getattr(manifold, method)(*ambient)
    return out if case.result == "scalar" else out[..., 1:]


def libraries(case: Case) -> dict[str, Function]:
    """Who has the function of ``case``, and how to call it."""
    found: dict[str, Function] = {OURS: lambda args, c: case.function(*args, c=c)}
    maps = {"dist", "expmap0", "logmap0", "expmap", "logmap", "transport", "mobius_add"}
    method, ball = case.name.replace("transport", "transp"), case.model == "poincare"
    if case.name in maps | {"dist0"} and ball:
        # A copy, because PoincareBall overwrites the tensor that it is given.
        found["geoopt"] = lambda args, c: getattr(geoopt.PoincareBall(c=c.clone()), method)(*args)
    elif case.name in maps | {"dist0"}:
        found["geoopt"] = partial(geoopt_lorentz, case, method)
    if case.name in maps and ball and hypll:
        found["hypll"] = lambda args, c: getattr(hypll, method)(*args, c=c)
    if case.name == "dist" and not ball:
        found["MERU formula"] = meru
    return found


def gradient(dist: Function, args: list[Tensor], c: Tensor) -> Tensor:
    """Return the gradient of the distances at the first points."""
    x = args[0].clone().requires_grad_()
    return torch.autograd.grad(dist([x, args[1]], c).sum(), x)[0]


def gradient_oracle(model: str, x: list[Any], y: list[Any], c: Any) -> list[Any] | None:
    """Minus the unit tangent towards ``y``, lowered; None at coincident points, where any subgradient is right."""
    if x == y:
        return None
    reference = getattr(oracle, model)
    v = reference.logmap(x, y, c)
    n = reference.norm_at(x, v, c)
    if model == "poincare":
        return [-e / n * reference.conformal_factor(x, c) ** 2 for e in v]
    slope = mpmath.fdot(x, v) / reference.time(x, c) ** 2
    return [(slope * p - e) / n for e, p in zip(v, x)]


def cases(model: str) -> Iterator[tuple[Case, dict[str, Function]]]:
    """Yield each function of a model that other libraries have too, and theirs."""
    for case in CASES:
        if case.model == model and case.name in FUNCTIONS:
            functions = libraries(case)
            yield case, functions
            if case.name == "dist":
                slope = replace(case, name=GRADIENT, oracle=partial(gradient_oracle, model), result="covector")
                yield slope, {name: partial(gradient, f) for name, f in functions.items()}


class Key(NamedTuple):
    """What a row of the table is about."""

    function: str
    model: str
    dtype: str
    library: str
    bound: float
    unit: str


class Result(NamedTuple):
    """The error of one result."""

    error: float  # NaN if the result is NaN or Inf
    off: float  # 1 if by more than 1 %, else 0; NaN for points, which have no size to compare with
    radius: float  # of the farther of two points; 0 where they coincide
    repeat: str  # the arguments, if this library's error is beyond the bound


def judge(case: Case, args: list[Any], got: Tensor, want: Any, c: Any) -> tuple[float, float]:
    """The error in the unit of the contract, and whether it is more than 1 % of the exact scalar or vector."""
    if not got.isfinite().all():
        return nan, 1.0
    if want is None or (case.result == "scalar" and want == got.item() == 0):
        return 0.0, 0.0
    if case.result == "scalar" and not want:
        return inf, 1.0
    if case.result == "covector":
        error = covector_error(case.model, args[0], got, want, c)
    else:
        error = contract.error(case, args, got, want, c)
    if case.result == "point" or case.name == "expmap0":
        return error, nan
    off = abs(got.item() / want - 1) if case.result == "scalar" else error * torch.finfo(got.dtype).eps
    return error, float(off > 0.01)


def measure(
    seed: int, rows: tuple[int, int], dim: int, model: str, dtype: torch.dtype, curvature: float
) -> dict[Key, list[Result]]:
    """Return the errors of all functions on some rows of points."""
    results: dict[Key, list[Result]] = {}
    c = torch.tensor(curvature, dtype=dtype)
    exact_c = oracle.exact(c)
    for number, (case, functions) in enumerate(cases(model)):
        bound = contract.GRADIENT_OF_DIST if case.name == GRADIENT else contract.bound(case, dtype)
        reach = contract.GRADIENT_RADIUS[dtype] if case.name == GRADIENT else contract.max_radius(case, dtype)
        sampler = Sampler(model, dtype, dim, c.item(), 100 * seed + number, rows[case.name != "dist"], reach)
        if case.name in LONGEST:
            longest = LONGEST[case.name][dtype == torch.float64]
            sampler.tangent0 = partial(sampler.tangent0, longest)  # type: ignore[method-assign]
        args = sampler.arguments(case.arguments)
        kind = case.name, model, str(dtype).removeprefix("torch.")
        outputs = {
            Key(*kind, name, bound, UNITS.get(case.result, "ULP")): function(args, c).detach()
            for name, function in functions.items()
        }
        with oracle.digits():
            for i in range(args[0].shape[0]):
                exact = [oracle.exact(a[i]) for a in args]
                want = case.oracle(*exact, exact_c)
                pair = case.name == "dist" and want
                radius = max(contract.radius(model, p, exact_c) for p in exact) if pair else 0.0
                for key, output in outputs.items():
                    error, off = judge(case, exact, output[i], want, exact_c)
                    failed = key.library == OURS and not error <= bound
                    repeat = f"{key} {error=:.3g} {c=} {[a[i].tolist() for a in args]}" if failed else ""
                    results.setdefault(key, []).append(Result(error, off, radius, repeat))
    return results


def run(rows: dict[int, tuple[int, int]], jobs: int) -> dict[Key, list[Result]]:
    """Measure everything, in as many processes as ``jobs``."""
    grid = product(rows, ("poincare", "lorentz"), (torch.float32, torch.float64), CURVATURES)
    units = [(seed, rows[point[0]], *point) for seed, point in enumerate(grid)]
    total: dict[Key, list[Result]] = {}
    # Not by fork, which would copy the locks of the progress bar's thread.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, torch.set_num_threads, (1,)) as pool:
        for part in track(pool.map(measure, *zip(*units)), "dimension, model, type, curvature", len(units)):
            for key, results in part.items():
                total.setdefault(key, []).extend(results)
    order = sorted(total, key=lambda k: (FUNCTIONS.index(k.function), k.model, k.dtype, list(COLORS).index(k.library)))
    return {key: total[key] for key in order}


HEADER = [*Key._fields, "rows", "largest error", "share off by > 1 %", "NaN or Inf", "beyond bound"]


def summary(key: Key, results: list[Result]) -> list[str]:
    """Return a row of the table."""
    largest = max((r.error for r in results if r.error < inf), default=0.0)
    off = f"{statistics.fmean(r.off for r in results):.3f}".replace("nan", "")
    counts = sum(r.error != r.error for r in results), sum(not r.error <= key.bound for r in results)
    return [*key[:4], f"{key.bound:g}", key.unit, str(len(results)), f"{largest:.3g}", off, *map(str, counts)]


def write(out: Path, total: dict[Key, list[Result]], rows: list[list[str]], command: str) -> None:
    """Write accuracy.csv and accuracy.md."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "accuracy.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*HEADER, *(f"{name} version" for name in VERSIONS)])
        writer.writerows([*row, *VERSIONS.values()] for row in rows)
    versions = ", ".join(f"{name} {version}" for name, version in VERSIONS.items())
    lines = [f"Generated by `{command}` with {versions}. Units: [numerics.md](numerics.md).", ""]
    lines += [
        "NaN, Inf, and not 0 where 0 is exact: off and beyond the bound; the largest error is that of the rest.",
        "",
    ]
    lines += [f"| {' | '.join(row)} |" for row in (HEADER, ["---"] * len(HEADER), *rows)]
    (out / "accuracy.md").write_text("\n".join(lines) + "\n")
    draw(total).savefig(out / "accuracy.png", dpi=130)


def draw(total: dict[Key, list[Result]]) -> Figure:
    """Dist: a sample of the pairs, and the largest error in each ring of width 1 of the farther point's radius."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = dict(zip(product(("lorentz", "poincare"), ("float32", "float64")), figure.subplots(2, 2).flat))
    for key, results in [item for item in total.items() if item[0].function == "dist"]:
        axis, whole = panels[key.model, key.dtype], 1 / torch.finfo(getattr(torch, key.dtype)).eps
        pairs = [(r.radius, max(r.error, 0.1) if r.error < whole else whole) for r in results if r.radius]
        largest = [(k, max(error for radius, error in pairs if int(radius) == k)) for k in {int(p[0]) for p in pairs}]
        color, marker = COLORS[key.library], MARKERS[key.library]
        axis.plot(*zip(*pairs[::7]), marker, color=color, markersize=2.5, alpha=0.25, markeredgewidth=0, zorder=1)
        line = {"color": color, "marker": marker, "markersize": 7 if key.library == "geoopt" else 4}
        axis.plot(*zip(*((k + 0.5, e) for k, e in sorted(largest))), **line, label=key.library)
        axis.set(yscale="log", ylim=(0.08, 5 * whole), xlim=(0, None), title=f"{key.model}.dist, {key.dtype}")
        axis.set(xlabel="radius of the farther point", ylabel="error in ULP")
        axis.legend(loc="center right", fontsize=8)
        if key.library == OURS:
            for level, text in ((key.bound, "bound of the contract"), (whole / 100, "1 % of the distance")):
                axis.axhline(level, color="black", linewidth=0.8, linestyle="--")
                axis.text(0.3, level * 1.2, text, fontsize=8)
    figure.suptitle("Error of the distance: pairs, and largest by radius (lines). At the top: 100 % or more, NaN, Inf")
    return figure


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A small grid; writes only if --out is given.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the table and the figure.", show_default="docs")] = None,
    jobs: Annotated[int, typer.Option(help="Number of processes.")] = 2,
) -> None:
    """Measure the error contract on a grid. Exit with 1 if a result of this library is beyond its bound.

    Example: python bench/accuracy.py --quick --out /tmp/accuracy
    """
    total = run(QUICK if quick else ROWS, jobs)
    rows, table = [summary(key, results) for key, results in total.items()], Table(*HEADER, box=None)
    for row in rows:
        table.add_row(*row, style="bold" if OURS in row else "")
    Console(width=150).print(table)
    if out or not quick:
        write(out or Path("docs"), total, rows, "python bench/accuracy.py" + " --quick" * quick)
    failures = [r.repeat for results in total.values() for r in results if r.repeat]
    typer.echo("\n".join(failures), err=True, nl=bool(failures))
    raise typer.Exit(bool(failures))


if __name__ == "__main__":
    typer.run(main)
