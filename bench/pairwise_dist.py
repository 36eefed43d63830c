"""``pairwise_dist`` against the bare matrix product, the formulas in use and other libraries.

Spread points pass the kernel's error test; of 16 clusters 1 pair in 16 does not, of 2 clusters every other one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from harness import peers, points
from harness.measure import BACKWARD, FORWARD, OURS, PASSES, WAYS, Group, Implementation
from harness.sizes import Sizes, shape
from torch import Tensor, cdist

from hyperbolic.pairwise import pairwise_dist

OP = "pairwise_dist"
SPREAD, SWEEP = "spread", "spread, against N"
CLUSTERS = {"16 clusters": 16, "2 clusters": 2}
FLOOR = "torch.mm"
# Numbers in N x M x D beyond which the broadcast formula is not asked: 1 GiB.
LARGEST = 1 << 28


def inputs(model: str, clusters: int, n: int, dim: int, backward: bool) -> list[Tensor]:
    """Return the arguments of one measurement."""
    if clusters:
        x, y = (points.clusters(model, seed, clusters, n, dim) for seed in (1, 2))
    else:
        x, y = (points.spread(model, seed, n, dim) for seed in (1, 2))
    return [x, y, points.normal(3, n, n)] if backward else [x, y]


def product(x: Tensor, y: Tensor, *_: Tensor) -> Tensor:
    """Return the matrix product that any implementation contains: the floor."""
    return torch.mm(x, y.T)


def group(model: str, case: str, passes: str, n: int, dim: int, *others: str) -> Group:
    """Return a group of implementations."""
    way = WAYS[passes]
    formulas = {"matmul+acosh": peers.matmul_acosh(model), "broadcast": peers.broadcast(model), "torch.cdist": cdist}
    implementations = {OURS: Implementation(way(partial(pairwise_dist, model=model))), FLOOR: Implementation(product)}
    implementations |= {name: Implementation(way(formulas[name])) for name in others if name in formulas}
    if "libraries" in others:
        implementations |= peers.all_pairs(model, way)
    make = partial(inputs, model, CLUSTERS.get(case, 0), n, dim, passes == BACKWARD)
    return Group(OP, case, model, passes, shape(n, n, dim), make, implementations, FLOOR)


def groups(sizes: Sizes) -> Iterator[Group]:
    """Yield the groups of implementations that are timed side by side."""
    for model in ("lorentz", "poincare"):
        for dim in (sizes.wide, sizes.narrow):
            for passes in PASSES:
                yield group(model, SPREAD, passes, sizes.pairs, dim, "matmul+acosh", "torch.cdist")
    for model in ("lorentz", "poincare"):
        for case in CLUSTERS:
            for passes in PASSES:
                yield group(model, case, passes, sizes.pairs, sizes.wide, "matmul+acosh")
            yield group(model, case, FORWARD, sizes.pairs, sizes.narrow, "matmul+acosh")
    for model in ("lorentz", "poincare"):
        for passes in PASSES:
            everyone = ("matmul+acosh", "broadcast", "torch.cdist", "libraries")
            yield group(model, SPREAD, passes, sizes.broadcast, sizes.wide, *everyone)
    for dim in (sizes.narrow, sizes.wide):
        for n in sizes.sweep:
            fits = ["broadcast"] if n * n * dim <= LARGEST else []
            yield group("lorentz", SWEEP, FORWARD, n, dim, "matmul+acosh", *fits)


def test_pairwise_dist(group: Group, implementation: str, compare: Callable[[Group, str], None]) -> None:
    """Time one implementation of a group."""
    compare(group, implementation)
