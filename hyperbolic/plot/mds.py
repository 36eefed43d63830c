"""Points of more dimensions brought down to two."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hyperbolic import lorentz, pairwise

_ITERATIONS = 100


class Reduced(NamedTuple):
    """What :func:`reduce` returns."""

    points: Tensor
    """(N, dim), on the hyperboloid of the same curvature."""
    stress: float
    """Kruskal's stress-1, ``sqrt(sum (d - d')^2 / sum d^2)`` over all pairs: 0 if every distance is kept."""
    explained: float
    """The share of the distances' variance that survives, the squared correlation of d and d' (Tenenbaum et al., 2000);
    NaN if all distances are equal."""


def reduce(points: Tensor, dim: int = 2, c: float = 1.0, *, keep_depth: bool = False) -> Reduced:
    """Lorentz points (N, D) in ``dim`` dimensions, their distances kept as well as stress allows.

    Hyperbolic multidimensional scaling: the start is PCA in the tangent space at the Lorentz centroid, which becomes
    the origin; from there L-BFGS minimises the stress of the geodesic distances. A set inside a hyperbolic subspace of
    ``dim`` dimensions comes back isometric. With ``keep_depth`` the origin stays where it is, every point keeps its
    distance to it, and only directions move. Deterministic. Memory is O(N^2): a few thousand points.

    >>> x = lorentz.expmap0(torch.tensor([[1.0, 0.0, 1.0], [-2.0, 0.0, -2.0], [0.0, 1.0, 0.0]]))
    >>> reduce(x).stress < 1e-6
    True
    """
    if points.dim() != 2 or not 1 <= dim <= points.shape[1]:
        raise ValueError(f"reduce: points must have shape (N, {dim} or more), got {tuple(points.shape)}")
    points = points.detach()
    target, depth = pairwise.pairwise_dist(points, points, c=c), lorentz.dist0(points, c=c)
    centred = points if keep_depth else lorentz.boost(points, -lorentz.centroid(points, c=c), c=c)
    tangent = lorentz.logmap0(centred, c=c)
    spread = (tangent - tangent.mean(0)).double()
    axes = torch.linalg.eigh(spread.mT @ spread).eigenvectors[:, -dim:].flip(1)
    start = tangent @ axes.to(tangent)
    # a direction for points that have none in this plane
    start[:, 0] = torch.where((start == 0).all(1), depth, start[:, 0])

    def place(v: Tensor) -> Tensor:
        return lorentz.expmap0(depth[:, None] * normalize(v, dim=1) if keep_depth else v, c=c)

    def errors(v: Tensor) -> Tensor:
        x = place(v)
        return pairwise.pairwise_dist(x, x, c=c) - target

    with torch.enable_grad():
        v = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([v], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")
        scale = target.square().sum() / len(points)

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = errors(v).square().sum() / scale
            value.backward()
            return value

        if scale > 0:
            optimizer.step(loss)
    with torch.no_grad():
        pairs = torch.ones_like(target, dtype=torch.bool).triu(1)
        d, error = target[pairs].double(), errors(v)[pairs].double()
        stress = (error.square().sum() / d.square().sum()).sqrt().item() if scale > 0 else 0.0
        explained = torch.corrcoef(torch.stack([d, d + error]))[0, 1].square().item() if len(d) > 1 else math.nan
        return Reduced(place(v), stress, explained)
