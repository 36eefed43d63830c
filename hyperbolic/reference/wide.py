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
    head = ((a.view(torch.int64) + _HALF) & _HEAD_BITS).view(torch.float64)
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
        return self.hi.shape

    def map(self, f: Callable[[Tensor], Tensor]) -> DoubleDouble:
        """The same rearrangement or exact scaling of both words."""
        return DoubleDouble(f(self.hi), f(self.lo))

    def __getitem__(self, index: Any) -> DoubleDouble:
        return self.map(lambda w: w[index])

    def __neg__(self) -> DoubleDouble:
        return self.map(torch.neg)

    def __add__(self, other: Wide | float) -> DoubleDouble:
        b = _promote(other, self)
        s, e = two_sum(self.hi, b.hi)
        t, f = two_sum(self.lo, b.lo)
        s, e = quick_two_sum(s, e + t)
        return DoubleDouble(*quick_two_sum(s, e + f))

    def __mul__(self, other: Wide | float) -> DoubleDouble:
        b = _promote(other, self)
        p, e = two_prod(self.hi, b.hi)
        return DoubleDouble(*quick_two_sum(p, e + (self.hi * b.lo + self.lo * b.hi)))

    def __truediv__(self, other: Wide | float) -> DoubleDouble:
        b = _promote(other, self)
        q1 = self.hi / b.hi
        r = self - b * _exact(q1)
        q2 = r.hi / b.hi
        q3 = (r - b * _exact(q2)).hi / b.hi
        return DoubleDouble(*quick_two_sum(q1, q2)) + _exact(q3)

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


def _exact(x: Tensor) -> DoubleDouble:
    return DoubleDouble(x, torch.zeros_like(x))


def _promote(x: Wide | float, like: DoubleDouble) -> DoubleDouble:
    if isinstance(x, DoubleDouble):
        return x
    if isinstance(x, Tensor):
        return _exact(x)
    return _exact(torch.full((), x, dtype=torch.float64, device=like.hi.device))


# Transcendental constants to 40 digits, for :func:`constant`.
LN2 = Fraction("0.6931471805599453094172321214581765680755")
LOG_2PI = Fraction("1.837877066409345483560659472811235279723")
HALF_PI = Fraction("1.570796326794896619231321691639751442099")


# --- in and out -------------------------------------------------------------------------------------------------


def lift(x: Tensor, double_double: bool) -> Wide:
    """``x`` as a wide number, exactly."""
    x = x.to(torch.float64)
    return _exact(x) if double_double else x


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


