"""What the kernels over all pairs need of each row, written once: its coordinates in parts, and four numbers.

The numbers are those of ``row_invariants`` in csrc/math/pairwise.h, from |x|^2 accumulated in double-double, because
1 - c|x|^2 of a ball's point near the rim is what |x|^2 leaves over.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hyperbolic.ops.triton.tile import store_parts, tiling


class Rows(NamedTuple):
    """Rows, padded to whole tiles by rows that are 0 and pass every test."""

    parts: Tensor  # (parts, rows, width): coordinates, of the type that is multiplied, padded by 0
    numbers: Tensor  # (4, rows), float64: u = cosh r - 1, k, n = sinh r, and the row's own part in the gradient of t
    length: int  # without padding

    @property
    def width(self) -> int:
        """How many coordinates a row has, with those that fill it up."""
        return self.parts.shape[-1]

    @property
    def capacity(self) -> int:
        """Rows of the whole, padding included, of which this may be a panel."""
        return self.numbers.stride(0)

    def panel(self, begin: int, size: int) -> Rows:
        """Return the rows of a panel."""
        end = begin + size
        return Rows(self.parts[:, begin:end], self.numbers[:, begin:end], min(size, self.length - begin))


# bfloat16 numbers that a number is the sum of.
_PARTS = {torch.bfloat16: 1, torch.float16: 2, torch.float32: 3}


def rows_of(model: str, a: Tensor, c: Tensor, dtype: torch.dtype) -> Rows:
    """Of the matrix ``a``, for results of ``dtype``. ``c`` is a number in float64."""
    tile, wide = tiling(a.device, dtype), dtype == torch.float64
    length, dim = a.shape
    count, width = (triton.cdiv(size, step) * step for size, step in ((length, tile.side), (dim, tile.terms)))
    parts = a.new_empty((1 if wide else _PARTS[a.dtype], count, width), dtype=tile.part)
    numbers = a.new_empty((4, count), dtype=torch.float64)
    columns = min(128, triton.next_power_of_2(width))
    # Without fused multiply-adds, which would break the identities of double-double arithmetic.
    _describe[(count // tile.terms,)](
        a, *a.stride(), c, parts, numbers, length, dim, count, width,
        is_ball=model == "poincare", wide=wide, parts_count=len(parts),
        rows=tile.terms, columns=columns, halvings=int(math.log2(columns)), enable_fp_fusion=False,
    )  # fmt: skip
    return Rows(parts, numbers, length)


@triton.jit
def _describe(
    a, a_row, a_column, c, parts, numbers, length, dim, count, width,
    is_ball: tl.constexpr, wide: tl.constexpr, parts_count: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, halvings: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    i = row[:, None]
    high = tl.zeros((rows, columns), tl.float64)
    low = tl.zeros((rows, columns), tl.float64)
    for start in range(0, width, columns):
        k = (start + tl.arange(0, columns)[None, :]).to(tl.int64)
        x = tl.load(a + i * a_row + k * a_column, mask=(i < length) & (k < dim), other=0.0)
        if wide:
            x = x.to(tl.float64)
        elif x.dtype != tl.float32:
            x = x.to(tl.float32)
        store_parts(parts + i * width + k, count.to(tl.int64) * width, x, k < width, parts_count)
        x = x.to(tl.float64)
        p, e = two_prod(x, x)
        high, rest = two_sum(high, p)
        low += rest + e
    for step in tl.static_range(halvings):
        first, second = tl.split(tl.reshape(high, (rows, columns >> (step + 1), 2)))
        low_first, low_second = tl.split(tl.reshape(low, (rows, columns >> (step + 1), 2)))
        high, rest = two_sum(first, second)
        low = low_first + low_second + rest
    high, low = tl.reshape(high, (rows,)), tl.reshape(low, (rows,))
    c = tl.load(c)
    q, rest = two_prod(high, tl.zeros_like(high) + c)
    root = tl.sqrt(c)
    if is_ball:
        # NaN outside the ball, so that every entry fails its test
        alpha = (1.0 - q) - (rest + c * low)
        alpha = tl.where(alpha > 0, alpha, float("nan"))
        u, k, n, radial = 2 * q / alpha, 2 * root / alpha, 2 * tl.sqrt(q) / alpha, 2 * c / alpha
    else:
        e = tl.sqrt(q + 1.0)
        u, k, n, radial = q / (e + 1.0), tl.zeros_like(q) + root, tl.sqrt(q), c / e
    there = row < length
    numbers += row
    tl.store(numbers, tl.where(there, u, 1.0))
    tl.store(numbers + count, tl.where(there, k, 0.0))
    tl.store(numbers + 2 * count, tl.where(there, n, 0.0))
    tl.store(numbers + 3 * count, tl.where(there, radial, 0.0))


# The error-free transformations of hyperbolic/reference/wide.py.


@triton.jit
def two_sum(a, b):
    """Return the rounded sum and what rounding took from it."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@triton.jit
def two_prod(a, b):
    """Return the rounded product and what rounding took from it."""
    p = a * b
    a1, b1 = _head(a), _head(b)
    a2, b2 = a - a1, b - b1
    return p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2


@triton.jit
def _head(a):
    return ((a.to(tl.int64, bitcast=True) + 0x4000000) & -0x8000000).to(tl.float64, bitcast=True)
