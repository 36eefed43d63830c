"""What every function should return, in mpmath with 180 digits, from formulas independent of the library's.

``oracle.lorentz.dist(x, y, c)`` and so on take single points as lists of mpmath numbers (``oracle.exact``
converts tensors without rounding) and run inside ``with oracle.digits():``. ``oracle.vjp`` differentiates any
of them.
"""

from __future__ import annotations

from typing import Any

import mpmath

from hyperbolic.testing.oracle import lorentz, models, poincare
from hyperbolic.testing.oracle.slopes import gradient_of_dist
from hyperbolic.testing.oracle.vectors import DPS, exact, vjp


def digits(dps: int = DPS) -> Any:
    """Context that sets mpmath's precision."""
    return mpmath.workdps(dps)


__all__ = ["DPS", "digits", "exact", "gradient_of_dist", "lorentz", "models", "poincare", "vjp"]
