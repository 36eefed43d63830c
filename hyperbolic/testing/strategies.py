"""Hypothesis strategies over the whole domain: curvatures, points, pairs of points and tangents.

Points and tangents are tensors of shape (dim,). They shrink towards the origin and towards an axis.
"""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import Tensor

from hyperbolic.testing.samples import RADIUS, RELATIONS, Sampler

Points = st.SearchStrategy[Tensor]


def curvatures(smallest: float = 0.01, largest: float = 10.0) -> st.SearchStrategy[float]:
    """Values of c: the usual ones, and any other within the bounds."""
    usual = [c for c in (1.0, 0.01, 0.1, 2.0, 10.0) if smallest <= c <= largest]
    return st.sampled_from(usual) | st.floats(smallest, largest)


def radii(largest: float) -> st.SearchStrategy[float]:
    """0, tiny, general, and at the limit."""
    return st.just(0.0) | st.floats(1e-30, 1e-3) | st.floats(0.0, largest) | st.just(largest)


def _direction(dim: int, seed: int) -> Tensor:
    if seed < dim:
        return torch.eye(dim, dtype=torch.float64)[seed]
    u = torch.randn(dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(u, dim=0)


def _seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**32 - 1)


@st.composite
def points(
    draw: st.DrawFn, model: str, dtype: torch.dtype, dim: int, c: float, max_radius: float | None = None
) -> Tensor:
    """A point of "lorentz", "poincare" or "klein", up to ``max_radius`` or the limit of the type."""
    largest = min(RADIUS[model, dtype], math.inf if max_radius is None else max_radius)
    r, u = draw(radii(largest)), _direction(dim, draw(_seeds()))
    profile = {"lorentz": math.sinh(r), "poincare": math.tanh(r / 2), "klein": math.tanh(r)}[model]
    sampler = Sampler(model, dtype, dim, c, 0, 1, largest)
    return sampler.store((u * (profile / math.sqrt(c)))[None].numpy())[0]


@st.composite
def pairs(
    draw: st.DrawFn, model: str, dtype: torch.dtype, dim: int, c: float, max_radius: float | None = None
) -> tuple[Tensor, Tensor]:
    """Two points: independent, coincident, close in a general or the radial direction, collinear or opposite."""
    x = draw(points(model, dtype, dim, c, max_radius))
    sampler = Sampler(model, dtype, dim, c, draw(_seeds()), 1, max_radius)
    return x, sampler.partner(x[None], draw(st.sampled_from(RELATIONS)))[0]


@st.composite
def tangents(draw: st.DrawFn, model: str, x: Tensor, c: float, largest: float = 20.0) -> Tensor:
    """A tangent at ``x`` of Riemannian norm up to ``largest/sqrt(c)``."""
    sampler = Sampler(model, x.dtype, x.shape[-1], c, draw(_seeds()), 1)
    return sampler.tangent(x[None], draw(radii(largest)))[0]