def round_inside(x: Wide, c: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` rounded to ``dtype``, towards the origin in its last bits where that leaves the open ball ``c|x|^2
    < 1``.
    """
    y = round_to(x, dtype)
    bits = y.view(_BITS[dtype.itemsize])
    while True:
        z = lift(bits.view(dtype), True)
        square = total(z * z, -1) * c
        # |x|^2 is good to 1e-31 here, and a step of the last bit moves it by 1e-16 at least.
        outside = (square - 1.0).hi > -1e-30
        if not bool(outside.any()):
            return bits.view(dtype)
        # Subtracting 1 from the pattern is one step towards 0, for either sign and in every format.
        bits = torch.where(outside & ((bits << 1) != 0), bits - 1, bits)


# --- reductions and choices -------------------------------------------------------------------------------------


def where(mask: Tensor, a: Wide | float, b: Wide | float) -> Wide:
    if isinstance(a, DoubleDouble) or isinstance(b, DoubleDouble):
        like = a if isinstance(a, DoubleDouble) else b
        assert isinstance(like, DoubleDouble)
        p, q = _promote(a, like), _promote(b, like)
        return DoubleDouble(torch.where(mask, p.hi, q.hi), torch.where(mask, p.lo, q.lo))
    return torch.where(mask, a, b)


def concatenate(parts: Sequence[Wide], dim: int) -> Wide:
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


# --- elementary functions ---------------------------------------------------------------------------------------


def sqrt(x: Wide) -> Wide:
    if not isinstance(x, DoubleDouble):
        return torch.sqrt(x)
    s = torch.sqrt(x.hi)
    usable = (s > 0) & torch.isfinite(s)
    r = torch.where(usable, s, 1.0)
    root = _exact(r)
    for _ in range(2):
        root = root + _exact((x - root * root).hi / (2 * r))
    return where(usable, root, _exact(s))


_LN2 = (0.6931471805599453, 2.3190468138462996e-17, 5.707708438416212e-34)
_HALVINGS = 6
_EXPM1_TERMS = 13


def _expm1_reduced(x: DoubleDouble) -> tuple[DoubleDouble, Tensor]:
    """``expm1(x - k ln 2)`` and the integer ``k`` nearest to ``x / ln 2``."""
    k = torch.round(x.hi / _LN2[0])
    r = x
    for word in _LN2:
        r = r - DoubleDouble(*two_prod(k, torch.full_like(k, word)))
    r = r.map(lambda w: w * 0.5**_HALVINGS)
    e = r * constant(Fraction(1, math.factorial(_EXPM1_TERMS)), r)
    for n in range(_EXPM1_TERMS - 1, 0, -1):
        e = (e + constant(Fraction(1, math.factorial(n)), r)) * r
    for _ in range(_HALVINGS):  # expm1(2 r) = expm1(r) (2 + expm1(r)) keeps the relative accuracy of small results
        e = e * (e + 2.0)
    return e, k


def power_of_two(k: Tensor) -> Tensor:
    """``2 ** k`` exactly, for integers ``-1022 <= k <= 1023``: ``torch.ldexp`` goes through a rounded ``pow``."""
    return ((k.to(torch.int64) + 1023) << 52).view(torch.float64)


def _ldexp(x: DoubleDouble, k: Tensor) -> DoubleDouble:
    # In two steps, because 2^k itself overflows before the product does.
    half = torch.floor(k / 2)
    a, b = power_of_two(half), power_of_two(k - half)
    return x.map(lambda w: w * a * b)


def exp(x: Wide) -> Wide:
    if not isinstance(x, DoubleDouble):
        return torch.exp(x)
    # exp(-745) is already the smallest float64; further down k would leave the range of ldexp.
    e, k = _expm1_reduced(where(x.hi > -745.0, x, -745.0))
    return where(x.hi > -745.0, _ldexp(e + 1.0, k), 0.0)


def expm1(x: Wide) -> Wide:
    if not isinstance(x, DoubleDouble):
        return torch.expm1(x)
    e, k = _expm1_reduced(where(x.hi > -745.0, x, -745.0))
    return where(k == 0, e, _ldexp(e + 1.0, k) - 1.0)


def sinh(x: Wide) -> Wide:
    if not isinstance(x, DoubleDouble):
        return torch.sinh(x)
    negative = x.hi < 0
    e = expm1(where(negative, -x, x))
    s = (e + e / (e + 1.0)).map(lambda w: w * 0.5)
    return where(negative, -s, s)


def cosh(x: Wide) -> Wide:
    if not isinstance(x, DoubleDouble):
        return torch.cosh(x)
    e = exp(where(x.hi < 0, -x, x))
    return (e + 1.0 / e).map(lambda w: w * 0.5)


def log(x: Wide) -> Wide:
    if not isinstance(x, DoubleDouble):
        return torch.log(x)
    # Of a significand close to 1, so that exp(-log) in the Newton step stays far from underflow.
    regular = (x.hi > 0) & torch.isfinite(x.hi)
    significand, k = torch.frexp(torch.where(regular, x.hi, 1.0))
    k = k - (significand < math.sqrt(0.5)).to(k.dtype)
    scaled = _ldexp(where(regular, x, 1.0), -k.to(torch.float64))
    y = _exact(torch.log(scaled.hi))
    m = scaled * exp(-y) - 1.0
    return where(
        regular, y + (m - m * m * 0.5) + constant(LN2, x) * _exact(k.to(torch.float64)), _exact(torch.log(x.hi))
    )


def log1p(x: Wide) -> Wide:
    if not isinstance(x, DoubleDouble):
        return torch.log1p(x)
    y = torch.log1p(x.hi)
    finite = torch.isfinite(y)
    y0 = _exact(torch.where(finite, y, 0.0))
    m = (x - expm1(y0)) * exp(-y0)
    return where(finite, y0 + (m - m * m * 0.5), _exact(y))


def asinh(x: Wide) -> Wide:
    """One Newton step in double-double doubles the digits of the float64 function, which are right to a few
    ULP.
    """
    if not isinstance(x, DoubleDouble):
        return torch.asinh(x)
    # Below 1e-90 the cube underflows and x is its own asinh; above 1e300 sinh would overflow in the Newton step.
    y = torch.asinh(x.hi)
    newton = (x.hi.abs() > 1e-90) & (x.hi.abs() < 1e300)
    y0 = _exact(torch.where(newton, y, 1.0))
    m = (where(newton, x, 1.0) - sinh(y0)) / cosh(y0)
    return where(newton, y0 + m, where(x.hi.abs() < 1.0, x, _exact(y)))


def atan2(y: Wide, x: Wide) -> Wide:
    """Good to float64's own atan2: an angle is a result, never the start of a further formula."""
    if not isinstance(y, DoubleDouble):
        assert isinstance(x, Tensor)
        return torch.atan2(y, x)
    assert isinstance(x, DoubleDouble)
    scale = x.hi.abs() + y.hi.abs()
    usable = scale > 0
    r = torch.where(usable, scale, 1.0)
    a, b = x.hi / r, y.hi / r
    slope = (a * (y.lo / r) - b * (x.lo / r)) / torch.where(usable, a * a + b * b, 1.0)
    return DoubleDouble(*quick_two_sum(torch.atan2(y.hi, x.hi), slope))
