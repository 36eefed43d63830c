"""``nearest`` in a large bank against the bare product of bank and queries, and against FAISS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from harness import peers, points
from harness.measure import FORWARD, OURS, Group, Implementation
from harness.sizes import Sizes, shape
from torch import Tensor

from hyperbolic.pairwise import nearest

OP = "nearest"
FLOOR = "torch.mm"
DEPTH = "depth_weight 0.5"


def inputs(model: str, sizes: Sizes) -> list[Tensor]:
    """Return the arguments of one measurement."""
    return [points.spread(model, 1, sizes.queries, sizes.bank[1]), points.spread(model, 2, *sizes.bank)]


def product(query: Tensor, bank: Tensor) -> Tensor:
    """Return the matrix product that any implementation contains: the floor."""
    return torch.mm(query, bank.T)


def groups(sizes: Sizes) -> Iterator[Group]:
    """Yield the groups of implementations that are timed side by side."""
    k = sizes.neighbors

    def group(model: str, case: str, implementations: dict[str, Implementation]) -> Group:
        implementations |= {FLOOR: Implementation(product)}
        described = f"{shape(sizes.queries, *sizes.bank)}, k={k}"
        return Group(OP, case, model, FORWARD, described, partial(inputs, model, sizes), implementations, FLOOR)

    everyone: dict[str, Implementation] = {}
    everyone["torch.mm + topk"] = Implementation(lambda query, bank: product(query, bank).topk(k))
    if peers.HAS_FAISS:
        everyone["faiss IndexFlatIP"] = Implementation(lambda query, index: index.search(query, k), peers.flat_index)
    yield group("lorentz", "", {OURS: Implementation(partial(nearest, k=k))} | everyone)
    yield group("lorentz", DEPTH, {OURS: Implementation(partial(nearest, k=k, depth_weight=0.5))})
    yield group("poincare", "", {OURS: Implementation(partial(nearest, k=k, model="poincare"))})


def test_nearest(group: Group, implementation: str, compare: Callable[[Group, str], None]) -> None:
    """Time one implementation of a group."""
    compare(group, implementation)
