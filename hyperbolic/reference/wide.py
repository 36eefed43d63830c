"""Wide numbers: arithmetic with at least twice the digits of the tensors that a user passes.

Results are computed wide and rounded once, so a formula may lose half its digits to cancellation and the
caller still receives the last one right. Two representations share one vocabulary:

* a plain float64 tensor, for float32, bfloat16 and float16 data;
* :class:`DoubleDouble`, an unevaluated sum ``hi + lo`` of two float64 tensors (106 bits), for float64 data.

The formulas in this package are written once against that vocabulary: the operators ``+ - * /`` and the
functions below. The error-free transformations are Knuth's two-sum and Dekker's two-product; the double-double
operations follow Hida, Li and Bailey, *Algorithms for quad-double precision floating point arithmetic* (2001).

They are correct only while every product and sum is rounded on its own. They therefore run inside opaque torch
operators (``hyperbolic.ops``), out of reach of a compiler that would contract ``a * b - p`` or reassociate a sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

# Rounds a float64 significand to its 26 high bits; the signed remainder has 26 bits too, so all products of two such
# parts are exact.
_HALF, _HEAD_BITS = 1 << 26, -(1 << 27)


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``a + b`` as rounded sum and exact error."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def quick_two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`two_sum` for ``|a| >= |b|``."""
    s = a + b
    return s, b - (s - a)


def split(a: Tensor) -> tuple[Tensor, Tensor]:
    """Head and tail of ``a``. By its bits, because Dekker's multiplication by 2^27 + 1 overflows near 1e300."""
    head = ((a.resolve_neg().view(torch.int64) + _HALF) & _HEAD_BITS).view(torch.float64)
    return head, a - head


