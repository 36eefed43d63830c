"""The isometries between the models in mpmath, for single points."""

from __future__ import annotations

from typing import Any

import mpmath

from hyperbolic.testing.oracle.vectors import Vector, dot, scaled


def lorentz_to_poincare(x: Vector, c: Any) -> Vector:
    return scaled(1 / (1 + mpmath.sqrt(1 + c * dot(x, x))), x)


def poincare_to_lorentz(x: Vector, c: Any) -> Vector:
    return scaled(2 / (1 - c * dot(x, x)), x)


def lorentz_to_klein(x: Vector, c: Any) -> Vector:
    return scaled(1 / mpmath.sqrt(1 + c * dot(x, x)), x)


def klein_to_lorentz(x: Vector, c: Any) -> Vector:
    return scaled(1 / mpmath.sqrt(1 - c * dot(x, x)), x)


def poincare_to_klein(x: Vector, c: Any) -> Vector:
    return lorentz_to_klein(poincare_to_lorentz(x, c), c)


def klein_to_poincare(x: Vector, c: Any) -> Vector:
    return lorentz_to_poincare(klein_to_lorentz(x, c), c)
