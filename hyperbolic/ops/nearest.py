"""The indices of the nearest rows of a bank: schema, reference and fake. They have no derivative."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperbolic.ops.dispatch import Op, declare, map_in_turn

# Entries of the distance matrix in flight at a time.
_BLOCK = 1 << 20


class Nearest:
    """``(query, bank, c, k, depth_weight)`` to the indices (N, k) of the highest ``depth_weight d0 - d``."""

    def __init__(self, model: str, dist: Op):
        self.dist = dist
        name = f"{model}_nearest"
        schema = "(Tensor query, Tensor bank, Tensor c, int k, float depth_weight) -> Tensor"
        self.operator = declare(name, schema, self.evaluate, self.fake)
        map_in_turn(name, self.operator)

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
