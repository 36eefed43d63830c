"""The points that are measured on, the same on every run, in float32 and with curvature -1."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperbolic import lorentz, models

# Geodesic distance of a point of a cluster from its centre: far below where the matrix product still resolves it.
SCATTER = 0.02


def generator(seed: int) -> torch.Generator:
    """Return a generator with this seed."""
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    """Return standard normal numbers."""
    return torch.randn(*shape, generator=generator(seed))


def spread(model: str, seed: int, *shape: int) -> Tensor:
    """Points in all directions, at radii from 0.5 to 4: no two are close."""
    return _at(model, normal(seed, *shape), radii(seed, *shape[:-1]))


def radii(seed: int, *shape: int) -> Tensor:
    """Return radii from 0.5 to 4."""
    return 0.5 + 3.5 * torch.rand(*shape, 1, generator=generator(~seed & 0xFFFF))


def tangents0(model: str, seed: int, *shape: int) -> Tensor:
    """Tangents at the origin whose exponentials are ``spread(model, seed, *shape)``."""
    v = normal(seed, *shape)
    length = radii(seed, *shape[:-1]) / (1 if model == "lorentz" else 2)
    return v.mul_(length / v.norm(dim=-1, keepdim=True))


def tangents(model: str, seed: int, x: Tensor) -> Tensor:
    """A tangent of length 1 at every point of ``x``."""
    v = normal(seed, *x.shape)
    # On the hyperboloid a little less than 1: the component along x is long only in these coordinates.
    scale = 1.0 if model == "lorentz" else (1 - x.square().sum(-1, keepdim=True)) / 2
    return v.mul_(scale / v.norm(dim=-1, keepdim=True))


def clusters(model: str, seed: int, count: int, n: int, dim: int) -> Tensor:
    """Points round ``count`` centres at radius 3, which are those of every seed."""
    centres = _at("lorentz", normal(0, count, dim).double(), torch.full((count, 1), 3.0).double())
    x = centres[torch.arange(n) % count]
    v = normal(seed, n, dim).double()
    v *= SCATTER / lorentz.norm(x, v)[:, None]
    points = lorentz.expmap(x, v)
    return (points if model == "lorentz" else models.lorentz_to_poincare(points)).float()


def _at(model: str, direction: Tensor, radius: Tensor) -> Tensor:
    coordinate = radius.sinh() if model == "lorentz" else (radius / 2).tanh()
    return direction.mul_(coordinate / direction.norm(dim=-1, keepdim=True))


def ambient(x: Tensor) -> Tensor:
    """The point with its time component in front, which other libraries take."""
    return torch.cat([(1 + x.square().sum(-1, keepdim=True)).sqrt(), x], -1)


def ambient_tangent(v: Tensor, x: Tensor | None = None) -> Tensor:
    """The tangent at ``x``, or at the origin, with its time component in front."""
    if x is None:
        return torch.nn.functional.pad(v, (1, 0))
    time = (x * v).sum(-1, keepdim=True) / (1 + x.square().sum(-1, keepdim=True)).sqrt()
    return torch.cat([time, v], -1)
