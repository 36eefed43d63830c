"""Textbook formulas of the Poincare ball in mpmath (Ganea et al., 2018; Ungar, 2008), for single points."""

from __future__ import annotations

from typing import Any

import mpmath
from mpmath import mpf

from hyperbolic.testing.oracle import lorentz, models
from hyperbolic.testing.oracle.vectors import Vector, dot, minus, norm, plus, scaled


def mobius_add(x: Vector, y: Vector, c: Any) -> Vector:
    xy, xx, yy = dot(x, y), dot(x, x), dot(y, y)
    top = plus(scaled(1 + 2 * c * xy + c * yy, x), scaled(1 - c * xx, y))
    return scaled(1 / (1 + 2 * c * xy + c * c * xx * yy), top)


def conformal_factor(x: Vector, c: Any) -> Any:
    return 2 / (1 - c * dot(x, x))


def _artanh_ratio(x: Vector, c: Any) -> Any:
    t = mpmath.sqrt(c) * norm(x)
    return mpmath.atanh(t) / t if t else mpf(1)


def _tanh_ratio(v: Vector, c: Any) -> Any:
    t = mpmath.sqrt(c) * norm(v)
    return mpmath.tanh(t) / t if t else mpf(1)


def dist(x: Vector, y: Vector, c: Any) -> Any:
    return 2 / mpmath.sqrt(c) * mpmath.atanh(mpmath.sqrt(c) * norm(mobius_add(scaled(-1, x), y, c)))


def dist0(x: Vector, c: Any) -> Any:
    return 2 / mpmath.sqrt(c) * mpmath.atanh(mpmath.sqrt(c) * norm(x))


def dist_exp0(u: Vector, v: Vector, c: Any) -> Any:
    return lorentz.dist_exp0(scaled(2, u), scaled(2, v), c)


def expmap0(v: Vector, c: Any) -> Vector:
    return scaled(_tanh_ratio(v, c), v)


def logmap0(x: Vector, c: Any) -> Vector:
    return scaled(_artanh_ratio(x, c), x)


def expmap(x: Vector, v: Vector, c: Any) -> Vector:
    w = scaled(conformal_factor(x, c) / 2, v)
    return mobius_add(x, scaled(_tanh_ratio(w, c), w), c)


def logmap(x: Vector, y: Vector, c: Any) -> Vector:
    m = mobius_add(scaled(-1, x), y, c)
    return scaled(2 / conformal_factor(x, c) * _artanh_ratio(m, c), m)


def gyration(x: Vector, y: Vector, v: Vector, c: Any) -> Vector:
    """From its definition. The gyration is linear, so ``v`` is first brought well inside the ball."""
    size = norm(v) * 2 * mpmath.sqrt(c)
    if not size:
        return v
    w = scaled(1 / size, v)
    whole = scaled(-1, mobius_add(x, y, c))
    return scaled(size, mobius_add(whole, mobius_add(x, mobius_add(y, w, c), c), c))


def transport(x: Vector, y: Vector, v: Vector, c: Any) -> Vector:
    return scaled(conformal_factor(x, c) / conformal_factor(y, c), gyration(y, scaled(-1, x), v, c))


def transport0(y: Vector, v: Vector, c: Any) -> Vector:
    return scaled(2 / conformal_factor(y, c), v)


def mobius_scalar_mul(t: Any, x: Vector, c: Any) -> Vector:
    return expmap0(scaled(t, logmap0(x, c)), c)


def mobius_matvec(m: list[Vector], x: Vector, c: Any) -> Vector:
    v = logmap0(x, c)
    return expmap0([dot(row, v) for row in m], c)


def geodesic(x: Vector, y: Vector, t: Any, c: Any) -> Vector:
    return mobius_add(x, mobius_scalar_mul(t, mobius_add(scaled(-1, x), y, c), c), c)


def midpoint(x: Vector, y: Vector, c: Any) -> Vector:
    return geodesic(x, y, mpf(1) / 2, c)


def centroid(points: list[Vector], weights: Vector, c: Any) -> Vector:
    """The gyromidpoint of Ungar, 2010, theorem 6.85: half of the weighted mean in squared Lorentz factors."""
    factors = [w * conformal_factor(p, c) for p, w in zip(points, weights)]
    top = [dot(list(column), factors) for column in zip(*points)]
    bottom = dot([conformal_factor(p, c) - 1 for p in points], weights)
    return mobius_scalar_mul(mpf(1) / 2, scaled(1 / bottom, top), c)


def norm_at(x: Vector, v: Vector, c: Any) -> Any:
    return conformal_factor(x, c) * norm(v)


def egrad2rgrad(x: Vector, g: Vector, c: Any) -> Vector:
    return scaled(1 / conformal_factor(x, c) ** 2, g)


def half_aperture(x: Vector, c: Any, min_radius: Any) -> Any:
    k, n = min_radius * (1 - c * dot(x, x)), mpmath.sqrt(c) * norm(x)
    return mpmath.asin(k / n) if n > k else mpmath.pi / 2


def exterior_angle(x: Vector, y: Vector, c: Any) -> Any:
    """The model is conformal: the angle between Euclidean vectors."""
    v = logmap(x, y, c)
    if not any(v) or not any(x):
        return mpf(0)
    cosine = dot(x, v) / (norm(x) * norm(v))
    return mpmath.acos(min(mpf(1), max(mpf(-1), cosine)))


def busemann(x: Vector, direction: Vector, c: Any) -> Any:
    root = mpmath.sqrt(c)
    gap = minus(scaled(1 / norm(direction), direction), scaled(root, x))
    return mpmath.log(dot(gap, gap) / (1 - c * dot(x, x))) / root


def wrapped_normal_log_prob(x: Vector, mean: Vector, scale: Vector, c: Any) -> Any:
    to = models.poincare_to_lorentz
    return lorentz.wrapped_normal_log_prob(to(x, c), to(mean, c), scale, c)
