"""The Lorentz hyperboloid ``<x,x>_L = -1/c`` in wide numbers.

Points and tangents are their space components, (..., D). Scalars, the curvature parameter ``c`` among them, are
(..., 1). Written so that no sum in them cancels by more than the wide format can give away; derivations are in
``docs/numerics.md``. All functions take and return :class:`~hyperbolic.reference.autodiff.Variable`.
"""

from __future__ import annotations

import math

import torch

from hyperbolic.reference.autodiff import (
    Variable,
    atan2,
    branch,
    concatenate,
    dot,
    full_like,
    log,
    log1p,
    scale,
    sqrt,
    total,
    where,
)
from hyperbolic.reference.lorentz_distance import asinh_ratio, coshr, coshr_minus_1, dist0, exp0, quarter
from hyperbolic.reference.special import asinhc, cross, gram, log_sinhc, norm, stumpff, unit_scale
from hyperbolic.reference.wide import HALF_PI, LN2, LOG_2PI


def time(x: Variable, c: Variable) -> Variable:
    # As a norm in D + 1 dimensions, which survives |x|^2 > 1e308.
    return norm(concatenate(x, 1.0 / sqrt(c)))


def to_ambient(x: Variable, c: Variable) -> Variable:
    return concatenate(time(x, c), x)


def tangent_to_ambient(x: Variable, v: Variable, c: Variable) -> Variable:
    return concatenate(dot(x, v) / time(x, c), v)


# --- maps at the origin ------------------------------------------------------------------------------------------


def expmap0(v: Variable, c: Variable, largest: Variable) -> Variable:
    """``sinh(t)/t v``, t = sqrt(c)|v|, shortened to where the coordinates are at most ``largest``."""
    return exp0(shorten(v, c, radius_limit(c, largest)), c)


# Just above 700: exp(r) is finite in float64, and so are the products of it in the pullback of shortening a tangent.
_OVERFLOW = 700.5
# Above, log(2 x) is asinh(x) to all digits of double words.
_LOG_REACH = 38.0


def radius_limit(c: Variable, largest: Variable) -> Variable:
    """The radius asinh(sqrt(c) ``largest``) at which a coordinate can reach that, or where exp(r) overflows float64."""
    limit = log(sqrt(c)) + log(largest) + LN2
    far = limit.head > _LOG_REACH
    reach = sqrt(c) * where(far, 1.0, largest)
    limit = where(far, limit, reach * asinhc(reach * reach))
    return where(limit.head >= _OVERFLOW, _OVERFLOW, limit)


def shorten(v: Variable, c: Variable, limit: Variable, target: Variable | None = None) -> Variable:
    """``v`` where ``sqrt(c)|v| <= limit``, else the vector on its ray where that is ``target``, or ``limit`` itself.

    NaN in all coordinates where one is not finite.
    """
    scales = unit_scale(v)  # |v| itself may overflow
    unit = v if scales is None else scale(v, scales[1])
    t = sqrt(c) * sqrt(dot(unit, unit))
    beyond = ~((t.head if scales is None else t.head * scales[0]) <= limit.head)
    if not bool(beyond.any()) and beyond.device.type == "cpu":
        return v
    shortened = unit / where(beyond, t, 1.0) * (limit if target is None else target)
    finite = torch.where(t.head.isfinite(), 1.0, math.nan).to(torch.float64)
    return where(beyond, scale(shortened, finite), v)


def logmap0(x: Variable, c: Variable) -> Variable:
    """``asinh(s)/s x``, s = sqrt(c)|x|."""
    return x * asinh_ratio(norm(x), c)


# --- translation -------------------------------------------------------------------------------------------------


def boost(x: Variable, a: Variable, c: Variable) -> Variable:
    """The translation along the geodesic from the origin to ``a``, applied to ``x``."""
    inward = (dot(x, a).head < 0) & ((c * dot(a, a)).head > 0.25) & ((c * dot(x, x)).head > 0.25)
    return branch(inward, _boost_inward, _boost_outward, (x, a, c), safe_true=1.0)


def _boost_outward(x: Variable, a: Variable, c: Variable) -> Variable:
    return x + a * (coshr(x, c) + c * dot(x, a) / (coshr(a, c) + 1.0))


