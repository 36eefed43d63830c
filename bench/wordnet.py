"""Embeds the mammals of WordNet with this library and with geoopt.

Writes docs/wordnet.csv and .png and a block of docs/evidence.md.

Nickel and Kiela, 2017: an ancestor v of u must be nearer to u than the strangers w, nodes that are neither,

    loss = -mean over (u, v) of log( exp(-d(u, v)) / (exp(-d(u, v)) + sum_w exp(-d(u, w))) )

All have the same starts, batches, strangers and learning rates. A step takes the edges of some nodes, and as strangers
some nodes that all of these share. Points are parameters of geoopt's RiemannianAdam, or images of tangents at the
origin, which torch's Adam moves. The setups take turns, epoch by epoch, so that all meet the same machine. A few epochs
more, with all nodes as strangers, are for their time alone: points that must pass all others get stuck on their way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import cos, isnan, nan, pi
from pathlib import Path
from statistics import mean, median, stdev
from time import perf_counter
from typing import Annotated, Any, NamedTuple

import geoopt
import torch
import typer
from harness import evidence, table
from harness.hierarchy import WORDNET, Hierarchy
from harness.reconstruction import reconstruction
from harness.report import COLORS, lines
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import pad, softplus

from hyperbolic import lorentz, manifolds, models, plot, poincare

DOCS = Path(__file__).parent.parent / "docs"
OURS, PEER = "hyperbolic", "geoopt"
RATES = {"tangents": 0.05, "points": 0.1}
"""Of learning, the same for both libraries."""
WANTED = 0.9
"""The least MAP in five dimensions that counts as learned."""
VERSIONS = ("hyperbolic", "kernels", "torch", "geoopt", "python", "cpu", "threads")
# Subtrees that the picture colours.
ORDERS = ("carnivore", "rodent", "primate", "bat", "cetacean", "even-toed_ungulate", "odd-toed_ungulate", "marsupial")


@dataclass(frozen=True)
class Budget:
    """How long is trained."""

    epochs: int
    seeds: int
    looks: int  # times that the ranking is evaluated
    dim: int = 5
    batch: int = 128  # nodes of a step, with all their ancestors
    strangers: int = 64  # that are drawn for a step; all, if there are fewer
    spread: float = 0.01  # of the start around the origin

    def rate(self, epoch: int) -> float:
        """Grows for a tenth of the epochs, while points find their directions, then falls as a cosine."""
        return min(1.0, 10 * (epoch + 1) / self.epochs) * (1 + cos(pi * epoch / self.epochs)) / 2


ALL = 1 << 30  # strangers
FULL, QUICK = Budget(epochs=120, seeds=3, looks=6), Budget(epochs=4, seeds=1, looks=2, batch=16, strangers=8)
TIMED = Budget(epochs=5, seeds=1, looks=1, strangers=ALL)


class Space(NamedTuple):
    """What a library offers. Tangents at the origin are those of the hyperboloid, in both models."""

    manifold: geoopt.Manifold
    expmap0: Callable[[Tensor], Tensor]
    pairwise: Callable[[Tensor, Tensor], Tensor]
    to_lorentz: Callable[[Tensor], Tensor]


def space(library: str, model: str, dtype: torch.dtype) -> Space:
    """Return a library's model of the space."""
    if library == OURS:
        if model == "lorentz":
            return Space(manifolds.Lorentz(), lorentz.expmap0, lorentz.pairwise_dist, torch.clone)
        return Space(
            manifolds.PoincareBall(),
            lambda v: poincare.expmap0(v / 2),
            poincare.pairwise_dist,
            models.poincare_to_lorentz,
        )
    one = torch.ones((), dtype=dtype)
    if model == "lorentz":
        peer: Any = geoopt.Lorentz(one)
        exp: Any = lambda v: peer.expmap0(pad(v, (1, 0)))  # noqa: E731
        to_lorentz: Any = lorentz.from_ambient
    else:
        peer = geoopt.PoincareBall(one)
        exp, to_lorentz = lambda v: peer.expmap0(v / 2), models.poincare_to_lorentz
    return Space(peer, exp, lambda x, y: peer.dist(x[:, None], y), to_lorentz)


class Setup(NamedTuple):
    """What is trained: a library, a model, what is learned, and a type."""

    library: str
    model: str
    learned: str
    dtype: str