def two_prod(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``a * b`` as rounded product and exact error (above 1e-290, where no part underflows)."""
    p = a * b
    (a1, a2), (b1, b2) = split(a), split(b)
    return p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2


class DoubleDouble:
    """An unevaluated sum of two float64 tensors of one shape, ``hi`` being their rounded sum."""

    __slots__ = ("hi", "lo")

    def __init__(self, hi: Tensor, lo: Tensor):
        self.hi, self.lo = hi, lo

    @property
    def shape(self) -> torch.Size:
        """The shape of either word."""
        return self.hi.shape

    def map(self, f: Callable[[Tensor], Tensor]) -> DoubleDouble:
        """The same rearrangement or exact scaling of both words."""
        return DoubleDouble(f(self.hi), f(self.lo))

    def __getitem__(self, index: Any) -> DoubleDouble:
        return self.map(lambda w: w[index])

    def __neg__(self) -> DoubleDouble:
        return self.map(torch.neg)

    def __add__(self, other: Wide | float) -> DoubleDouble:
        if not isinstance(other, DoubleDouble):
            s, e = two_sum(self.hi, _word(other, self))
            return DoubleDouble(*quick_two_sum(s, e + self.lo))
        s, e = two_sum(self.hi, other.hi)
        t, f = two_sum(self.lo, other.lo)
        s, e = quick_two_sum(s, e + t)
        return DoubleDouble(*quick_two_sum(s, e + f))

    def __mul__(self, other: Wide | float) -> DoubleDouble:
        if isinstance(other, DoubleDouble):
            p, e = two_prod(self.hi, other.hi)
            return DoubleDouble(*quick_two_sum(p, e + (self.hi * other.lo + self.lo * other.hi)))
        if isinstance(other, float) and math.frexp(other)[0] in (0.5, -0.5):  # a power of two
            return DoubleDouble(self.hi * other, self.lo * other)
        word = _word(other, self)
        p, e = two_prod(self.hi, word)
        return DoubleDouble(*quick_two_sum(p, e + self.lo * word))

    def __truediv__(self, other: Wide | float) -> DoubleDouble:
        b = _promote(other, self)
        q1 = self.hi / b.hi
        r = self - b * q1
        q2 = r.hi / b.hi
        q3 = (r - b * q2).hi / b.hi
        return DoubleDouble(*quick_two_sum(q1, q2)) + q3

    def __radd__(self, other: float) -> DoubleDouble:
        return self + other

    def __sub__(self, other: Wide | float) -> DoubleDouble:
        return self + (-other)

    def __rsub__(self, other: float) -> DoubleDouble:
        return (-self) + other

    def __rmul__(self, other: float) -> DoubleDouble:
        return self * other

    def __rtruediv__(self, other: float) -> DoubleDouble:
        return _promote(other, self) / self


Wide = Any
"""A float64 tensor or a :class:`DoubleDouble`. The operands of an expression are all of one kind, which no type
says.
"""


def exact(x: Tensor) -> DoubleDouble:
    """A float64 tensor as a double-double."""
    return DoubleDouble(x, torch.zeros_like(x))


def _word(x: Tensor | float, like: DoubleDouble) -> Tensor:
    return x if isinstance(x, Tensor) else torch.full((), x, dtype=torch.float64, device=like.hi.device)


def _promote(x: Wide | float, like: DoubleDouble) -> DoubleDouble:
    return x if isinstance(x, DoubleDouble) else exact(_word(x, like))


# Transcendental constants to 40 digits, for :func:`constant`.
LN2 = Fraction("0.6931471805599453094172321214581765680755")
LOG_2PI = Fraction("1.837877066409345483560659472811235279723")
HALF_PI = Fraction("1.570796326794896619231321691639751442099")


# --- in and out -------------------------------------------------------------------------------------------------


def lift(x: Tensor, double_double: bool) -> Wide:
    """``x`` as a wide number, exactly."""
    x = x.to(torch.float64)
    return exact(x) if double_double else x


def head(x: Wide) -> Tensor:
    """``x`` rounded to float64: for comparisons and for results."""
    return x.hi if isinstance(x, DoubleDouble) else x


def remap(x: Wide, f: Callable[[Tensor], Tensor]) -> Wide:
    """``f``, a rearrangement, a choice or an exact scaling, applied to every word of ``x``."""
    return x.map(f) if isinstance(x, DoubleDouble) else f(x)


def constant(value: Fraction, like: Wide) -> Wide | float:
    """A rational constant with as many digits as ``like``."""
    hi = float(value)
    if not isinstance(like, DoubleDouble):
        return hi
    new = like.hi.new_full
    return DoubleDouble(new((), hi), new((), float(value - Fraction(hi))))


def round_to(x: Wide, dtype: torch.dtype) -> Tensor:
    """``x`` rounded once, to nearest, to ``dtype``."""
    if isinstance(x, DoubleDouble) or dtype in (torch.float64, torch.float32):
        return head(x).to(dtype)
    # float64 reaches the half precisions by way of float32, which would round twice. Rounding to odd first makes the
    # second rounding see on which side of a tie the value lies (Boldo and Melquiond, 2008).
    y = x.to(torch.float32)
    error = x - y.to(torch.float64)
    even = (y.view(torch.int32) & 1) == 0
    towards = torch.where(error > 0, math.inf, -math.inf).to(torch.float32)
    y = torch.where((error != 0) & even & torch.isfinite(y), torch.nextafter(y, towards), y)
    return y.to(dtype)


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def rim(x: Tensor, c: Tensor) -> DoubleDouble:
    """``1 - c|x|^2``, exact to 1e-31, of float64 tensors (..., D) and (..., 1): positive inside the ball alone."""
    square: DoubleDouble = total(DoubleDouble(*two_prod(x.resolve_neg(), x.resolve_neg())), -1)
    return 1.0 - square * c


# One step of the last bit brings back a point that rounding has moved out of the ball; the others are for the error of
# the formula itself.
_MOST_STEPS_INSIDE = 4


def round_inside(x: Wide, c: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` rounded to ``dtype``, and strictly inside the ball.

    Where rounding leaves the open ball ``c|x|^2 < 1``, the last bits are rounded towards the origin.
    """
    bits = round_to(x, dtype).view(_BITS[dtype.itemsize])
    for _ in range(_MOST_STEPS_INSIDE):
        # |x|^2 is good to 1e-31 here, and a step of the last bit moves it by 1e-16 at least.
        outside = rim(bits.view(dtype).to(torch.float64), c).hi < 1e-30
        if not bool(outside.any()):
            break
        # Subtracting 1 from the pattern is one step towards 0, for either sign and in every format.
        bits = torch.where(outside & ((bits << 1) != 0), bits - 1, bits)
    return bits.view(dtype)


def power_of_two(k: Tensor) -> Tensor:
    """``2 ** k`` exactly, for integers ``-1022 <= k <= 1023``: ``torch.ldexp`` goes through a rounded ``pow``."""
    return ((k.to(torch.int64) + 1023) << 52).view(torch.float64)


def binade(size: Tensor) -> tuple[Tensor, Tensor]:
    """A power of two near each ``size`` and its inverse; 1 where it is not finite."""
    exponent = torch.frexp(torch.where(torch.isfinite(size), size, 1.0))[1].clamp(-1000, 1000)
    return power_of_two(exponent), power_of_two(-exponent)


def round_finite(x: Wide, dtype: torch.dtype) -> Tensor:
    """``x`` rounded to ``dtype``; a vector that it cannot hold is shortened to the longest of its direction."""
    size = head(x).abs().amax(-1, keepdim=True)
    largest = torch.finfo(dtype).max
    beyond = (size > largest) & torch.isfinite(size)
    factor = torch.where(beyond, largest / torch.where(beyond, size, 1.0), 1.0)
    return round_to(remap(x, lambda w: w * factor) if bool(beyond.any()) else x, dtype)


# --- reductions and choices -------------------------------------------------------------------------------------


def where(mask: Tensor, a: Wide | float, b: Wide | float) -> Wide:
    """Return ``a`` where ``mask``, else ``b``."""
    if isinstance(a, DoubleDouble) or isinstance(b, DoubleDouble):
        like = a if isinstance(a, DoubleDouble) else b
        assert isinstance(like, DoubleDouble)
        p, q = _promote(a, like), _promote(b, like)
        return DoubleDouble(torch.where(mask, p.hi, q.hi), torch.where(mask, p.lo, q.lo))
    return torch.where(mask, a, b)


def concatenate(parts: Sequence[Wide], dim: int) -> Wide:
    """Return the parts side by side along ``dim``."""
    if isinstance(parts[0], DoubleDouble):
        return DoubleDouble(torch.cat([p.hi for p in parts], dim), torch.cat([p.lo for p in parts], dim))
    return torch.cat(list(parts), dim)


def total(x: Wide, dim: int) -> Wide:
    """Sum over ``dim``, which is kept with length 1. Double-doubles are added as a balanced tree."""
    if not isinstance(x, DoubleDouble):
        return x.sum(dim, keepdim=True)
    n = x.shape[dim]
    if n == 0:
        return x.map(lambda w: w.sum(dim, keepdim=True))

    def part(start: int, length: int) -> DoubleDouble:
        return DoubleDouble(x.hi.narrow(dim, start, length), x.lo.narrow(dim, start, length))

    while n > 1:
        half = n // 2
        pairs = part(0, half) + part(half, half)
        if n % 2:
            pairs = concatenate([pairs, part(n - 1, 1)], dim)
        x, n = pairs, half + n % 2
    return x