def _boost_inward(x: Variable, a: Variable, c: Variable) -> Variable:
    # The radial coordinate |a| cosh(x) + (a.x/|a|) cosh(a) cancels. Times its conjugate, it is
    # |a|^2 - (a.x)^2/|a|^2 + c (|a|^2|x|^2 - (a.x)^2), where only |a|^2 + a.x = a.(a + x) does, and benignly.
    # Numerator and denominator are of second and first degree in x and cosh(x); both are taken in units of |x|.
    cosh, square = coshr(x, c), dot(a, a)
    scales = unit_scale(x)
    unit = a
    if scales is not None:
        up, down = scales
        x, cosh, unit = scale(x, down), scale(cosh, down), scale(a, down)
    m = dot(x, a)
    numerator = (dot(a, unit) - m) * dot(a, unit + x) / square + c * gram(x, a)
    y = cross(x, a) / square + a * (numerator / (square * cosh - coshr(a, c) * m))
    return y if scales is None else scale(y, up)


def transport0(x: Variable, w: Variable, c: Variable) -> Variable:
    """Parallel transport of ``w`` from the origin to ``x``."""
    return w + x * (c * dot(x, w) / (coshr(x, c) + 1.0))


def transport_to_0(x: Variable, v: Variable, c: Variable) -> Variable:
    """Parallel transport of ``v`` from ``x`` to the origin: the radial part shrinks by cosh r."""

    def near(x: Variable, v: Variable, c: Variable) -> Variable:
        e = coshr(x, c)
        return v - x * (c * dot(x, v) / (e * (e + 1.0)))

    def far(x: Variable, v: Variable, c: Variable) -> Variable:
        return (cross(v, x) + x * (dot(x, v) / coshr(x, c))) / dot(x, x)

    return branch((c * dot(x, x)).head > 1.0, far, near, (x, v, c), safe_true=1.0)


# --- maps at a point ---------------------------------------------------------------------------------------------


def norm_at(x: Variable, v: Variable, c: Variable) -> Variable:
    """Riemannian norm of ``v`` at ``x``: ``sqrt((|v|^2 + c (|x|^2|v|^2 - (x.v)^2))/(1 + c|x|^2))``."""
    scales = unit_scale(v)
    if scales is not None:
        v = scale(v, scales[1])
    square = (dot(v, v) + c * gram(v, x)) / (c * dot(x, x) + 1.0)
    return sqrt(square) if scales is None else scale(sqrt(square), scales[0])


def egrad2rgrad(x: Variable, g: Variable, c: Variable) -> Variable:
    return g + x * (c * dot(x, g))


def expmap(x: Variable, v: Variable, c: Variable) -> Variable:
    """``expmap0`` of the tangent carried to the origin, translated to ``x``."""
    # Short of where coordinates at radius r + n or their derivatives overflow float64 whatever the direction, or, where
    # squares are not scaled, these times c.
    limit = (
        radius_limit(c, full_like(c, 2.0**860))
        if unit_scale(x)
        else radius_limit(where(c.head > 1.0, 1.0, c), full_like(c, 2.0**500))
    )
    room = limit - sqrt(c) * dist0(x, c)
    return boost(exp0(shorten(transport_to_0(x, v, c), c, room), c), x, c)


def logmap(x: Variable, y: Variable, c: Variable) -> Variable:
    """``(D/sinh D)(y - cosh(D) x)``."""
    q = quarter(x, y, c)
    return ((y - x) - x * (q * 2.0)) * (asinhc(q) / sqrt(q + 1.0))


def transport(x: Variable, y: Variable, v: Variable, c: Variable) -> Variable:
    """From ``x`` to the origin, turned there by the holonomy of the triangle (0, x, y), and on to ``y``."""
    ex, ey = coshr(x, c), coshr(y, c)
    p, q = x / (ex + 1.0), y / (ey + 1.0)
    w = gyrate(p, q, p - q, transport_to_0(x, v, c), 2.0 / (ex + 1.0), 2.0 / (ey + 1.0), c)
    return transport0(y, w, c)


def gyrate(
    p: Variable, q: Variable, difference: Variable, w: Variable, alpha: Variable, beta: Variable, c: Variable
) -> Variable:
    """``gyr[q,-p] w`` for ball points with conformal denominators alpha = 1 - c|p|^2 and beta = 1 - c|q|^2."""
    square = dot(difference, difference)
    along, across = dot(p, w), dot(difference, w)
    on_p = alpha * across + c * along * square
    on_difference = beta * along + c * along * square - c * dot(p, p) * across
    return w + (difference * on_difference - p * on_p) * (c * 2.0 / (c * square + alpha * beta))


