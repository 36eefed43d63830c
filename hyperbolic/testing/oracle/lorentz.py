"""Textbook formulas of the Lorentz model in mpmath, for single points given by their space components.

Independent of the library's formulas on purpose: these cancel and rely on their digits.
"""

from __future__ import annotations

from typing import Any

import mpmath
from mpmath import mpf

from hyperbolic.testing.oracle.vectors import Vector, dot, minus, norm, plus, scaled, sinhc


def time(x: Vector, c: Any) -> Any:
    return mpmath.sqrt(1 / c + dot(x, x))


def _tangent_time(x: Vector, v: Vector, c: Any) -> Any:
    return dot(x, v) / time(x, c)


def inner(x: Vector, y: Vector, c: Any) -> Any:
    return dot(x, y) - time(x, c) * time(y, c)


def to_ambient(x: Vector, c: Any) -> Vector:
    return [time(x, c), *x]


def dist(x: Vector, y: Vector, c: Any) -> Any:
    z = -c * inner(x, y, c)
    return mpmath.acosh(z) / mpmath.sqrt(c) if x != y else mpf(0)


def dist0(x: Vector, c: Any) -> Any:
    return mpmath.acosh(mpmath.sqrt(c) * time(x, c)) / mpmath.sqrt(c) if any(x) else mpf(0)


def expmap0(v: Vector, c: Any) -> Vector:
    return scaled(sinhc(mpmath.sqrt(c) * norm(v)), v)


def logmap0(x: Vector, c: Any) -> Vector:
    t = mpmath.sqrt(c) * norm(x)
    return scaled(mpmath.asinh(t) / t, x) if t else x


def dist_exp0(u: Vector, v: Vector, c: Any) -> Any:
    """By the hyperbolic law of cosines, with as many digits as ``exp(2 (a + b))`` eats."""
    if u == v:
        return mpf(0)
    root = mpmath.sqrt(c)
    a, b = root * norm(u), root * norm(v)
    with mpmath.workdps(int(mpmath.mp.dps + 2 * (a + b) / 2.3)):
        root = mpmath.sqrt(c)
        a, b = root * norm(u), root * norm(v)
        product = sinhc(a) * sinhc(b) * c * dot(u, v)
        return mpmath.acosh(mpmath.cosh(a) * mpmath.cosh(b) - product) / root


def norm_at(x: Vector, v: Vector, c: Any) -> Any:
    return mpmath.sqrt(dot(v, v) - _tangent_time(x, v, c) ** 2)


def expmap(x: Vector, v: Vector, c: Any) -> Vector:
    n = mpmath.sqrt(c) * norm_at(x, v, c)
    return plus(scaled(mpmath.cosh(n), x), scaled(sinhc(n), v))


def logmap(x: Vector, y: Vector, c: Any) -> Vector:
    if x == y:
        return [mpf(0) for _ in x]
    z = -c * inner(x, y, c)
    ratio = mpmath.acosh(z) / mpmath.sqrt(z * z - 1)
    return scaled(ratio, minus(y, scaled(z, x)))


def transport(x: Vector, y: Vector, v: Vector, c: Any) -> Vector:
    across = dot(y, v) - time(y, c) * _tangent_time(x, v, c)
    return plus(v, scaled(c * across / (1 - c * inner(x, y, c)), plus(x, y)))


def transport0(y: Vector, v: Vector, c: Any) -> Vector:
    return transport([mpf(0) for _ in y], y, v, c)


def geodesic(x: Vector, y: Vector, t: Any, c: Any) -> Vector:
    return expmap(x, scaled(t, logmap(x, y, c)), c)


def midpoint(x: Vector, y: Vector, c: Any) -> Vector:
    return geodesic(x, y, mpf(1) / 2, c)


def centroid(points: list[Vector], weights: Vector, c: Any) -> Vector:
    s = [dot(list(column), weights) for column in zip(*points)]
    s0 = dot([time(p, c) for p in points], weights)
    return scaled(1 / (mpmath.sqrt(c) * mpmath.sqrt(s0 * s0 - dot(s, s))), s)


def egrad2rgrad(x: Vector, g: Vector, c: Any) -> Vector:
    return plus(g, scaled(c * dot(x, g), x))


def half_aperture(x: Vector, c: Any, min_radius: Any) -> Any:
    n = mpmath.sqrt(c) * norm(x)
    return mpmath.asin(2 * min_radius / n) if n > 2 * min_radius else mpmath.pi / 2


def exterior_angle(x: Vector, y: Vector, c: Any) -> Any:
    v = logmap(x, y, c)
    if not any(v) or not any(x):
        return mpf(0)
    outward = scaled(mpmath.sqrt(c) * time(x, c) / norm(x), x)  # the unit tangent along the ray
    cosine = (dot(v, outward) - _tangent_time(x, v, c) * _tangent_time(x, outward, c)) / norm_at(x, v, c)
    return mpmath.acos(min(mpf(1), max(mpf(-1), cosine)))


def busemann(x: Vector, direction: Vector, c: Any) -> Any:
    root = mpmath.sqrt(c)
    return mpmath.log(root * (time(x, c) - dot(x, direction) / norm(direction))) / root


def boost(x: Vector, a: Vector, c: Any) -> Vector:
    e = mpmath.sqrt(c) * time(a, c)
    return plus(x, scaled(mpmath.sqrt(c) * time(x, c) + c * dot(a, x) / (1 + e), a))


def wrapped_normal_log_prob(x: Vector, mean: Vector, scale: Vector, c: Any) -> Any:
    v = logmap(mean, x, c)
    w = transport(mean, [mpf(0) for _ in x], v, c)
    t = mpmath.sqrt(c) * norm(w)
    z = [a / s for a, s in zip(w, scale)]
    log_scale = mpmath.fsum(mpmath.log(s) for s in scale)
    gaussian = -dot(z, z) / 2 - log_scale - len(x) * mpmath.log(2 * mpmath.pi) / 2
    return gaussian - (len(x) - 1) * mpmath.log(sinhc(t))
