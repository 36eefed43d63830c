"""Radii, chords and distances on the Lorentz hyperboloid, in wide numbers. Conventions as in ``lorentz``."""

from __future__ import annotations

import torch

from hyperbolic.reference import wide
from hyperbolic.reference.autodiff import (
    Variable,
    branch,
    concatenate,
    constant,
    dot,
    exp,
    expm1,
    full_like,
    log,
    scale,
    sqrt,
    where,
)
from hyperbolic.reference.special import asinh_exp, asinhc, gram, norm, stumpff, unit_scale
from hyperbolic.reference.wide import LN2


def coshr(x: Variable, c: Variable) -> Variable:
    """``cosh r = sqrt(c) x0`` of a point at radius r."""
    scales = unit_scale(x)
    if scales is None:
        return sqrt(c * dot(x, x) + 1.0)
    # Scaled down only, for the square to stay below 1e308; a tiny x vanishes against 1 as it is.
    up, down = scales[0].clamp(min=1.0), scales[1].clamp(max=1.0)
    y = scale(x, down)
    return scale(sqrt(c * dot(y, y) + constant(down * down)), up)


def coshr_minus_1(x: Variable, c: Variable) -> Variable:
    """``(cosh r - 1)/c``; the division by ``c`` keeps it exact as ``c -> 0``."""
    return dot(x, x) / (coshr(x, c) + 1.0)


# --- chords ------------------------------------------------------------------------------------------------------
# h^2 = <x-y,x-y>_L is the squared ambient chord and q = c h^2/4 = sinh^2(D/2), D = sqrt(c) d. Everything between two
# points is a smooth function of q.


def _square_chord_acute(x: Variable, y: Variable, c: Variable) -> Variable:
    difference = x - y
    return (dot(difference, difference) + c * gram(x, y)) * _acute_factor(x, y, c)


def _acute_factor(x: Variable, y: Variable, c: Variable) -> Variable:
    return 2.0 / (coshr(x, c) * coshr(y, c) + c * dot(x, y) + 1.0)


def _square_chord_obtuse(x: Variable, y: Variable, c: Variable) -> Variable:
    # Every term is positive when x.y <= 0.
    a, b = coshr_minus_1(x, c), coshr_minus_1(y, c)
    return (c * a * b + a + b - dot(x, y)) * 2.0


def square_chord(x: Variable, y: Variable, c: Variable) -> Variable:
    """``h^2 = 2 (cosh D - 1)/c``."""
    return branch(dot(x, y).head > 0, _square_chord_acute, _square_chord_obtuse, (x, y, c), safe_true=1.0)


def chord(x: Variable, y: Variable, c: Variable) -> Variable:
    """``h``, positive also where its square underflows."""

    def acute(x: Variable, y: Variable, c: Variable) -> Variable:
        difference = x - y
        scales = unit_scale(difference)
        if scales is None:
            return sqrt(_square_chord_acute(x, y, c))
        # The Gram determinant needs no such care: it underflows only where the first term dwarfs it.
        up, down = scales
        difference = scale(difference, down)
        area = scale(scale(gram(x, y), down), down)
        return scale(sqrt((dot(difference, difference) + c * area) * _acute_factor(x, y, c)), up)

    def obtuse(x: Variable, y: Variable, c: Variable) -> Variable:
        return sqrt(_square_chord_obtuse(x, y, c))

    return branch(dot(x, y).head > 0, acute, obtuse, (x, y, c), safe_true=1.0)


def quarter(x: Variable, y: Variable, c: Variable) -> Variable:
    """``q = sinh^2(D/2)``."""
    return c * square_chord(x, y, c) * 0.25


def _dist_chord(x: Variable, y: Variable, c: Variable) -> Variable:
    scales = unit_scale(concatenate(x, y))
    if scales is not None:
        # d_c(x, y) = s d_{c s^2}(x/s, y/s), exact for a power of two; the squares then stay in range.
        up, down = scales
        x, y, c = scale(x, down), scale(y, down), scale(scale(c, up), up)
    h = chord(x, y, c)
    d = h * asinhc(c * h * h * 0.25)
    return d if scales is None else scale(d, scales[0])


# Radius (as sinh r) above which the product of four coordinates leaves float64.
_FAR = 1e60


def dist(x: Variable, y: Variable, c: Variable) -> Variable:
    """The distance ``2 asinh(sqrt(q))/sqrt(c)``."""
    n = norm(x).head.maximum(norm(y).head)
    far = (sqrt(c).head * n > _FAR) & n.isfinite()  # in logarithms an infinity would be at no distance from anything
    return branch(far, _dist_far, _dist_chord, (x, y, c), safe_true=1.0)


