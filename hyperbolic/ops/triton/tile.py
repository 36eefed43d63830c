"""A tile of the matrix of pairs: its inner products, and what an entry is made of.

The formulas, the tests of an entry and their names are those of csrc/math/pairwise.h; docs/numerics.md derives them,
and rows.py says what a tile gets of each row. What differs from the CPU is the product. float32 coordinates are sums
of three bfloat16 numbers, x = x1 + x2 + x3, without a remainder, and a product is the six of nine that exceed 2^-25 of
it, each exact in float32: as fast as three products of tf32 pairs, which drop 2^-22. float64 coordinates and those of
the half types are multiplied as they are.

The tensor cores truncate as they add, always towards 0 for terms of one sign. So they add no more than ``terms`` at a
time, small products first; sums of these are rounded. A product is then within 6 + sqrt(dim)/6 units of roundoff of the
exact one, relative to the sum of absolute terms: truncation is a constant, since each sum is as much smaller as there
are more, and rounding grows by the root. The sizes that an entry's error is measured by are twice that sum, and 2
units are for what is computed from the product: that is ``slack``. tests/hyperbolic/ops/triton/test_kernels.py holds
the product to it on tensor cores that drop every bit they may.

bfloat16 data is one part and float16 data two, so that their products are one and three.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Tiling(NamedTuple):
    """How the work is cut up.

    Rows and columns of a tile, and of one with more to hold in registers; terms that are added at a time; rows and
    columns of a panel of tiles; and the type of what is multiplied.
    """

    side: int
    small: int
    terms: int
    panel: int
    warps: int
    stages: int
    part: torch.dtype

    @property
    def options(self) -> dict[str, Any]:
        """The options of a launch."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


# The interpreter, which is what runs on the CPU, gets small ones: few points there make many tiles. It does not
# multiply bfloat16; float32 holds the same numbers.
TILING = {
    ("cuda", torch.float32): Tiling(side=128, small=64, terms=32, panel=4096, warps=8, stages=3, part=torch.bfloat16),
    ("cuda", torch.float64): Tiling(side=64, small=32, terms=16, panel=4096, warps=8, stages=3, part=torch.float64),
    ("cpu", torch.float32): Tiling(side=16, small=16, terms=16, panel=32, warps=4, stages=1, part=torch.float32),
    ("cpu", torch.float64): Tiling(side=16, small=16, terms=16, panel=32, warps=4, stages=1, part=torch.float64),
}


def tiling(device: torch.device, dtype: torch.dtype) -> Tiling:
    """For results of ``dtype``, float32 or float64."""
    return TILING[device.type, dtype]


def slack(dim: int, dtype: torch.dtype) -> float:
    """The error of cosh D - 1 relative to the sum of the sizes of its terms, at most."""
    return (5 + math.sqrt(dim) / 12) * torch.finfo(dtype).eps / 2


@triton.jit
def place(tiles_down, tiles_across):
    """Row and column of this program's tile. Neighbours in time share rows and columns that the cache holds."""
    group: tl.constexpr = 8
    index = tl.program_id(0)
    first = index // (group * tiles_across) * group
    height = tl.minimum(tiles_down - first, group)
    within = index % (group * tiles_across)
    return first + within % height, within // height


# --- products ------------------------------------------------------------------------------------------------------


@triton.jit
def rounded(x):
    """To the 8 digits of bfloat16, as float32. NaN stays NaN."""
    bits = x.to(tl.int32, bitcast=True)
    nearest = ((bits + 0x8000) & -0x10000).to(tl.float32, bitcast=True)
    return tl.where(x == x, nearest, x)


@triton.jit
def store_parts(to, part, x, mask, parts: tl.constexpr):
    """Stores x, or the ``parts`` whose sum it is, ``part`` apart."""
    for _ in tl.static_range(parts - 1):
        high = rounded(x)
        tl.store(to, high.to(to.dtype.element_ty), mask)
        to += part
        x -= high
    tl.store(to, x.to(to.dtype.element_ty), mask)