def geodesic(x: Variable, y: Variable, t: Variable, c: Variable) -> Variable:
    """``(sinh((1-t) D) x + sinh(t D) y)/sinh D``."""
    q = quarter(x, y, c)
    ratio = asinhc(q)
    square = q * ratio * ratio * 4.0  # D^2
    rest = 1.0 - t
    whole = ratio / sqrt(q + 1.0)  # D/sinh D
    return x * (rest * stumpff(1, rest * rest * square) * whole) + y * (t * stumpff(1, t * t * square) * whole)


def midpoint(x: Variable, y: Variable, c: Variable) -> Variable:
    return (x + y) / (sqrt(quarter(x, y, c) + 1.0) * 2.0)


def centroid(points: Variable, weights: Variable, c: Variable) -> Variable:
    """``s / (sqrt(c) |s|_L)`` of the weighted ambient sum s. Points (..., N, D), weights (..., N), c (..., 1)."""
    w, cc = weights[..., None], c[..., None]
    weight = total(w, -2)
    w = w / where(weight.head == 0, 1.0, weight)
    s = total(w * points, -2)
    e = coshr(points, cc)
    s0 = total(w * e, -2)  # sqrt(c) times the time component

    def near(points: Variable, w: Variable, s: Variable, s0: Variable, cc: Variable) -> Variable:
        return s0 * s0 - cc * dot(s, s)

    def far(points: Variable, w: Variable, s: Variable, s0: Variable, cc: Variable) -> Variable:
        # s0 - |s| as a sum of x0 - x.s/|s|, each of which is a positive quotient when x lies on the side of s.
        root, length = sqrt(cc), sqrt(dot(s, s))
        along = dot(points, s) / length * root
        e = coshr(points, cc)
        ahead = along.head > 0
        quotient = (cc * gram(points, s) / dot(s, s) + 1.0) / where(ahead, e + along, 1.0)
        return total(w * where(ahead, quotient, e - along), -2) * (s0 + root * length)

    mask = (cc * dot(s, s)).head * 2 > (s0 * s0).head
    square = branch(mask, far, near, (points, w, s, s0, cc), safe_true=1.0)
    return (s / sqrt(square))[..., 0, :]


# --- angles and horospheres --------------------------------------------------------------------------------------


def half_aperture(x: Variable, c: Variable, min_radius: Variable) -> Variable:
    """``asin(k/n)``, n = sqrt(c)|x|, k = 2 min_radius, as an arctangent; pi/2 for n <= k."""
    n, k = sqrt(c) * norm(x), min_radius * 2.0
    close = n.head <= k.head
    safe = where(close, full_like(n, 1.0) + k, n)
    return where(close, full_like(n, HALF_PI), atan2(k, sqrt((safe - k) * (safe + k))))


def exterior_angle(x: Variable, y: Variable, c: Variable) -> Variable:
    """The angle at ``x`` between the ray from the origin, prolonged, and the geodesic to ``y``."""
    difference = x - y
    area = gram(y, x)
    cosh_distance = quarter(x, y, c) * 2.0 + 1.0
    radial = dot(difference, x) * (cosh_distance + 1.0) + c * area
    # 0 - radial, since -0 would make the angle of coincident points pi
    return atan2(sqrt(area), (0.0 - radial) / (coshr(x, c) + coshr(y, c)))


def busemann(x: Variable, direction: Variable, c: Variable) -> Variable:
    """``log(sqrt(c)(x0 - x.w))/sqrt(c)`` for the unit vector w along ``direction``."""
    root = sqrt(c)
    w = direction / norm(direction)
    along = root * dot(x, w)
    ahead = along.head > 0
    # x0 - x.w = (1/c + |x|^2 - (x.w)^2)/(x0 + x.w), where the numerator is 1/c + a Gram determinant
    perpendicular = c * gram(x, w)
    e = coshr(x, c)
    small = e.head < 2.0
    far = where(ahead, (perpendicular + 1.0) / where(ahead, e + along, 1.0), e - along)
    near = where(small, c * coshr_minus_1(x, c) - along, 0.0)
    return where(small, log1p(near), log(where(small, 1.0, far))) / root


# --- the wrapped normal distribution -----------------------------------------------------------------------------


def wrapped_normal_log_prob(x: Variable, mean: Variable, scale: Variable, c: Variable) -> Variable:
    """Density with respect to the Riemannian volume; Nagano et al., 2019, equation 10."""
    dim = x.shape[-1]
    w = logmap0(boost(x, -mean, c), c)
    z = w / scale
    log_scale = total(log(scale) + full_like(x, 0.0))
    gaussian = dot(z, z) * -0.5 - log_scale - LOG_2PI * dim / 2
    return gaussian - log_sinhc(c * dot(w, w)) * float(dim - 1)
