"""Rows of all processes, with their gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


# As torch.distributed.nn.functional.all_gather, which torch has deprecated for a function of a private module.
class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Any) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(parts, rows, group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        # Every process has a gradient for every row; a row's own process gets their sum.
        g = g.contiguous()
        distributed.all_reduce(g, group=ctx.group)
        return g.chunk(distributed.get_world_size(ctx.group))[distributed.get_rank(ctx.group)], None


def gather(rows: Tensor, group: Any) -> Tensor:
    """The rows (N, D) of all processes of the group, those of the own one first.

    ``ValueError`` unless all bring as many. The gradient of the own rows is the sum of what all processes send back.
    """
    world, rank = distributed.get_world_size(group), distributed.get_rank(group)
    sizes = [torch.zeros(2, dtype=torch.int64, device=rows.device) for _ in range(world)]
    distributed.all_gather(sizes, torch.tensor(rows.shape, device=rows.device), group=group)
    if any(size.tolist() != list(rows.shape) for size in sizes):
        shapes = [tuple(size.tolist()) for size in sizes]
        raise ValueError(f"every process must bring rows of one shape, got {shapes}")
    everyone: Tensor = _Gather.apply(rows.contiguous(), group)
    return torch.cat([everyone[rank * len(rows) :], everyone[: rank * len(rows)]])
