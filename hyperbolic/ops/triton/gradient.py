"""The gradient of a weighted sum of all distances, a panel of the matrix of pairs at a time.

As in csrc/cpu/kernels/pairwise_gradient.h: at x_i it is sum_j w_ij (a_i h_ij x_i - k_i k_j y_j)/sqrt(c) with
w = g/sinh D, h = cosh r_j (plus cosh D in the ball), and alike at y_j. So one matrix W_ij = w_ij k_i k_j serves both
sides: W y and W^T x are two more products. Entries that a product must not serve are 0 in W and left to
``hyperbolic.ops.repair``. Sums are taken in one order: over tiles in float64, over what is left in double-double for
float64 data.

The weights g are given, or are made here of the distances: those of the contrastive loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyperbolic.ops.triton.rows import Rows
from hyperbolic.ops.triton.tile import (
    curvature_slope,
    entries,
    failures,
    place,
    product,
    product_of_k,
    slack,
    store_parts,
    tested_distance,
    tested_slope,
    tiling,
)
from hyperbolic.reference.wide import DoubleDouble, Wide, round_to


class Gradient(NamedTuple):
    """By the points, words along a last dimension, and by the curvature parameter, in float64."""

    x: Tensor
    y: Tensor
    c: Tensor


class Sums(NamedTuple):
    """What products and single pairs add to a gradient.

    Apart for float64 data, whose pairs are summed in double-doubles (``hyperbolic.ops.repair`` says why). One word is
    enough for products: far out, pairs with a large part across the radius do not pass the test of their terms.
    """

    products: Gradient
    pairs: Gradient

    @staticmethod
    def zeros(x: Tensor, y: Tensor, c: Tensor, dtype: torch.dtype) -> Sums:
        """Return sums of nothing for these arguments."""

        def zeros(words: int) -> Gradient:
            sizes = (*x.shape, words), (*y.shape, words), c.shape
            return Gradient(*(torch.zeros(size, dtype=torch.float64, device=x.device) for size in sizes))

        products = zeros(1)
        return Sums(products, zeros(2) if dtype == torch.float64 else products)

    def panel(self, i: int, j: int, size: int) -> Sums:
        """Return the sums of the rows of a panel."""
        return Sums(*(Gradient(a.x[i : i + size], a.y[j : j + size], a.c) for a in self))

    def rounded(self, *like: Tensor) -> tuple[Tensor, ...]:
        """Return the sums, rounded to the types of the arguments ``like``."""
        total: list[Wide] = [self.products.x[..., 0], self.products.y[..., 0], self.products.c]
        if self.pairs is not self.products:
            pairs = DoubleDouble(*self.pairs.x.unbind(-1)), DoubleDouble(*self.pairs.y.unbind(-1)), self.pairs.c
            total = [a + b for a, b in zip(pairs, total)]
        return tuple(round_to(a, b.dtype).reshape(b.shape) for a, b in zip(total, like))


class Softmax(NamedTuple):
    """Of ``sum_i g_i log sum_j exp(-d_ij/temperature) + h_i d_i,labels_i``: what the weights g_ij are made of."""

    partition: Tensor  # the logarithms, (N,)
    outer: Tensor  # -g/temperature
    positive: Tensor  # h
    labels: Tensor
    temperature: Tensor  # float64

    def rows(self, begin: int, size: int) -> Softmax:
        """Return the numbers of the rows of a panel."""
        partition, outer, positive, labels = (a[begin : begin + size] for a in self[:-1])
        return Softmax(partition, outer, positive, labels, self.temperature)


def panels(n: int, m: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and column of every panel of a matrix."""
    for i in range(0, n, size):
        for j in range(0, m, size):
            yield i, j


def weighted_gradient(
    model: str, x: Tensor, y: Tensor, c: Tensor, x_rows: Rows, y_rows: Rows, weights: Tensor | Softmax, total: Sums
) -> Tensor:
    """Adds the gradient to ``total``. Returns ``sum_ij g_ij d_ij`` without positives for a ``Softmax``, else 0."""
    dtype = torch.float64 if x_rows.parts.dtype == torch.float64 else torch.float32
    size = tiling(x.device, dtype).panel
    moved = torch.zeros((), dtype=torch.float64, device=x.device)
    for i, j in panels(len(x), len(y), size):
        own = weights.rows(i, size) if isinstance(weights, Softmax) else weights[i : i + size, j : j + size]
        sides = x_rows.panel(i, size), y_rows.panel(j, size)
        moved += _add_panel(model, x[i : i + size], y[j : j + size], c, *sides, own, j, dtype, total.panel(i, j, size))
    return moved


