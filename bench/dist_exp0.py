"""``dist_exp0``, the loss between hidden states taken as tangents, against the squared error of the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from harness import peers, points
from harness.measure import BACKWARD, OURS, Group, Implementation, both_ways
from harness.rows import MODULES
from harness.sizes import Sizes, shape
from torch import Tensor
from torch.nn.functional import mse_loss

OP = "dist_exp0"
FLOOR = "F.mse_loss"


def inputs(model: str, dtype: torch.dtype, *sizes: int) -> list[Tensor]:
    """Return the arguments of one measurement."""
    tangents = [points.tangents0(model, seed, *sizes).to(dtype) for seed in (1, 2)]
    # Its distances are float32 whatever the tangents are.
    return [*tangents, points.normal(3, *sizes[:-1])]


def to_scalar(u: Tensor, v: Tensor, _: Tensor) -> list[Tensor]:
    """Return the arguments for a function with a curvature."""
    return [u, v, torch.ones((), dtype=u.dtype)]


def groups(sizes: Sizes) -> Iterator[Group]:
    """Yield the groups of implementations that are timed side by side."""
    for model, module in MODULES.items():
        composed = peers.geoopt_function(model, "dist_exp0")

        def in_float32(u: Tensor, v: Tensor, composed: peers.Function = composed) -> Tensor:
            # bfloat16 has no digits to spare for geoopt's formulas: they are always run on float32.
            return composed(u.float(), v.float())

        def padded(u: Tensor, v: Tensor, composed: peers.Function = in_float32) -> Tensor:
            return composed(*map(points.ambient_tangent, (u, v)))

        for dtype in (torch.float32, torch.bfloat16):
            implementations = {
                OURS: Implementation(both_ways(module.dist_exp0)),
                FLOOR: Implementation(both_ways(mse_loss), to_scalar),
                "geoopt": Implementation(both_ways(padded if model == "lorentz" else in_float32)),
            }
            make = partial(inputs, model, dtype, *sizes.tangents)
            name = str(dtype).removeprefix("torch.")
            yield Group(OP, "", model, BACKWARD, shape(*sizes.tangents), make, implementations, FLOOR, name)


def test_dist_exp0(group: Group, implementation: str, compare: Callable[[Group, str], None]) -> None:
    """Time one implementation of a group."""
    compare(group, implementation)
