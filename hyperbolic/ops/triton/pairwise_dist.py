"""``pairwise_dist`` and its backward on CUDA tensors: matrices one after the other, gradients summed wide.

Every entry that a tile does not know well enough is left as NaN and counted; the operators of ``hyperbolic.ops.repair``
replace it from the formulas for two points. There is neither a second N x M buffer nor a meeting with the host, so that
both run under CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyperbolic.ops.triton.gradient import Gradient, Sums, weighted_gradient
from hyperbolic.ops.triton.rows import Rows, rows_of
from hyperbolic.ops.triton.tile import entries, failures, place, slack, tested_distance, tiling
from hyperbolic.validation import positive_or_nan


def pairwise_dist(model: str, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """Return the matrix of distances, (..., N, M)."""
    c = positive_or_nan(c.to(torch.float64))
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2], c.shape)
    d = x.new_empty((*batch, x.shape[-2], y.shape[-2]), dtype=result_type(x, y))
    if d.numel():
        for i in elements(batch):
            points = at(x, i, 2), at(y, i, 2), at(c, i, 0)
            distances(model, d[i], *points, *both_rows(model, *points))
    return d


def pairwise_dist_backward(model: str, x: Tensor, y: Tensor, c: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """Return the cotangents of ``x``, ``y`` and ``c``."""
    wide_c = positive_or_nan(c.to(torch.float64))
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2], c.shape)
    total = Sums.zeros(x, y, c, result_type(x, y))
    if g.numel():
        for i in elements(batch):
            points = at(x, i, 2), at(y, i, 2), at(wide_c, i, 0)
            part = Sums(*(Gradient(at(a.x, i, 3), at(a.y, i, 3), at(a.c, i, 0)) for a in total))
            weighted_gradient(model, *points, *both_rows(model, *points), at(g, i, 2), part)
    return total.rounded(x, y, c)


def result_type(x: Tensor, y: Tensor) -> torch.dtype:
    """Return the type of distances between points of these types."""
    return torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)


def elements(batch: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the index of every element of a batch."""
    return product(*map(range, batch))


def at(a: Tensor, index: tuple[int, ...], rank: int) -> Tensor:
    """What element ``index`` of the batch has of ``a``, whose last ``rank`` dimensions are no batch dimensions."""
    own = a.shape[: a.dim() - rank]
    return a[tuple(i if size > 1 else 0 for i, size in zip(index[len(index) - len(own) :], own))]


def both_rows(model: str, x: Tensor, y: Tensor, c: Tensor) -> tuple[Rows, Rows]:
    """Prepare the rows of both sides for a product."""
    dtype = result_type(x, y)
    return rows_of(model, x, c, dtype), rows_of(model, y, c, dtype)


def distances(model: str, d: Tensor, x: Tensor, y: Tensor, c: Tensor, x_rows: Rows, y_rows: Rows) -> None:
    """Writes d(x_i, y_j) to ``d``, contiguous."""
    tile, (n, m), dim = tiling(d.device, d.dtype), d.shape, x.shape[-1]
    failed = failures(n, m, tile.side, d.device)
    _distances[(failed.numel(),)](
        d, failed, *failed.shape, x_rows.parts, len(x_rows.parts), x_rows.numbers, x_rows.capacity,
        y_rows.parts, len(y_rows.parts), y_rows.numbers, y_rows.capacity, x_rows.width, n, m, c, slack(dim, d.dtype),
        side=tile.side, terms=tile.terms, **tile.options,
    )  # fmt: skip
    getattr(torch.ops.hyperbolic, f"{model}_repair")(d, x, y, c, failed, tile.side, tile.side)


@triton.jit
def _distances(
    d, failed, down, across, x, x_parts: tl.constexpr, x_numbers, x_count,
    y, y_parts: tl.constexpr, y_numbers, y_count, width, n, m, c, slack, side: tl.constexpr, terms: tl.constexpr,
):  # fmt: skip
    tile_row, tile_column = place(down, across)
    row, column = tile_row * side, tile_column * side
    t, s, bound, _, _, _, _ = entries(
        x, x_parts, x_numbers, x_count, y, y_parts, y_numbers, y_count, width, row, column, slack, side, terms
    )
    result = tested_distance(t, s, bound)
    i, j = row + tl.arange(0, side)[:, None], column + tl.arange(0, side)[None, :]
    there = (i < n) & (j < m)
    tl.store(failed + tile_row * across + tile_column, tl.sum(((result != result) & there).to(tl.int32)))
    unit = (1.0 / tl.sqrt(tl.load(c))).to(result.dtype)
    tl.store(d + i.to(tl.int64) * m + j, result * unit, there)
