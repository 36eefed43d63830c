"""The isometries between the hyperboloid, the Poincare ball and the Klein ball, in wide numbers."""

from __future__ import annotations

from hyperbolic.reference import lorentz_distance, poincare
from hyperbolic.reference.autodiff import Variable, sqrt

lorentz_to_poincare = poincare.from_lorentz
poincare_to_lorentz = poincare.to_lorentz


def lorentz_to_klein(x: Variable, c: Variable) -> Variable:
    return x / lorentz_distance.coshr(x, c)


def klein_to_lorentz(x: Variable, c: Variable) -> Variable:
    return x / sqrt(poincare.rim(x, c))


def poincare_to_klein(x: Variable, c: Variable) -> Variable:
    return x * 2.0 / (2.0 - poincare.rim(x, c))


def klein_to_poincare(x: Variable, c: Variable) -> Variable:
    return x / (sqrt(poincare.rim(x, c)) + 1.0)