@triton.jit
def product(
    a, a_part, a_row, a_column, a_parts: tl.constexpr, b, b_part, b_row, b_column, b_parts: tl.constexpr, count,
    rows: tl.constexpr, columns: tl.constexpr, terms: tl.constexpr,
):  # fmt: skip
    """The sums over k < count of a[i, k] b[k, j], of which the pointers are the first. ``terms`` divides count."""
    k = tl.arange(0, terms)
    a += tl.arange(0, rows)[:, None] * a_row + k[None, :] * a_column
    b += k[:, None] * b_row + tl.arange(0, columns)[None, :] * b_column
    total_type: tl.constexpr = tl.float64 if a.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((rows, columns), total_type)
    for _ in range(0, count, terms):
        a_loaded, b_loaded = _load(a, a_part, a_parts), _load(b, b_part, b_parts)
        some = tl.zeros((rows, columns), total_type)
        for small in tl.static_range(3):
            for p in tl.static_range(a_parts):
                if small + p <= 2 and 2 - small - p < b_parts:
                    some = tl.dot(a_loaded[p], b_loaded[2 - small - p], some, out_dtype=total_type)
        total += some
        a += terms * a_column
        b += terms * b_row
    return total


@triton.jit
def _load(a, part, parts: tl.constexpr):
    if parts == 1:
        return (tl.load(a),)
    elif parts == 2:
        return tl.load(a), tl.load(a + part)
    else:
        return tl.load(a), tl.load(a + part), tl.load(a + part + part)


# --- entries -------------------------------------------------------------------------------------------------------


@triton.jit
def entries(
    x, x_parts: tl.constexpr, x_numbers, x_count, y, y_parts: tl.constexpr, y_numbers, y_count, width, row, column,
    slack, side: tl.constexpr, terms: tl.constexpr,
):  # fmt: skip
    """Return the entries of the tile at (row, column).

    They are cosh D - 1, sinh D, how far rounding may have moved the first, and u and n of the rows and of the columns.
    """
    row, column, wide = row.to(tl.int64), column.to(tl.int64), width.to(tl.int64)
    products = product(
        x + row * wide, x_count * wide, width, 1, x_parts, y + column * wide, y_count * wide, 1, width, y_parts, width,
        side, side, terms,
    )  # fmt: skip
    at = x_numbers + row + tl.arange(0, side)
    ux, kx, nx = _three(at, x_count, products.dtype)
    ux, kx, nx = ux[:, None], kx[:, None], nx[:, None]
    at = y_numbers + column + tl.arange(0, side)
    uy, ky, ny = _three(at, y_count, products.dtype)
    uy, ky, ny = uy[None, :], ky[None, :], ny[None, :]
    positive = ux * uy + (ux + uy)
    t = positive - (kx * ky) * products
    # where t + 1 is sinh D to the last digit, and t^2 might overflow
    far: tl.constexpr = 268435456.0 if products.dtype == tl.float64 else 16384.0
    s = tl.where(t > far, t + 1.0, tl.sqrt(t * (t + 2.0)))
    return t, s, (positive + nx * ny) * slack, ux, nx, uy, ny


@triton.jit
def _three(numbers, count, dtype):
    return tl.load(numbers).to(dtype), tl.load(numbers + count).to(dtype), tl.load(numbers + 2 * count).to(dtype)


@triton.jit
def product_of_k(x_numbers, x_count, y_numbers, y_count, row, column, dtype, side: tl.constexpr):
    """Return the products k_i k_j of the rows and columns of a tile."""
    kx = tl.load(x_numbers + x_count + row + tl.arange(0, side)).to(dtype)
    ky = tl.load(y_numbers + y_count + column + tl.arange(0, side)).to(dtype)
    return kx[:, None] * ky[None, :]


