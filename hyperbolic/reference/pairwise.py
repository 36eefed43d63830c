"""Distances of all pairs of rows, in wide numbers: the formulas for two points, broadcast."""

from __future__ import annotations

from hyperbolic.reference import lorentz, poincare
from hyperbolic.reference.autodiff import Variable


def lorentz_dist(x: Variable, y: Variable, c: Variable) -> Variable:
    return lorentz.dist(x[..., :, None, :], y[..., None, :, :], c[..., None, None])[..., 0]


def poincare_dist(x: Variable, y: Variable, c: Variable) -> Variable:
    return poincare.dist(x[..., :, None, :], y[..., None, :, :], c[..., None, None])[..., 0]