# In float64 the tangents alone, which are the faster to learn.
KINDS = (("tangents", "float32"), ("tangents", "float64"), ("points", "float32"))
SETUPS = [
    Setup(library, model, *kind) for library, model, kind in product((OURS, PEER), ("lorentz", "poincare"), KINDS)
]


@dataclass(frozen=True)
class Look:
    """How well the points ranked after so many epochs."""

    library: str
    model: str
    learned: str
    dtype: str
    dim: int
    strangers: int
    seed: int
    epoch: int
    seconds: float  # of training so far
    epoch_seconds: float  # the median
    mean_rank: float
    map: float

    @property
    def setup(self) -> Setup:
        """The setup of this run."""
        return Setup(self.library, self.model, self.learned, self.dtype)


class Training:
    """One embedding on its way."""

    def __init__(self, setup: Setup, hierarchy: Hierarchy, budget: Budget, seed: int):
        self.setup, self.hierarchy, self.budget, self.seed = setup, hierarchy, budget, seed
        dtype = getattr(torch, setup.dtype)
        self.space = space(setup.library, setup.model, dtype)
        self.generator = torch.Generator().manual_seed(seed)
        start = torch.randn(len(hierarchy), budget.dim, generator=self.generator, dtype=torch.float64).to(dtype)
        start *= budget.spread
        self.optimizer: torch.optim.Optimizer
        if setup.learned == "tangents":
            self.parameter = start.requires_grad_()
            self.optimizer = torch.optim.Adam([self.parameter], lr=RATES[setup.learned])
        else:
            self.parameter = geoopt.ManifoldParameter(self.space.expmap0(start), manifold=self.space.manifold)
            self.optimizer = geoopt.optim.RiemannianAdam([self.parameter], lr=RATES[setup.learned])
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, budget.rate)
        self.seconds: list[float] = []

    @property
    def points(self) -> Tensor:
        """The points of the nodes."""
        return self.space.expmap0(self.parameter) if self.setup.learned == "tangents" else self.parameter

    def loss(self, batch: Tensor, drawn: Tensor) -> Tensor:
        """Return the loss of a batch with drawn negatives."""
        points, ancestors = self.points, self.hierarchy.closure[batch]
        known = ancestors[:, drawn] | (batch[:, None] == drawn)
        far = self.space.pairwise(points[batch], points[drawn])
        strangers = (-far).masked_fill(known, -torch.inf).logsumexp(1)
        u, v = ancestors.nonzero(as_tuple=True)
        near = self.space.manifold.dist(points[batch[u]], points[v])
        return softplus(near + strangers[u]).mean()

    def epoch(self) -> None:
        """Every edge once."""
        began = perf_counter()
        for batch in torch.randperm(len(self.hierarchy), generator=self.generator).split(self.budget.batch):
            drawn = torch.randperm(len(self.hierarchy), generator=self.generator)[: self.budget.strangers]
            self.optimizer.zero_grad()
            self.loss(batch, drawn).backward()
            self.optimizer.step()
        self.schedule.step()
        self.seconds.append(perf_counter() - began)

    @torch.no_grad()
    def found(self) -> Tensor:
        """The points, on the hyperboloid in float64."""
        return self.space.to_lorentz(self.points.double()).detach()

    def look(self) -> Look:
        """Measure the embedding as it is now."""
        points = self.found()
        finite = bool(points.isfinite().all())
        rank, precision = reconstruction(points, self.hierarchy.edges) if finite else (nan, nan)
        strangers = min(self.budget.strangers, len(self.hierarchy))
        spent = (len(self.seconds), sum(self.seconds), median(self.seconds))
        return Look(*self.setup, self.budget.dim, strangers, self.seed, *spent, rank, precision)


