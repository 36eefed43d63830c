"""Elementary functions of wide numbers: torch's own for float64, and to about 30 digits for double-doubles."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from hyperbolic.reference.wide import (
    LN2,
    DoubleDouble,
    Wide,
    constant,
    exact,
    power_of_two,
    quick_two_sum,
    two_prod,
    where,
)


def sqrt(x: Wide) -> Wide:
    """Return the square root."""
    if not isinstance(x, DoubleDouble):
        return torch.sqrt(x)
    s = torch.sqrt(x.hi)
    usable = (s > 0) & torch.isfinite(s)
    r = torch.where(usable, s, 1.0)
    remainder = x - DoubleDouble(*two_prod(r, r))
    return where(usable, exact(r) + remainder.hi / (2 * r), exact(s))


# ln 2 in three words, so that subtracting k ln 2 leaves all digits for every k in range
_LN2_WORDS = (0.6931471805599453, 2.3190468138462996e-17, 5.707708438416212e-34)
_HALVINGS = 6
# In the series of expm1(r), |r| < 0.0055, the terms from the eighth on are below an ulp of the first: one word holds
# enough of them.
_WIDE_TERMS, _TERMS = 7, 13


def _expm1_reduced(x: DoubleDouble) -> tuple[DoubleDouble, Tensor]:
    """``expm1(x - k ln 2)`` and the integer ``k`` nearest to ``x / ln 2``."""
    k = torch.round(x.hi / _LN2_WORDS[0])
    r = x
    for word in _LN2_WORDS:
        r = r - DoubleDouble(*two_prod(k, torch.full_like(k, word)))
    r = r * 0.5**_HALVINGS
    tail = torch.zeros_like(k)
    for n in range(_TERMS, _WIDE_TERMS, -1):
        tail = (tail + 1 / math.factorial(n)) * r.hi
    e = r * (exact(tail) + constant(Fraction(1, math.factorial(_WIDE_TERMS)), r))
    for n in range(_WIDE_TERMS - 1, 0, -1):
        e = (e + constant(Fraction(1, math.factorial(n)), r)) * r
    for _ in range(_HALVINGS):  # expm1(2 r) = expm1(r) (2 + expm1(r)) keeps the relative accuracy of small results
        e = e * (e + 2.0)
    return e, k


def _ldexp(x: DoubleDouble, k: Tensor) -> DoubleDouble:
    # In two steps, because 2^k itself overflows before the product does.
    half = torch.floor(k / 2)
    a, b = power_of_two(half), power_of_two(k - half)
    return x.map(lambda w: w * a * b)


def exp(x: Wide) -> Wide:
    """Return e^x."""
    if not isinstance(x, DoubleDouble):
        return torch.exp(x)
    # exp(-745) is already the smallest float64; further down k would leave the range of ldexp.
    e, k = _expm1_reduced(where(x.hi > -745.0, x, -745.0))
    return where(x.hi > -745.0, _ldexp(e + 1.0, k), 0.0)


def expm1(x: Wide) -> Wide:
    """Return e^x - 1."""
    if not isinstance(x, DoubleDouble):
        return torch.expm1(x)
    e, k = _expm1_reduced(where(x.hi > -745.0, x, -745.0))
    return where(k == 0, e, _ldexp(e + 1.0, k) - 1.0)


def sinh(x: Wide) -> Wide:
    """Return the hyperbolic sine."""
    if not isinstance(x, DoubleDouble):
        return torch.sinh(x)
    negative = x.hi < 0
    e = expm1(where(negative, -x, x))
    s = (e + e / (e + 1.0)).map(lambda w: w * 0.5)
    return where(negative, -s, s)


def cosh(x: Wide) -> Wide:
    """Return the hyperbolic cosine."""
    if not isinstance(x, DoubleDouble):
        return torch.cosh(x)
    e = exp(where(x.hi < 0, -x, x))
    return (e + 1.0 / e).map(lambda w: w * 0.5)


def log(x: Wide) -> Wide:
    """Return the natural logarithm."""
    if not isinstance(x, DoubleDouble):
        return torch.log(x)
    # Of a significand close to 1, so that exp(-log) in the Newton step stays far from underflow.
    regular = (x.hi > 0) & torch.isfinite(x.hi)
    significand, k = torch.frexp(torch.where(regular, x.hi, 1.0))
    k = k - (significand < math.sqrt(0.5)).to(k.dtype)
    scaled = _ldexp(where(regular, x, 1.0), -k.to(torch.float64))
    y = exact(torch.log(scaled.hi))
    m = scaled * exp(-y) - 1.0
    return where(regular, y + (m - m * m * 0.5) + constant(LN2, x) * exact(k.to(torch.float64)), exact(torch.log(x.hi)))


def log1p(x: Wide) -> Wide:
    """Return log(1 + x)."""
    if not isinstance(x, DoubleDouble):
        return torch.log1p(x)
    y = torch.log1p(x.hi)
    finite = torch.isfinite(y)
    y0 = exact(torch.where(finite, y, 0.0))
    m = (x - expm1(y0)) * exp(-y0)
    return where(finite, y0 + (m - m * m * 0.5), exact(y))


def asinh(x: Wide) -> Wide:
    """Return the inverse hyperbolic sine.

    One Newton step in double-double doubles the digits of the float64 function, which are right to a few ULP.
    """
    if not isinstance(x, DoubleDouble):
        return torch.asinh(x)
    # Below 1e-90 the cube underflows and x is its own asinh; above 1e300 sinh would overflow in the Newton step.
    y = torch.asinh(x.hi)
    newton = (x.hi.abs() > 1e-90) & (x.hi.abs() < 1e300)
    y0 = torch.where(newton, y, 1.0).abs()
    e = expm1(exact(y0))
    inverse = 1.0 / (e + 1.0)
    size = where(newton, where(x.hi < 0, -x, x), 1.0)
    m = (size - (e + e * inverse) * 0.5) / ((e + 1.0 + inverse) * 0.5)
    root = m + y0
    return where(newton, where(x.hi < 0, -root, root), where(x.hi.abs() < 1.0, x, exact(y)))


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
