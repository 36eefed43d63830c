"""The Lorentz hyperboloid ``<x,x>_L = -1/c`` in wide numbers.

Points and tangents are their space components, (..., D). Scalars, the curvature parameter ``c`` among them, are
(..., 1). Written so that no sum in them cancels by more than the wide format can give away; derivations are in
``docs/numerics.md``. All functions take and return :class:`~hyperbolic.reference.autodiff.Variable`.
"""

from __future__ import annotations

import torch

from hyperbolic.reference.autodiff import (
    Variable,
    atan2,
    branch,
    concatenate,
    constant,
    dot,
    exp,
    expm1,
    full_like,
    log,
    log1p,
    scale,
    sqrt,
    total,
    where,
)
from hyperbolic.reference.special import asinh_exp, asinhc, cross, gram, log_sinhc, norm, stumpff, unit_scale
from hyperbolic.reference.wide import HALF_PI, LN2, LOG_2PI


def coshr(x: Variable, c: Variable) -> Variable:
    """``cosh r = sqrt(c) x0`` of a point at radius r."""
    scales = unit_scale(x)
    if scales is None:
        return sqrt(c * dot(x, x) + 1.0)
    # Scaled down only, for the square to stay below 1e308; a tiny x vanishes against 1 as it is.
    up, down = (w.clamp(**bound) for w, bound in zip(scales, ({"min": 1.0}, {"max": 1.0})))
    y = scale(x, down)
    return scale(sqrt(c * dot(y, y) + constant(down * down)), up)


def coshr_minus_1(x: Variable, c: Variable) -> Variable:
    """``(cosh r - 1)/c``; the division by ``c`` keeps it exact as ``c -> 0``."""
    return dot(x, x) / (coshr(x, c) + 1.0)


def time(x: Variable, c: Variable) -> Variable:
    # As a norm in D + 1 dimensions, which survives |x|^2 > 1e308.
    return norm(concatenate(x, 1.0 / sqrt(c)))


def to_ambient(x: Variable, c: Variable) -> Variable:
    return concatenate(time(x, c), x)


def tangent_to_ambient(x: Variable, v: Variable, c: Variable) -> Variable:
    return concatenate(dot(x, v) / time(x, c), v)


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


# --- distances ---------------------------------------------------------------------------------------------------


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
    """d = 2 asinh(sqrt(q))/sqrt(c)."""
    root = sqrt(c)
    far = (root * norm(x)).head.maximum((root * norm(y)).head) > _FAR
    return branch(far, _dist_far, _dist_chord, (x, y, c), safe_true=1.0)


def _dist_far(x: Variable, y: Variable, c: Variable) -> Variable:
    p, q = _asinh_ratio(norm(x), c), _asinh_ratio(norm(y), c)
    return _dist_polar(x, y, p, q, (norm(x) * p - norm(y) * q) * sqrt(c), c)


def dist0(x: Variable, c: Variable) -> Variable:
    """d(0, x) = asinh(sqrt(c)|x|)/sqrt(c)."""
    n = norm(x)
    return n * _asinh_ratio(n, c)


def _asinh_ratio(n: Variable, c: Variable) -> Variable:
    """``asinh(sqrt(c) n)/(sqrt(c) n)``, also where ``c n^2`` overflows."""

    def far(n: Variable, c: Variable) -> Variable:
        s = sqrt(c) * n
        return (log(s) + LN2) / s

    far_mask = (sqrt(c) * n).head > _FAR
    return branch(far_mask, far, lambda n, c: asinhc(c * n * n), (n, c), safe_true=1.0)


def _dist_exp0_chord(u: Variable, v: Variable, c: Variable) -> Variable:
    return _dist_chord(_exp0(u, c), _exp0(v, c), c)


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
    m = constant(torch.maximum(rise.head, (a + b).head + torch.log(angular.head)))
    fall = expm1(-rise)
    square = fall * fall * 0.25 * exp(rise - m) + angular * exp(where(angular.head > 0, a + b - m, 0.0))
    return asinh_exp(m * 0.5, sqrt(square)) * 2.0 / root


# Above this sum of radii the exponentials are taken in the log domain.
_LOG_DOMAIN = 30.0


def dist_exp0(u: Variable, v: Variable, c: Variable) -> Variable:
    """The distance of ``expmap0(u)`` and ``expmap0(v)``, without forming either."""
    root = sqrt(c)
    far = (root * (norm(u) + norm(v))).head > _LOG_DOMAIN
    return branch(far, _dist_exp0_log, _dist_exp0_chord, (u, v, c), safe_true=1.0)


def inner(x: Variable, y: Variable, c: Variable) -> Variable:
    """``<x,y>_L = x.y - x0 y0 = -1/c - h^2/2``: two negative terms, where the definition cancels."""
    return -(1.0 / c) - square_chord(x, y, c) * 0.5


# --- maps at the origin ------------------------------------------------------------------------------------------


def _exp0(v: Variable, c: Variable) -> Variable:
    return v * stumpff(1, c * dot(v, v))


def expmap0(v: Variable, c: Variable, largest: Variable) -> Variable:
    """``sinh(t)/t v``, t = sqrt(c)|v|, shortened to where the coordinates are at most ``largest``."""
    return _exp0(shorten(v, c, radius_limit(c, largest)), c)


# Just above 700: exp(r) is finite in float64, and so are the products of it in the pullback of shortening a tangent.
_OVERFLOW = 700.5


def radius_limit(c: Variable, largest: Variable) -> Variable:
    """The radius at which a coordinate can reach ``largest``, or exp(r) overflows float64."""
    limit = log(sqrt(c)) + log(largest) + LN2
    return where(limit.head < _OVERFLOW, limit, _OVERFLOW)


def shorten(v: Variable, c: Variable, limit: Variable) -> Variable:
    t = sqrt(c) * norm(v)
    beyond = t.head > limit.head
    if not bool(beyond.any()) and beyond.device.type == "cpu":
        return v
    return where(beyond, v / where(beyond, t, 1.0) * limit, v)


def logmap0(x: Variable, c: Variable) -> Variable:
    """``asinh(s)/s x``, s = sqrt(c)|x|."""
    return x * _asinh_ratio(norm(x), c)


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


def expmap(x: Variable, v: Variable, c: Variable, largest: Variable) -> Variable:
    """``expmap0`` of the tangent carried to the origin, translated to ``x``."""
    # Short of where coordinates at radius r + n, or their unscaled squares, overflow float64, whatever the direction;
    # then of where the result leaves its type.
    reach = 2.0**1016 if unit_scale(x) else 2.0**500
    room = radius_limit(c, full_like(largest, reach)) - sqrt(c) * dist0(x, c)
    y = boost(_exp0(shorten(transport_to_0(x, v, c), c, room), c), x, c)
    size = norm(y)
    beyond = size.head > largest.head
    return where(beyond, y * (largest / where(beyond, size, 1.0)), y)


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
    outside = n.head > k.head
    safe = where(outside, n, full_like(n, 1.0) + k)
    return where(outside, atan2(k, sqrt((safe - k) * (safe + k))), full_like(n, HALF_PI))


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