def run(hierarchy: Hierarchy, budget: Budget, console: Console, what: str) -> list[Look]:
    """Train every setup and return what was measured."""
    looks = []
    steps = list(product(range(budget.seeds), range(1, budget.epochs + 1)))
    for seed, epoch in track(steps, what, console=console):
        if epoch == 1:
            trainings = [Training(setup, hierarchy, budget, seed) for setup in SETUPS]
        for training in trainings:
            training.epoch()
        if epoch % (budget.epochs // budget.looks) == 0:
            looks += [training.look() for training in trainings]
    return looks


def disk_points(hierarchy: Hierarchy, budget: Budget, console: Console) -> Tensor:
    """An embedding in two dimensions, to look at, which takes longer to unfold."""
    budget = replace(budget, dim=2, epochs=3 * budget.epochs)
    training = Training(SETUPS[0], hierarchy, budget, seed=0)
    for _ in track(range(budget.epochs), "two dimensions", console=console):
        training.epoch()
    return training.found()


# --- what is told of it --------------------------------------------------------------------------------------------


def spread(values: Sequence[float], digits: str) -> str:
    """Return a mean and a standard deviation as text."""
    if any(map(isnan, values)):
        return "NaN"
    return f"{mean(values):{digits}}" + (f" ± {stdev(values):{digits}}" if len(values) > 1 else "")


def last(looks: Sequence[Look]) -> dict[Setup, list[Look]]:
    """What each seed came to."""
    final = max(look.epoch for look in looks)
    return {s: [look for look in looks if look.setup == s and look.epoch == final] for s in SETUPS}


HEADER = ("library", "model", "learned", "dtype", "MAP", "mean rank", "seconds", "ms per epoch", "all strangers")


def summary(looks: Sequence[Look], timed: Sequence[Look]) -> Iterator[list[str]]:
    """Yield the rows of the table."""
    everyone = last(timed)
    for setup, mine in last(looks).items():
        yield [
            *setup,
            spread([look.map for look in mine], ".3f"),
            spread([look.mean_rank for look in mine], ".2f"),
            spread([look.seconds for look in mine], ".1f"),
            spread([1e3 * look.epoch_seconds for look in mine], ".0f"),
            spread([1e3 * look.epoch_seconds for look in everyone[setup]], ".0f"),
        ]


def quickest(looks: Sequence[Look], timed: Sequence[Look], library: str) -> tuple[Setup, float, float]:
    """The setup with the shortest epochs among those that learned, or among all if none did, and these epochs."""
    ends, everyone = last(looks), last(timed)
    setups = [s for s in SETUPS if s.library == library]
    learned = [s for s in setups if mean(look.map for look in ends[s]) >= WANTED] or setups
    best = min(learned, key=lambda s: mean(look.epoch_seconds for look in ends[s]))
    own, full = (mean(look.epoch_seconds for look in of[best]) for of in (ends, everyone))
    return best, own, full


def verdict(looks: Sequence[Look], timed: Sequence[Look]) -> str:
    """Return in a sentence who is quicker."""
    told = []
    (ours, epoch, full), (peers, peer_epoch, peer_full) = (quickest(looks, timed, name) for name in (OURS, PEER))
    for setup in (ours, peers):
        precision = mean(look.map for look in last(looks)[setup])
        holds = f"{'at least' if precision >= WANTED else '**below**'} {WANTED:g}"
        told.append(f"Quickest of {setup.library}: {', '.join(setup[1:])}, MAP {precision:.3f}, {holds}.")
    faster = "faster" if epoch < peer_epoch else "**not faster**"
    told.append(f"Epoch against epoch, the first is {faster}: {peer_epoch / epoch:.2f} times the speed,")
    told.append(f"{peer_full / full:.2f} times with all nodes as strangers.")
    return " ".join(told)


def block(
    looks: Sequence[Look], timed: Sequence[Look], hierarchy: Hierarchy, budget: Budget, command: str
) -> Iterator[str]:
    """Yield the lines of the block in evidence.md."""
    facts = {name: value for name, value in table.environment("").items() if value and name in VERSIONS}
    yield f"Generated by `{command}` ({', '.join(f'{name} {value}' for name, value in facts.items())})."
    yield ""
    yield (
        f"{len(hierarchy)} nodes, {len(hierarchy.edges)} pairs (node, ancestor), {budget.dim} dimensions, "
        f"{budget.epochs} epochs of steps over {budget.batch} nodes with {budget.strangers} strangers; "
        f"mean ± standard deviation over {budget.seeds} seeds. "
        f"The last column is the ms per epoch with all nodes as strangers, over {TIMED.epochs} epochs."
    )
    yield ""
    yield from lines(HEADER, summary(looks, timed))
    yield from ("", verdict(looks, timed), "", "![The mammals in two dimensions, and MAP against time](wordnet.png)")


def orders(hierarchy: Hierarchy) -> list[str]:
    """The order of each node, as far as it is one of the coloured."""
    found = ["other"] * len(hierarchy)
    for name in ORDERS:
        roots = [i for i, full in enumerate(hierarchy.names) if full.split(".")[0] == name]
        for i in hierarchy.tree[:, roots].any(1).nonzero().flatten().tolist():
            found[i] = name.replace("_", " ")
    return found


def draw(looks: Sequence[Look], points: Tensor, hierarchy: Hierarchy) -> Figure:
    """Draw the embedding and the curves."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    disk, curves = figure.subplots(1, 2, width_ratios=(1.15, 1))
    nodes = torch.arange(len(hierarchy))
    below = nodes[hierarchy.parents != nodes]
    joined = torch.stack([hierarchy.parents[below], below], 1)
    plot.disk(points.float(), labels=orders(hierarchy), edges=joined, ax=disk)
    # a thousand geodesics hide each other at the usual strength
    disk.collections[0].set(linewidth=0.4, alpha=0.5)
    disk.set_title("Mammals of WordNet, from two-dimensional tangents")
    for setup in SETUPS:
        if setup.dtype == "float32":
            seconds, precision = curve(looks, setup)
            style = {"linestyle": "-" if setup.learned == "tangents" else "--"}
            style |= {"color": COLORS[OURS] if setup.library == OURS else COLORS["matmul+acosh"]}
            marker = "o" if setup.model == "lorentz" else "s"
            curves.plot(seconds, precision, marker=marker, markersize=4, label=", ".join(setup[:3]), **style)
    curves.axhline(WANTED, color="black", linewidth=0.8, linestyle=":")
    curves.set(xlabel="seconds of training", ylabel="MAP", title="Five dimensions, float32, mean over seeds")
    curves.set(xlim=(0, None), ylim=(0, 1))
    curves.grid(alpha=0.3)
    curves.legend(fontsize=8)
    return figure


def curve(looks: Sequence[Look], setup: Setup) -> tuple[list[float], list[float]]:
    """Return epochs and scores of a setup."""
    mine = [look for look in looks if look.setup == setup]
    at = [[look for look in mine if look.epoch == epoch] for epoch in sorted({look.epoch for look in mine})]
    return [mean(look.seconds for look in group) for group in at], [mean(look.map for look in group) for group in at]


def main(
    data: Annotated[Path, typer.Argument(help="Node-link JSON of networkx, edges from general to specific.")] = WORDNET,
    quick: Annotated[bool, typer.Option("--quick", help="Few epochs; wants --out.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.", show_default="docs")] = None,
) -> None:
    """Train every setup and compare. Exit with 1 if the MAP is below what is wanted.

    Example: python bench/wordnet.py --quick --out /tmp/wordnet
    """
    if quick and not out:
        raise typer.BadParameter("--quick is not for docs; name a folder by --out")
    if not data.exists():
        raise typer.BadParameter(f"there is no hierarchy at {data}")
    out = out or DOCS
    out.mkdir(parents=True, exist_ok=True)
    # The matrices are so small that a second thread only waits.
    torch.set_num_threads(1)
    hierarchy, budget, console = Hierarchy.read(data), QUICK if quick else FULL, Console(width=150)
    looks = run(hierarchy, budget, console, "epochs of all")
    timed = run(hierarchy, TIMED, console, "all strangers")
    points = disk_points(hierarchy, budget, console)
    evidence.write_rows(out / "wordnet.csv", [asdict(look) for look in looks + timed])
    command = "python bench/wordnet.py" + " --quick" * quick
    evidence.put(out / evidence.PAGE, "wordnet", block(looks, timed, hierarchy, budget, command))
    draw(looks, points, hierarchy).savefig(out / "wordnet.png", dpi=130)
    shown = Table(*HEADER, box=None)
    for row in summary(looks, timed):
        shown.add_row(*row, style="bold" if row[0] == OURS else "")
    console.print(shown)
    console.print(verdict(looks, timed))
    best, *_ = quickest(looks, timed, OURS)
    raise typer.Exit(not quick and mean(look.map for look in last(looks)[best]) < WANTED)


if __name__ == "__main__":
    typer.run(main)
