"""The indices of the nearest rows of a bank: schema, reference, fake and vmap. They have no derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperbolic.ops.dispatch import Op, library

# Entries of the distance matrix in flight at a time.
_BLOCK = 1 << 20


class Nearest:
    """``(query, bank, c, k, depth_weight)`` to the indices (N, k) of the highest ``depth_weight d0 - d``."""

    def __init__(self, model: str, dist: Op):
        self.dist = dist
        name = f"{model}_nearest"
        library.define(
            f"{name}(Tensor query, Tensor bank, Tensor c, int k, float depth_weight) -> Tensor",
            tags=(torch.Tag.pt2_compliant_tag,),
        )
        library.impl(name, self.evaluate, "CompositeExplicitAutograd")
        torch.library.register_fake(f"hyperbolic::{name}", self.fake, lib=library)
        torch.library.register_vmap(f"hyperbolic::{name}", self.vmap, lib=library)
        self.operator = getattr(torch.ops.hyperbolic, name).default

    def fake(self, query: Tensor, bank: Tensor, c: Tensor, k: int, depth_weight: float) -> Tensor:
        return query.new_empty((query.shape[0], k), dtype=torch.int64)

    def evaluate(self, query: Tensor, bank: Tensor, c: Tensor, k: int, depth_weight: float) -> Tensor:
        """The reference: scores in float64, so that rounding to the points' type makes no ties."""
        query, distance = query.to(torch.float64), self.dist.level.evaluate
        best = query.new_empty(query.shape[0], 0)
        index = torch.empty_like(best, dtype=torch.int64)
        rows = max(1, _BLOCK // max(1, query.shape[0]))
        for start in range(0, bank.shape[0], rows):
            block = bank[start : start + rows].to(torch.float64)
            score = -distance(query[:, None, :], block, c)
            if depth_weight:
                score = score + depth_weight * distance(torch.zeros_like(block[:1]), block, c)
            best = torch.cat([best, score], -1)
            new = torch.arange(start, start + block.shape[0], device=index.device)
            index = torch.cat([index, new.expand(query.shape[0], -1)], -1)
            # Earlier blocks stand first, so a stable sort leaves ties in the order of the bank.
            order = best.sort(dim=-1, descending=True, stable=True).indices[:, :k]
            best, index = best.gather(-1, order), index.gather(-1, order)
        return index

    def vmap(self, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        each = [
            self.operator(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims)))
            for i in range(info.batch_size)
        ]
        return torch.stack(each), 0
