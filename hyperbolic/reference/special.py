"""Functions that hyperbolic formulas are smooth in.

Written with norms, the formulas have removable singularities: ``sinh(|v|)/|v|`` at 0 and its derivatives. Written
with squared norms they are entire or analytic functions, and each family here is closed under differentiation, so
values and derivatives of every order are right at the origin without a case in any formula.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from hyperbolic.reference import elementary, wide
from hyperbolic.reference.autodiff import Variable, dot, exp, fit, log, log1p, scale, sqrt, where
from hyperbolic.reference.wide import DoubleDouble, Wide


def _series(coefficients: list[Fraction], q: Wide) -> Wide:
    s = wide.remap(q, torch.zeros_like) + wide.constant(coefficients[-1], q)
    for a in reversed(coefficients[:-1]):
        s = s * q + wide.constant(a, q)
    return s


# --- sinh and cosh of a root -------------------------------------------------------------------------------------

_STUMPFF_SWITCH = 1.0
_STUMPFF_TERMS = 16  # q^16 / 32! < 2^-115 for q < 1


def _stumpff(k: int, q: Wide) -> Wide:
    if k < 2:
        s = elementary.sqrt(q)
        if k == 0:
            return elementary.cosh(s)
        zero = wide.head(s) == 0
        safe = wide.where(zero, 1.0, s)
        return wide.where(zero, 1.0, elementary.sinh(safe) / safe)
    near = wide.head(q) < _STUMPFF_SWITCH
    coefficients = [Fraction(1, math.factorial(2 * n + k)) for n in range(_STUMPFF_TERMS)]
    small = _series(coefficients, wide.where(near, q, 0.0))
    far = wide.where(near, 1.0, q)
    return wide.where(
        near, small, (_stumpff(k - 2, far) - wide.constant(Fraction(1, math.factorial(k - 2)), far)) / far
    )


def stumpff(k: int, q: Variable) -> Variable:
    """``sum_n q^n / (2 n + k)!`` for ``q >= 0``: ``cosh(sqrt q)`` for k = 0, ``sinh(sqrt q)/sqrt q`` for k = 1.

    The derivative is ``(stumpff(k+1) - k stumpff(k+2)) / 2``.
    """

    def pull(g: Variable) -> Variable:
        if k == 0:
            return g * 0.5 * stumpff(1, q)
        return g * 0.5 * (stumpff(k + 1, q) - stumpff(k + 2, q) * float(k))

    return Variable(_stumpff(k, q.value), [(q, pull)])


def tanhc(q: Variable) -> Variable:
    """``tanh(sqrt q)/sqrt q`` for ``q < 300^2``."""
    return stumpff(1, q) / stumpff(0, q)


def log_sinhc(q: Variable) -> Variable:
    """``log(sinh(sqrt q)/sqrt q)``, also where sinh overflows."""
    far = q.head > 300.0**2
    s = sqrt(where(far, q, 1.0))
    near = where(far, 0.0, q)
    return where(far, s - log(s * 2.0), log1p(near * stumpff(3, near)))  # stumpff(1) = 1 + q stumpff(3)


# --- asinh of a root ---------------------------------------------------------------------------------------------

_ASINHC_SWITCH = 0.125
_ASINHC_TERMS = 36  # the coefficients are below 1, and 0.125^36 = 2^-108


def _asinhc(n: int, q: Wide) -> Wide:
    if n == 0:
        s = elementary.sqrt(q)
        zero = wide.head(s) == 0
        safe = wide.where(zero, 1.0, s)
        return wide.where(zero, 1.0, elementary.asinh(safe) / safe)
    near = wide.head(q) < _ASINHC_SWITCH
    coefficients = [
        Fraction((-1) ** m * math.comb(2 * m, m) * math.perm(m, n), 4**m * (2 * m + 1))
        for m in range(n, n + _ASINHC_TERMS)
    ]
    small = _series(coefficients, wide.where(near, q, 0.0))
    # Leibniz on 2 q A' + A = (1 + q)^(-1/2)
    far = wide.where(near, 1.0, q)
    forcing = 1.0 / elementary.sqrt(far + 1.0)
    for i in range(n - 1):
        forcing = forcing * -(i + 0.5) / (far + 1.0)
    return wide.where(near, small, (forcing - _asinhc(n - 1, far) * (2.0 * n - 1.0)) / (far * 2.0))


def asinhc(q: Variable, n: int = 0) -> Variable:
    """``asinh(sqrt q)/sqrt q`` for ``q >= 0``, or its n-th derivative."""
    return Variable(_asinhc(n, q.value), [(q, lambda g: g * asinhc(q, n + 1))])


def _asinh_exp(level: Wide, k: Wide) -> Wide:
    # asinh(t) = log(2 t) to more digits than a double-double has once log t > 300.
    positive = wide.head(k) > 0
    safe = wide.where(positive, k, 1.0)
    exponent = level + elementary.log(safe)
    far = wide.head(exponent) > 300.0
    near = elementary.asinh(elementary.exp(wide.where(far, 0.0, exponent)))
    return wide.where(positive, wide.where(far, exponent + wide.constant(wide.LN2, exponent), near), 0.0)


def asinh_exp(level: Variable, k: Variable) -> Variable:
    """``asinh(exp(level) k)`` for ``k >= 0``, also where the exponential overflows."""

    def slope() -> Variable:
        zero = k.head == 0
        return 1.0 / sqrt(exp(where(zero, 0.0, level * -2.0)) + k * k)

    return Variable(_asinh_exp(level.value, k.value), [(k, lambda g: g * slope()), (level, lambda g: g * k * slope())])


# --- vectors -----------------------------------------------------------------------------------------------------


def _unit_scale(x: Wide) -> tuple[Tensor, Tensor] | None:
    if not isinstance(x, DoubleDouble):
        return None
    return wide.binade(x.hi.abs().amax(-1, keepdim=True))


def unit_scale(x: Variable) -> tuple[Tensor, Tensor] | None:
    """Per row, a power of two near the largest coordinate and its inverse.

    None where squares cannot leave the range of the wide format: float64 holds the square of every float32.
    """
    return _unit_scale(x.value)


def norm(x: Variable) -> Variable:
    """``|x|`` without overflow or underflow of the squares; derivative 0 at 0."""
    scales = unit_scale(x)
    if scales is None:
        return sqrt(dot(x, x))
    up, down = scales
    y = scale(x, down)
    return scale(sqrt(dot(y, y)), up)


def _rejection(a: Wide, b: Wide) -> tuple[Wide, Wide]:
    """The part of ``a`` perpendicular to ``b``, and ``|b|^2``.

    Subtracting the multiple of ``b`` that cancels the coordinate where ``b`` is largest leaves the cross products
    ``a_i b_j - b_i a_j``. Each is exact but for one rounding of the result, so collinear vectors leave exactly nothing
    and nearly collinear ones all their digits; what then remains to be made perpendicular is not much longer
    than the result.
    """
    shape = torch.broadcast_shapes(a.shape, b.shape)
    a, b = (wide.remap(w, lambda t: t.expand(shape)) for w in (a, b))
    scales = _unit_scale(b)
    unit = b if scales is None else wide.remap(b, lambda t: t * scales[1])
    largest = wide.head(unit).abs().argmax(-1, keepdim=True)
    aj, uj = (wide.remap(w, lambda t: t.gather(-1, largest)) for w in (a, unit))
    zero = wide.head(uj) == 0
    oblique = (a * uj - unit * aj) / wide.where(zero, 1.0, uj)
    square = wide.total(unit * unit, -1)
    rejected = oblique - unit * (wide.total(oblique * unit, -1) / wide.where(zero, 1.0, square))
    return rejected, square if scales is None else wide.remap(square, lambda t: t * scales[0] * scales[0])


def cross(a: Variable, b: Variable) -> Variable:
    """``|b|^2 a - (a.b) b``: the part of ``a`` perpendicular to ``b``, times ``|b|^2``, without cancellation."""
    r, square = _rejection(a.value, b.value)

    def pull_b(g: Variable) -> Variable:
        return dot(g, a) * b * 2.0 - dot(b, g) * a - dot(a, b) * g

    return Variable(
        r * square,
        [(a, lambda g: fit(cross(g, b), a.shape)), (b, lambda g: fit(pull_b(g), b.shape))],
    )


def gram(a: Variable, b: Variable) -> Variable:
    """``|a|^2 |b|^2 - (a.b)^2``, the squared area that ``a`` and ``b`` span, without cancellation."""
    r, square = _rejection(a.value, b.value)
    return Variable(
        wide.total(r * r, -1) * square,
        [
            (a, lambda g: fit(g * cross(a, b) * 2.0, a.shape)),
            (b, lambda g: fit(g * cross(b, a) * 2.0, b.shape)),
        ],
    )