def _add_panel(
    model: str,
    x: Tensor,
    y: Tensor,
    c: Tensor,
    x_rows: Rows,
    y_rows: Rows,
    weights: Tensor | Softmax,
    first_column: int,
    dtype: torch.dtype,
    total: Sums,
) -> Tensor:
    tile, n, m, dim = tiling(x.device, dtype), len(x), len(y), x.shape[1]
    side, options = tile.small, tile.options | {"num_warps": tile.warps // 2}
    failed = failures(n, m, side, x.device)
    down, across = failed.shape

    def new(*shape: int) -> Tensor:
        return x.new_empty(shape, dtype=dtype)

    # 2^-16 of a weight is its third part
    parts = 1 if dtype == torch.float64 else 3
    w = x.new_empty((parts, x_rows.parts.shape[1], y_rows.parts.shape[1]), dtype=tile.part)
    marks = new(n, m)
    own_x, own_y = new(across, n), new(down, m)
    by_c, moved = new(down, across), new(down, across)
    soft: Sequence[Tensor | None] = [None] * len(Softmax._fields)
    d = None
    if isinstance(weights, Softmax):
        soft, d = weights, new(n, m)
        g = d
    else:
        g = weights
    _weigh[(down * across,)](
        w, w.stride(0), w.stride(1), marks, d, failed, own_x, own_y, by_c, moved, down, across,
        x_rows.parts, len(x_rows.parts), x_rows.numbers, x_rows.capacity,
        y_rows.parts, len(y_rows.parts), y_rows.numbers, y_rows.capacity, x_rows.width, n, m,
        g, *g.stride(), *soft, first_column, c, slack(dim, dtype),
        w_parts=parts, is_ball=model == "poincare", soft=d is not None, side=side, terms=tile.terms,
        **options,
    )  # fmt: skip
    if d is not None:
        getattr(torch.ops.hyperbolic, f"{model}_repair")(d, x, y, c, failed, side, side)
        _weigh_repaired[(down * across,)](
            d, marks, failed, moved, across, n, m, *soft, first_column, side=side, **options
        )
    for out, a, own, rows, others, strides in (
        (total.products.x, x, own_x, x_rows, y_rows, w.stride()),
        (total.products.y, y, own_y, y_rows, x_rows, (w.stride(0), w.stride(2), w.stride(1))),
    ):
        columns = math.gcd(others.width, tile.side)
        length = rows.length
        along = own.sum(0, dtype=torch.float64) * rows.numbers[3, :length]
        grid = triton.cdiv(length, tile.side), others.width // columns
        _add_products[grid](
            out, *out.stride()[:2], a, *a.stride(), along, w, *strides, parts,
            others.parts, others.parts.stride(0), len(others.parts), others.width, length, dim,
            triton.cdiv(others.length, side) * side, c,
            side=tile.side, columns=columns, terms=tile.terms, **tile.options,
        )  # fmt: skip
    total.products.c.add_(by_c.sum(dtype=torch.float64) / (2 * c * c.sqrt()))
    repair = getattr(torch.ops.hyperbolic, f"{model}_repair_backward")
    repair(marks, g, x, y, c, *total.pairs, failed, side, side)
    return moved.sum(dtype=torch.float64)


@triton.jit
def _weigh(
    w, w_part, w_row, marks, d, failed, own_x, own_y, by_c, moved, down, across,
    x, x_parts: tl.constexpr, x_numbers, x_count, y, y_parts: tl.constexpr, y_numbers, y_count, width, n, m,
    g, g_row, g_column, partition, outer, positive, labels, temperature, first_column, c, slack,
    w_parts: tl.constexpr, is_ball: tl.constexpr, soft: tl.constexpr, side: tl.constexpr, terms: tl.constexpr,
):  # fmt: skip
    """Of a tile: W, its share of the sums of w h along both sides and of the gradient by c, and what has failed."""
    tile_row, tile_column = place(down, across)
    tile = tile_row * across + tile_column
    row, column = tile_row * side, tile_column * side
    t, s, bound, ux, nx, uy, ny = entries(
        x, x_parts, x_numbers, x_count, y, y_parts, y_numbers, y_count, width, row, column, slack, side, terms
    )
    slope = tested_slope(t, s, bound, ux, nx, uy, ny)
    i, j = (row + tl.arange(0, side)[:, None]).to(tl.int64), (column + tl.arange(0, side)[None, :]).to(tl.int64)
    there = (i < n) & (j < m)
    if soft:
        distance = tested_distance(t, s, bound) * (1.0 / tl.sqrt(tl.load(c))).to(t.dtype)
        share = softmax_weight(distance, i, n, partition, outer, temperature)
        gij = tl.where(there, share + positive_weight(i, n, first_column + j, positive, labels, t.dtype), 0.0)
    else:
        gij = tl.load(g + i * g_row + j * g_column, mask=there, other=0.0).to(t.dtype)
    known = (slope == slope) & (gij == gij)
    lost = ((known | (gij == 0.0)) == 0) & there
    weight = tl.where(known, gij * slope, 0.0)
    number_lost = tl.sum(lost.to(tl.int32))
    tl.store(failed + tile, number_lost)
    k = product_of_k(x_numbers, x_count, y_numbers, y_count, row, column, t.dtype, side)
    store_parts(w + i * w_row + j, w_part, weight * k, i >= 0, w_parts)
    shared = tl.where(known, t + 1.0, 0.0) if is_ball else tl.zeros_like(t)
    own_row, own_column = row + tl.arange(0, side), column + tl.arange(0, side)
    tl.store(own_x + tile_column * n + own_row, tl.sum(weight * (uy + 1.0 + shared), 1), own_row < n)
    tl.store(own_y + tile_row * m + own_column, tl.sum(weight * (ux + 1.0 + shared), 0), own_column < m)
    tl.store(by_c + tile, tl.sum(tl.where(known, gij * curvature_slope(t, s, slope, ux, uy, is_ball), 0.0)))
    if soft:
        tl.store(moved + tile, tl.sum(tl.where(there & (lost == 0), share * distance, 0.0)))
    else:
        tl.store(moved + tile, 0.0)
    if number_lost > 0:
        at = i * m + j
        tl.store(marks + at, tl.where(lost, float("nan"), tl.zeros_like(t)), there)
        if soft:
            tl.store(d + at, tl.where(lost, float("nan"), distance), there)


@triton.jit
def _weigh_repaired(
    d, marks, failed, moved, across, n, m, partition, outer, positive, labels, temperature, first_column,
    side: tl.constexpr,
):  # fmt: skip
    """Turns the distances of a tile in which entries failed into weights."""
    tile = tl.program_id(0)
    if tl.load(failed + tile) > 0:
        i = (tile // across * side + tl.arange(0, side)[:, None]).to(tl.int64)
        j = (tile % across * side + tl.arange(0, side)[None, :]).to(tl.int64)
        there = (i < n) & (j < m)
        at = i * m + j
        distance, mark = tl.load(d + at, there, 0.0), tl.load(marks + at, there, 0.0)
        share = softmax_weight(distance, i, n, partition, outer, temperature)
        weight = share + positive_weight(i, n, first_column + j, positive, labels, distance.dtype)
        tl.store(d + at, weight, there)
        rest = tl.sum(tl.where(mark != mark, share * distance, 0.0))
        tl.store(moved + tile, tl.load(moved + tile) + rest)


@triton.jit
def softmax_weight(distance, i, n, partition, outer, temperature):
    """Return outer_i exp(-d_ij/temperature - partition_i)."""
    there = i < n
    rate = (1.0 / tl.load(temperature)).to(distance.dtype)
    exponent = -distance * rate - tl.load(partition + i, there, 0.0).to(distance.dtype)
    # at most 0 but for rounding
    exponent = tl.where(exponent > 0, 0.0, exponent)
    return tl.load(outer + i, there, 0.0).to(distance.dtype) * tl.exp(exponent)


@triton.jit
def positive_weight(i, n, j, positive, labels, dtype):
    """Return h_i where column j is the positive of row i, else 0."""
    there = i < n
    chosen = tl.load(labels + i, there, -1) == j
    return tl.where(chosen, tl.load(positive + i, there, 0.0).to(dtype), 0.0)


@triton.jit
def _add_products(
    out, out_row, out_column, a, a_row, a_column, along, w, w_part, w_row, w_column, w_parts: tl.constexpr,
    others, others_part, others_parts: tl.constexpr, width, n, dim, count, c,
    side: tl.constexpr, columns: tl.constexpr, terms: tl.constexpr,
):  # fmt: skip
    """Adds (along_i a_i - sum_j w_ij others_j)/sqrt(c)."""
    row, column = tl.program_id(0).to(tl.int64) * side, tl.program_id(1) * columns
    sums = product(
        w + row * w_row, w_part, w_row, w_column, w_parts, others + column, others_part, width, 1, others_parts, count,
        side, columns, terms,
    )  # fmt: skip
    i, k = row + tl.arange(0, side)[:, None], (column + tl.arange(0, columns)[None, :]).to(tl.int64)
    there = (i < n) & (k < dim)
    own = tl.load(along + i, i < n, 0.0) * tl.load(a + i * a_row + k * a_column, there, 0.0).to(tl.float64)
    at = out + i * out_row + k * out_column
    unit = 1.0 / tl.sqrt(tl.load(c))
    tl.store(at, tl.load(at, there, 0.0) + unit * (own - sums.to(tl.float64)), there)
