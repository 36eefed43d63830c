"""``contrastive_loss`` against the bare matrix product, and against cross entropy of the whole matrix.

The largest group stands first, before anything has filled the libraries' buffers: its memory is a target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from harness import peers, points
from harness.measure import BACKWARD, FORWARD, OURS, WAYS, Group, Implementation
from harness.sizes import Sizes, shape
from torch import Tensor
from torch.nn.functional import cross_entropy

from hyperbolic.pairwise import contrastive_loss

OP = "contrastive_loss"
FLOOR = "torch.mm"


def inputs(model: str, n: int, dim: int, backward: bool) -> list[Tensor]:
    """Positives at 0.3 or less, as in training, and a temperature that is learned."""
    x = points.spread(model, 1, n, dim)
    y = x + 0.3 * points.tangents(model, 2, x)
    arguments = [x, y, torch.tensor(0.1)]
    return [*arguments, torch.tensor(1.0)] if backward else arguments


def product(x: Tensor, y: Tensor, *_: Tensor) -> Tensor:
    """Return the matrix product that any implementation contains: the floor."""
    return torch.mm(x, y.T)


def eager(model: str, x: Tensor, y: Tensor, temperature: Tensor) -> Tensor:
    """Return the loss as written down, by way of the matrix of distances."""
    return cross_entropy(-peers.matmul_acosh(model)(x, y) / temperature, torch.arange(len(x)))


def groups(sizes: Sizes) -> Iterator[Group]:
    """Yield the groups of implementations that are timed side by side."""

    def group(model: str, passes: str, n: int, formula: bool = False) -> Group:
        way = WAYS[passes]
        implementations = {OURS: Implementation(way(partial(contrastive_loss, model=model)))}
        implementations[FLOOR] = Implementation(product)
        if formula:
            implementations["matmul+acosh"] = Implementation(way(partial(eager, model)))
        make = partial(inputs, model, n, sizes.wide, passes == BACKWARD)
        return Group(OP, "", model, passes, shape(n, n, sizes.wide), make, implementations, FLOOR)

    yield group("lorentz", BACKWARD, sizes.loss)
    yield group("lorentz", FORWARD, sizes.loss)
    yield group("lorentz", BACKWARD, sizes.eager_loss, formula=True)
    yield group("poincare", BACKWARD, sizes.eager_loss, formula=True)


def test_contrastive_loss(group: Group, implementation: str, compare: Callable[[Group, str], None]) -> None:
    """Time one implementation of a group."""
    compare(group, implementation)
