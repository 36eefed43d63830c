"""Tools to test a hyperbolic library with, this one or another.

``oracle``: what every function should return, and its derivatives, in mpmath. ``catalogue``: the functions with
their oracles. ``samples`` and ``strategies``: arguments that break formulas, by seed and for hypothesis.
``errors`` and ``contract``: how far off a result is and what it is allowed. ``assert_isometric``: for maps that
keep distances.

Needs mpmath; ``strategies`` needs hypothesis.
"""

from hyperbolic.testing import oracle
from hyperbolic.testing.catalogue import CASES, Case
from hyperbolic.testing.errors import covector_error, displacement, tangent_error, ulp_error
from hyperbolic.testing.isometry import assert_isometric
from hyperbolic.testing.samples import Sampler

__all__ = [
    "CASES",
    "Case",
    "Sampler",
    "assert_isometric",
    "covector_error",
    "displacement",
    "oracle",
    "tangent_error",
    "ulp_error",
]
