"""The gradient of the distance in closed form, where central differences would take too long."""

from __future__ import annotations

from typing import Any

import mpmath

from hyperbolic.testing.oracle import lorentz, poincare
from hyperbolic.testing.oracle.vectors import Vector


def gradient_of_dist(model: str, x: Vector, y: Vector, c: Any) -> Vector:
    """At ``x``, not ``y``: minus the unit tangent towards ``y``, lowered."""
    if model == "poincare":
        v = poincare.logmap(x, y, c)
        n = poincare.norm_at(x, v, c)
        return [-e / n * poincare.conformal_factor(x, c) ** 2 for e in v]
    v = lorentz.logmap(x, y, c)
    n = lorentz.norm_at(x, v, c)
    x0, v0 = lorentz.time(x, c), mpmath.fdot(x, v) / lorentz.time(x, c)
    return [-(e - v0 * p / x0) / n for e, p in zip(v, x)]
