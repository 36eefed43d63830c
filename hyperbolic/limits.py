"""The only clamps of the package: per type, what keeps a point representable."""

from __future__ import annotations

import torch

LARGEST_COORDINATE = {
    torch.float16: torch.finfo(torch.float16).max,
    torch.bfloat16: torch.finfo(torch.bfloat16).max,
    torch.float32: torch.finfo(torch.float32).max,
    # Short of the largest float64, so that what a result is made of is still finite.
    torch.float64: 2.0**1016,
}
"""``lorentz.expmap0`` shortens a tangent until no coordinate of the result can exceed this: beyond radius 88 for
float32 and bfloat16, 700 for float64 and 11 for float16 (c = 1). Any other function whose result is a point of the
hyperboloid that its type cannot hold returns the farthest in its direction that it can."""

LARGEST_RADIUS = {
    torch.float16: 7.0,
    torch.bfloat16: 20.0,
    torch.float32: 20.0,
    torch.float64: 36.0,
}
"""``lorentz.project`` moves what lies beyond this radius to 1/64 short of it: far enough that rounding the coordinates
cannot cross back. Up to here the gradients of distances are exact and, in float16, tangents have room in the type."""

RIM_MARGIN = {
    torch.float16: 2.0**-9,
    torch.bfloat16: 2.0**-6,
    torch.float32: 2.0**-22,
    torch.float64: 2.0**-50,
}
"""``poincare.project`` moves what lies beyond ``sqrt(c)|x| = 1 - margin``, a few steps of the type below 1, to
``1 - 1.5 margin``: far enough inside that rounding the coordinates cannot cross back, so projecting twice is
projecting once."""