def _dist_far(x: Variable, y: Variable, c: Variable) -> Variable:
    p, q = asinh_ratio(norm(x), c), asinh_ratio(norm(y), c)
    return _dist_polar(x, y, p, q, (norm(x) * p - norm(y) * q) * sqrt(c), c)


def dist0(x: Variable, c: Variable) -> Variable:
    """d(0, x) = asinh(sqrt(c)|x|)/sqrt(c)."""
    n = norm(x)
    return n * asinh_ratio(n, c)


def asinh_ratio(n: Variable, c: Variable) -> Variable:
    """``asinh(sqrt(c) n)/(sqrt(c) n)``, also where ``c n^2`` overflows."""

    def far(n: Variable, c: Variable) -> Variable:
        s = sqrt(c) * n
        return (log(s) + LN2) / s

    far_mask = (sqrt(c) * n).head > _FAR
    return branch(far_mask, far, lambda n, c: asinhc(c * n * n), (n, c), safe_true=1.0)


def _dist_exp0_chord(u: Variable, v: Variable, c: Variable) -> Variable:
    return _dist_chord(exp0(u, c), exp0(v, c), c)


def _dist_exp0_log(u: Variable, v: Variable, c: Variable) -> Variable:
    nu, nv = norm(u), norm(v)
    length = nu + nv
    gap = dot(u - v, u + v) / where(length.head == 0, 1.0, length) * sqrt(c)
    one = full_like(nu, 1.0)
    return _dist_polar(u, v, one, one, gap, c)


def _dist_polar(u: Variable, v: Variable, p: Variable, q: Variable, gap: Variable, c: Variable) -> Variable:
    """The distance of the points in the directions of u and v at radii a = sqrt(c)|u| p and b = sqrt(c)|v| q.

    ``gap = a - b`` is given, because who knows more about the radii knows it better than their difference.
    """
    # sinh^2(D/2) = sinh^2((a-b)/2) + sinh(a) sinh(b) |u^-v^|^2/4, both terms divided by exp(m), where m is about the
    # logarithm of the larger: a constant that cannot overflow and drops out of the result.
    root = sqrt(c)
    a, b = root * norm(u) * p, root * norm(v) * q
    scales_u, scales_v = unit_scale(u), unit_scale(v)
    if scales_u is not None and scales_v is not None:
        u, v = scale(u, scales_u[1]), scale(v, scales_v[1])
        p, q = scale(p, scales_u[0]), scale(q, scales_v[0])
    nu, nv = norm(u), norm(v)
    swap = b.head > a.head
    high, low = where(swap, b, a), where(swap, a, b)
    # wedge = |u||v| - u.v, from the Gram determinant where the angle is acute
    acute = dot(u, v).head > 0
    opening = nu * nv + dot(u, v)
    wedge = where(acute, gram(u, v) / where(acute, opening, 1.0), nu * nv - dot(u, v))
    # |u^-v^|^2 sinh(low) exp(-low) with low/low cancelled: a point at the origin is nothing special
    longer = where(swap, nv, nu)
    reach = where(swap, p, q) * root * wedge / where(longer.head == 0, 1.0, longer)
    near = low.head < 1.0
    small, large = where(near, low, 0.0), where(near, 1.0, low)
    fade = where(near, exp(-small) * stumpff(1, small * small), expm1(large * -2.0) / large * -0.5)
    angular = expm1(high * -2.0) * fade * reach * -0.25
    rise = where(swap, -gap, gap)
    # A double word, because the tail of a radius beyond 1e17 is no small number.
    apart = angular.head > 0
    other = (a + b).value + torch.log(torch.where(apart, angular.head, 1.0))
    m = Variable(wide.where(apart & (wide.head(other) > rise.head), other, rise.value))
    fall = expm1(-rise)
    square = fall * fall * 0.25 * exp(rise - m) + angular * exp(where(apart, a + b - m, 0.0))
    return asinh_exp(m * 0.5, sqrt(square)) * 2.0 / root


# Above this sum of radii the exponentials are taken in the log domain.
_LOG_DOMAIN = 30.0


def dist_exp0(u: Variable, v: Variable, c: Variable) -> Variable:
    """The distance of ``expmap0(u)`` and ``expmap0(v)``, without forming either."""
    length = (norm(u) + norm(v)).head
    far = (sqrt(c).head * length > _LOG_DOMAIN) & length.isfinite()
    return branch(far, _dist_exp0_log, _dist_exp0_chord, (u, v, c), safe_true=1.0)


def inner(x: Variable, y: Variable, c: Variable) -> Variable:
    """``<x,y>_L = x.y - x0 y0 = -1/c - h^2/2``: two negative terms, where the definition cancels."""
    return -(1.0 / c) - square_chord(x, y, c) * 0.5


def exp0(v: Variable, c: Variable) -> Variable:
    return v * stumpff(1, c * dot(v, v))
