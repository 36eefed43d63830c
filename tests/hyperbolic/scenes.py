"""Sets of points whose pairs are hard for a product of tiles, and what the contract allows them."""

from typing import Any

import numpy
import pytest
import torch
from mpmath import mpf
from torch import Tensor

from hyperbolic import lorentz, poincare
from hyperbolic.testing import Sampler, oracle
from hyperbolic.testing.oracle.vectors import Vector

MODULES: dict[str, Any] = {"lorentz": lorentz, "poincare": poincare}
MODELS = pytest.mark.parametrize("model", sorted(MODULES))
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
# of the contract: relative, of a distance and of the sum of the norms of the gradients at a point
DIST = {torch.float32: 1e-6, torch.float64: 1e-14}
GRADIENT = {torch.float32: 2e-6, torch.float64: 2e-14}


def scene(name: str, model: str, dtype: torch.dtype, radius: float | None = None) -> tuple[Tensor, Tensor, float]:
    """Two sets of points that make some entries hard, and their curvature parameter."""
    c, dim = {"mixed": (0.5, 5), "line": (2.0, 1), "wide": (1.0, 70)}.get(name, (1.0, 3))
    sampler = Sampler(model, dtype, dim, c, 11, 9, max_radius=radius)
    if name in ("mixed", "line", "wide"):
        x = sampler.point()
        return x, torch.cat([x[:3], sampler.partner(x)]), c
    if name == "equal":
        x = sampler.point()[:1].expand(9, -1)
        return x, x, c
    if name == "clusters":
        centres = sampler.store(sampler._at(sampler.directions(), numpy.full((9, 1), 3.0)))[:2]
        near = [centres[i % 2] * (1 + 1e-6 * sampler.vector()) for i in range(9)]
        x = torch.stack([row[i] for i, row in enumerate(near)])
        return x, x.flip(0), c
    if name == "far":
        x = sampler.store(sampler._at(sampler.directions(), numpy.full((9, 1), min(20.0, sampler.max_radius))))
        return x, sampler.partner(x, "close"), c
    if name == "rim":
        x = sampler.store(sampler._at(sampler.directions(), numpy.full((9, 1), sampler.max_radius)))
        return x, sampler.partner(x), c
    assert name == "outlier"
    x = sampler.store(sampler._at(sampler.directions(), numpy.full((9, 1), 1e-3)))
    x[4] = sampler.store(sampler._at(sampler.directions(), numpy.full((9, 1), 15.0)))[4]
    return x, x.roll(1, 0), c


SCENES = pytest.mark.parametrize("name", ["mixed", "line", "wide", "equal", "clusters", "far", "rim", "outlier"])


def exact_dist(model: str, x: Vector, y: Vector, c: Any) -> Any:
    return getattr(oracle, model).dist(x, y, c) if x != y else mpf(0)
