"""``nearest`` on CUDA tensors: the highest score that each pair may have, and exact scores of those that could win.

Products give every pair a bound on its score that holds whatever their rounding. The k best bounds and some to spare
are candidates, and their scores, from the formula for two points in twice the digits of float64, decide. They are the
choice if the k-th exceeds the bounds of all others. Where it does not, because too many are too close to tell, a query
is measured against the whole bank; to know which, the host waits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyperbolic.ops.triton.pairwise_dist import result_type
from hyperbolic.ops.triton.rows import Rows, rows_of
from hyperbolic.ops.triton.tile import entries, in_range, log1p_positive, place, slack, tiling
from hyperbolic.validation import positive_or_nan

_SPARE = 16
# Numbers in flight: bounds, coordinates of candidates, distances to a whole bank.
_MOST = 1 << 24


def nearest(model: str, query: Tensor, bank: Tensor, c: Tensor, k: int, depth_weight: float) -> Tensor:
    """Return the indices (N, k) of the highest scores; see :class:`hyperbolic.ops.nearest.Nearest`."""
    c = positive_or_nan(c.to(torch.float64).reshape(()))
    index = query.new_empty((len(query), k), dtype=torch.int64)
    step = max(1, min(len(query), tiling(query.device, result_type(query, bank)).panel))
    for i in range(0, len(query), step):
        rows = query[i : i + step]
        candidates, others = _candidates(model, rows, bank, c, min(k + _SPARE, len(bank)), depth_weight)
        best, score = _ordered(model, rows, bank, c, candidates, depth_weight)
        index[i : i + step] = best[:, :k]
        if candidates.shape[1] < len(bank):
            unsure = (~(score[:, k - 1] > others)).nonzero()[:, 0]
            if len(unsure):
                index[i + unsure] = _measured(model, rows[unsure], bank, c, k, depth_weight)
    return index


def _candidates(
    model: str, query: Tensor, bank: Tensor, c: Tensor, count: int, depth_weight: float
) -> tuple[Tensor, Tensor]:
    """The indices of the ``count`` highest bounds, and the lowest of these: no other score exceeds it."""
    dtype = result_type(query, bank)
    tile = tiling(query.device, dtype)
    query_rows = rows_of(model, query, c, dtype)
    weight = torch.full_like(c, depth_weight)
    best = query.new_empty((len(query), 0), dtype=dtype)
    index = torch.empty_like(best, dtype=torch.int64)
    step = max(tile.side, _MOST // max(len(query), bank.shape[1]) // tile.side * tile.side)
    for j in range(0, len(bank), step):
        bank_rows = rows_of(model, bank[j : j + step], c, dtype)
        bounds = query.new_empty((len(query), bank_rows.length), dtype=dtype)
        _bound(bounds, query_rows, bank_rows, c, weight, query.shape[1])
        top = bounds.topk(min(count, bounds.shape[1]))
        best, index = torch.cat([best, top.values], 1), torch.cat([index, top.indices + j], 1)
        top = best.topk(min(count, best.shape[1]))
        best, index = top.values, index.gather(1, top.indices)
    return index, best[:, -1].to(torch.float64)


def _bound(bounds: Tensor, query: Rows, bank: Rows, c: Tensor, depth_weight: Tensor, dim: int) -> None:
    tile, (n, m) = tiling(bounds.device, bounds.dtype), bounds.shape
    down, across = triton.cdiv(n, tile.side), triton.cdiv(m, tile.side)
    _highest_scores[(down * across,)](
        bounds, down, across, query.parts, len(query.parts), query.numbers, query.capacity,
        bank.parts, len(bank.parts), bank.numbers, bank.capacity, bank.width, n, m, c, depth_weight,
        slack(dim, bounds.dtype),
        side=tile.side, terms=tile.terms, **tile.options,
    )  # fmt: skip


def _ordered(
    model: str, query: Tensor, bank: Tensor, c: Tensor, index: Tensor, depth_weight: float
) -> tuple[Tensor, Tensor]:
    """Candidates by their scores, and these; ties by index."""
    index = index.sort(1).values
    dist = getattr(torch.ops.hyperbolic, f"{model}_dist")
    scores = [torch.empty(0, index.shape[1], dtype=torch.float64, device=index.device)]
    step = max(1, _MOST // (index.shape[1] * bank.shape[1]))
    for i in range(0, len(query), step):
        points = bank[index[i : i + step]].to(torch.float64)
        score = -dist(query[i : i + step, None].to(torch.float64), points, c)
        if depth_weight:
            score += depth_weight * dist(points.new_zeros(points.shape[-1:]), points, c)
        scores.append(score)
    best = torch.cat(scores).nan_to_num(-torch.inf, torch.inf, -torch.inf).sort(dim=1, descending=True, stable=True)
    return index.gather(1, best.indices), best.values


def _measured(model: str, query: Tensor, bank: Tensor, c: Tensor, k: int, depth_weight: float) -> Tensor:
    """The choice of queries for which the bounds do not decide."""
    best = torch.empty(len(query), 0, dtype=torch.float64, device=query.device)
    index = torch.empty_like(best, dtype=torch.int64)
    step = max(1, _MOST // max(len(query), bank.shape[1]))
    for j in range(0, len(bank), step):
        block = bank[j : j + step]
        d = best.new_full((len(query), len(block)), torch.nan)
        # one tile, all of it to be replaced
        every = torch.full((1, 1), d.numel(), dtype=torch.int32, device=d.device)
        getattr(torch.ops.hyperbolic, f"{model}_repair")(d, query, block, c, every, *d.shape)
        score = -d
        if depth_weight:
            dist = getattr(torch.ops.hyperbolic, f"{model}_dist")
            score += depth_weight * dist(block.new_zeros(block.shape[-1:]), block.to(torch.float64), c)
        best = torch.cat([best, score.nan_to_num(-torch.inf, torch.inf, -torch.inf)], 1)
        new = torch.arange(j, j + len(block), device=index.device)
        index = torch.cat([index, new.expand(len(query), -1)], 1)
        # Earlier rows stand first, so a stable sort leaves ties in the order of the bank.
        order = best.sort(dim=1, descending=True, stable=True).indices[:, : k + _SPARE]
        best, index = best.gather(1, order), index.gather(1, order)
    return _ordered(model, query, bank, c, index, depth_weight)[0][:, :k]


@triton.jit
def _highest_scores(
    bounds, down, across, x, x_parts: tl.constexpr, x_numbers, x_count,
    y, y_parts: tl.constexpr, y_numbers, y_count, width, n, m, c, depth_weight, slack,
    side: tl.constexpr, terms: tl.constexpr,
):  # fmt: skip
    tile_row, tile_column = place(down, across)
    row, column = tile_row * side, tile_column * side
    t, _, moved, _, _, _, _ = entries(
        x, x_parts, x_numbers, x_count, y, y_parts, y_numbers, y_count, width, row, column, slack, side, terms
    )
    unit = 1.0 / tl.sqrt(tl.load(c))
    least = tl.where(t > moved, t - moved, 0.0)
    distance = log1p_positive(least + tl.sqrt(least * (least + 2.0))) * unit.to(t.dtype)
    u = tl.load(y_numbers + column + tl.arange(0, side))
    depth = log1p_positive(u + tl.sqrt(u * (u + 2.0))) * unit
    bonus = (depth * tl.load(depth_weight)).to(t.dtype)[None, :]
    # rounding in roots, logarithms and sums
    loose: tl.constexpr = 4e-15 if t.dtype == tl.float64 else 2e-6
    highest = (bonus - distance) + (tl.abs(bonus) + distance) * loose
    # what under- or overflowed may be anything, and so may a bonus that is infinite
    highest = tl.where(in_range(t, True) & (highest == highest), highest, float("inf"))
    i, j = row + tl.arange(0, side)[:, None], column + tl.arange(0, side)[None, :]
    tl.store(bounds + i.to(tl.int64) * m + j, highest, (i < n) & (j < m))
