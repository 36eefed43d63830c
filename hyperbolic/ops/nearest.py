"""The indices of the nearest rows of a bank: schema, reference and fake. They have no derivative."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from hyperbolic import validation
from hyperbolic.ops.dispatch import Op, declare, map_in_turn

# Entries of the distance matrix in flight at a time.
_BLOCK = 1 << 20


def arguments(
    title: str, query: Tensor, bank: Tensor, c: float | Tensor, k: int, depth_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``query``, ``bank`` and ``c`` as tensors, after all checks that need no data."""
    query, bank, c = validation.matrices(title, ("query", "bank", "c"), (("N", "D"), ("M", "D"), ()), (query, bank, c))
    if not hasattr(type(k), "__index__"):
        raise TypeError(f"{title}: k must be an int, got {type(k).__name__}")
    if isinstance(depth_weight, bool) or not isinstance(depth_weight, (int, float, torch.SymFloat)):
        raise TypeError(f"{title}: depth_weight must be a number, got {type(depth_weight).__name__}")
    if not 1 <= k <= bank.shape[0]:
        raise ValueError(f"{title}: k must be from 1 to the {bank.shape[0]} rows of bank, got {k}")
    if not abs(depth_weight) <= sys.float_info.max:
        raise ValueError(f"{title}: depth_weight must be finite, got {depth_weight}")
    return query, bank, c


class Nearest:
    """``(query, bank, c, k, depth_weight)`` to the indices (N, k) of the highest ``depth_weight d0 - d``."""

    def __init__(self, model: str, dist: Op):
        self.dist = dist
        name = f"{model}_nearest"
        schema = "(Tensor query, Tensor bank, Tensor c, int k, float depth_weight) -> Tensor"
        self.name = name
        self.operator = declare(name, schema, self.check, self.evaluate, self.fake)
        map_in_turn(name, self.operator, self.fake)

    def check(self, query: Tensor, bank: Tensor, c: Tensor, k: int, depth_weight: float) -> None:
        """Raise ``TypeError`` or ``ValueError`` for arguments that do not fit."""
        arguments(self.name, query, bank, c, k, depth_weight)

    def fake(self, query: Tensor, bank: Tensor, c: Tensor, k: int, depth_weight: float) -> Tensor:
        """Return empty indices."""
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
            # Rows without a score are the last of all: sorted as they are, they would be the first.
            best = torch.cat([best, score.nan_to_num(-math.inf, math.inf, -math.inf)], -1)
            new = torch.arange(start, start + block.shape[0], device=index.device)
            index = torch.cat([index, new.expand(query.shape[0], -1)], -1)
            # Earlier blocks stand first, so a stable sort leaves ties in the order of the bank.
            order = best.sort(dim=-1, descending=True, stable=True).indices[:, :k]
            best, index = best.gather(-1, order), index.gather(-1, order)
        return index
