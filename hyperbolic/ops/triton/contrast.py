"""``contrast`` and its backward on CUDA tensors, a panel of distances at a time.

A tile whose distances all pass their tests is reduced as it is made and never written. One with failures is, is
repaired, and reduced again. The backward makes its weights in the tile of the gradient alike.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyperbolic.ops.triton.gradient import Softmax, Sums, panels, weighted_gradient
from hyperbolic.ops.triton.pairwise_dist import both_rows, result_type
from hyperbolic.ops.triton.rows import Rows
from hyperbolic.ops.triton.tile import entries, failures, place, slack, tested_distance, tiling
from hyperbolic.reference.wide import round_to
from hyperbolic.validation import positive_or_nan


def contrast(model: str, x: Tensor, y: Tensor, labels: Tensor, c: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Return the partition and the distances of positives; see :class:`hyperbolic.ops.contrast.Contrast`."""
    dtype, c, temperature = result_type(x, y), _number(c), _number(temperature)
    x_rows, y_rows = both_rows(model, x, y, c)
    partition = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
    size = tiling(x.device, dtype).panel
    for i, j in panels(len(x), len(y), size):
        points = x[i : i + size], y[j : j + size], x_rows.panel(i, size), y_rows.panel(j, size)
        part = partition[i : i + size]
        torch.logaddexp(part, _panel(model, *points, c, temperature, dtype), out=part)
    positive = getattr(torch.ops.hyperbolic, f"{model}_dist")(x, y[labels], c)
    return partition.to(dtype), positive


def contrast_backward(
    model: str,
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    c: Tensor,
    temperature: Tensor,
    partition: Tensor,
    g: Tensor,
    h: Tensor,
) -> tuple[Tensor, ...]:
    """Return the cotangents of ``x``, ``y``, ``c`` and ``temperature``."""
    wide_c, wide_temperature = _number(c), _number(temperature)
    total = Sums.zeros(x, y, wide_c, partition.dtype)
    outer = (g.to(torch.float64) / -wide_temperature).to(partition.dtype)
    weights = Softmax(partition, outer, h.contiguous(), labels.contiguous(), wide_temperature)
    moved = weighted_gradient(model, x, y, wide_c, *both_rows(model, x, y, wide_c), weights, total)
    by_temperature = round_to(-moved / wide_temperature, temperature.dtype).reshape(temperature.shape)
    return *total.rounded(x, y, c), by_temperature


def _number(a: Tensor) -> Tensor:
    return positive_or_nan(a.to(torch.float64).reshape(()))


def _panel(
    model: str, x: Tensor, y: Tensor, x_rows: Rows, y_rows: Rows, c: Tensor, temperature: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return log sum_j exp(-d_ij/temperature) over the panel."""
    tile, n, m = tiling(x.device, dtype), len(x), len(y)
    failed = failures(n, m, tile.side, x.device)
    down, across = failed.shape
    d = x.new_empty((n, m), dtype=dtype)
    least, total = (x.new_empty((across, n), dtype=dtype) for _ in range(2))
    _reduce[(down * across,)](
        d, least, total, failed, down, across, x_rows.parts, len(x_rows.parts), x_rows.numbers, x_rows.capacity,
        y_rows.parts, len(y_rows.parts), y_rows.numbers, y_rows.capacity, x_rows.width, n, m, c, temperature,
        slack(x.shape[1], dtype), side=tile.side, terms=tile.terms, **tile.options,
    )  # fmt: skip
    getattr(torch.ops.hyperbolic, f"{model}_repair")(d, x, y, c, failed, tile.side, tile.side)
    _reduce_repaired[(down * across,)](
        d, least, total, failed, across, n, m, temperature, side=tile.side, **tile.options
    )
    return (total.to(torch.float64).log() - least.to(torch.float64) / temperature).logsumexp(0)


@triton.jit
def _reduce(
    d, least, total, failed, down, across, x, x_parts: tl.constexpr, x_numbers, x_count,
    y, y_parts: tl.constexpr, y_numbers, y_count, width, n, m, c, temperature, slack,
    side: tl.constexpr, terms: tl.constexpr,
):  # fmt: skip
    tile_row, tile_column = place(down, across)
    row, column = tile_row * side, tile_column * side
    t, s, bound, _, _, _, _ = entries(
        x, x_parts, x_numbers, x_count, y, y_parts, y_numbers, y_count, width, row, column, slack, side, terms
    )
    distance = tested_distance(t, s, bound) * (1.0 / tl.sqrt(tl.load(c))).to(t.dtype)
    i, j = (row + tl.arange(0, side)).to(tl.int64), (column + tl.arange(0, side)).to(tl.int64)
    there = (i[:, None] < n) & (j[None, :] < m)
    number_lost = tl.sum(((distance != distance) & there).to(tl.int32))
    tl.store(failed + tile_row * across + tile_column, number_lost)
    if number_lost > 0:
        tl.store(d + i[:, None] * m + j[None, :], distance, there)
    else:
        _store_sums(distance, there, least, total, tile_column * n + i, i < n, temperature)


@triton.jit
def _reduce_repaired(d, least, total, failed, across, n, m, temperature, side: tl.constexpr):
    tile = tl.program_id(0)
    if tl.load(failed + tile) > 0:
        i = (tile // across * side + tl.arange(0, side)).to(tl.int64)
        j = (tile % across * side + tl.arange(0, side)).to(tl.int64)
        there = (i[:, None] < n) & (j[None, :] < m)
        distance = tl.load(d + i[:, None] * m + j[None, :], there, 0.0)
        _store_sums(distance, there, least, total, tile % across * n + i, i < n, temperature)


@triton.jit
def _store_sums(distance, there, least, total, at, rows_there, temperature):
    """The least distance of each row, and the sum of exp((least - d)/temperature)."""
    rate = (1.0 / tl.load(temperature)).to(distance.dtype)
    nearest = tl.min(tl.where(there, distance, float("inf")), 1)
    share = tl.where(there, tl.exp((nearest[:, None] - distance) * rate), 0.0)
    tl.store(least + at, nearest, rows_there)
    tl.store(total + at, tl.sum(share, 1), rows_there)