@triton.jit
def log1p_positive(w):
    """log(1 + w) for w >= 0, NaN for NaN."""
    wide: tl.constexpr = w.dtype == tl.float64
    integer: tl.constexpr = tl.int64 if wide else tl.int32
    half_root: tl.constexpr = 0x3FE6A09E667F3BCD if wide else 0x3F3504F3  # sqrt(1/2)
    one: tl.constexpr = 0x3FF0000000000000 if wide else 0x3F800000
    digits: tl.constexpr = 52 if wide else 23
    last: tl.constexpr = 10 if wide else 4
    # 1 + w = 2^e (1 + r), where r is as exact as w: a power of two times w, and a sum that cancels benignly
    e = ((w + 1.0).to(integer, bitcast=True) - half_root) >> digits
    scale = (one - (e << digits)).to(w.dtype, bitcast=True)
    r = w * scale + (scale - 1.0)
    # log(1 + r) = 2 artanh(r/(2 + r)), |r/(2 + r)| < .172
    z = r / (r + 2.0)
    square = z * z
    p = tl.zeros_like(z) + 1.0 / (2 * last + 1)
    for i in tl.static_range(last):
        p = p * square + 1.0 / (2 * (last - i) - 1)
    return e.to(w.dtype) * 0.6931471805599453 + (z + z) * p


@triton.jit
def in_range(t, squared: tl.constexpr):
    """Whether nothing under- or overflows on the way from t to the distance or, ``squared``, to the gradient."""
    wide: tl.constexpr = t.dtype == tl.float64
    smallest: tl.constexpr = 1e-250 if wide else 1e-25
    largest: tl.constexpr = (1e150 if squared else 1e300) if wide else (1e18 if squared else 1e36)
    return (t > smallest) & (t < largest)


@triton.jit
def tested_distance(t, s, bound):
    """D of an entry, NaN where its error may exceed the tolerance."""
    # Less than the contract by what approximate roots and quotients may add.
    tolerance: tl.constexpr = 9e-15 if t.dtype == tl.float64 else 7e-7
    d = log1p_positive(t + s)
    return tl.where((bound <= s * d * tolerance) & in_range(t, False), d, float("nan"))


@triton.jit
def tested_slope(t, s, bound, ux, nx, uy, ny):
    """1/sinh D of an entry, NaN where the gradient of the distance must not come from a matrix product."""
    tolerance: tl.constexpr = 1.8e-14 if t.dtype == tl.float64 else 1.5e-6
    # A gradient is summed from terms that exceed it by so much at most.
    largest: tl.constexpr = 16.0 if t.dtype == tl.float64 else 8.0
    condition = nx * (uy + 1.0) + ny * (ux + 1.0)  # sinh(r_x + r_y)
    keep = (bound * (t + 1.0) <= s * s * tolerance) & (condition <= s * largest) & in_range(t, True)
    return tl.where(keep, 1.0 / s, float("nan"))


@triton.constexpr_function
def _flat(m: Any) -> float:
    """Coefficients of 2 tanh(D/2) - D = sqrt(q) (f_1 q + f_2 q^2 + ...), q = sinh^2(D/2)."""
    of_root = math.prod(-(2 * n - 1) / (2 * n) for n in range(1, m + 1))  # of q^m in 1/sqrt(1 + q)
    return float(of_root * 4 * m / (2 * m + 1))


@triton.jit
def curvature_slope(t, s, slope, ux, uy, is_ball: tl.constexpr):
    """2 c sqrt(c) times the derivative of the distance by c."""
    terms: tl.constexpr = 18 if t.dtype == tl.float64 else 9
    q = t * 0.5
    near = q < 0.125
    small = tl.where(near, q, 0.0)
    p = tl.zeros_like(q)
    for i in tl.static_range(terms):
        p = (p + _flat(terms - i)) * small
    tanh = t * slope  # of D/2
    flat = tl.where(near, tl.sqrt(small) * p, (tanh + tanh) - log1p_positive(t + s))
    if is_ball:
        return flat + tanh * (ux + uy)
    difference = ux - uy
    return flat - difference * difference * slope / ((ux + 1.0) * (uy + 1.0))


def grid_of(n: int, m: int, side: int) -> tuple[int, int]:
    """Tiles down and across."""
    return triton.cdiv(n, side), triton.cdiv(m, side)


def failures(n: int, m: int, side: int, device: torch.device) -> Tensor:
    """For each tile how many entries have failed, to be written."""
    return torch.empty(grid_of(n, m, side), dtype=torch.int32, device=device)
