"""Lorentz k-means and the probing of its cells."""

import pytest
import torch
from torch import Tensor

from hyperbolic import lorentz
from icl.bank.search import lorentz_kmeans

C = 0.6


def dist(x: Tensor, y: Tensor) -> Tensor:
    """By the definition, in float64."""
    x, y = x.double(), y.double()
    x0, y0 = ((1 + C * p.square().sum(1)).sqrt() for p in (x, y))
    return torch.acosh((x0[:, None] * y0 - C * x @ y.T).clamp(min=1.0)) / C**0.5


def clusters(n: int, count: int = 12, dim: int = 8) -> tuple[Tensor, Tensor]:
    """Points, and of which cluster each is: far apart from each other and narrow."""
    generator = torch.Generator().manual_seed(3)
    direction = torch.nn.functional.normalize(torch.randn(count, dim, generator=generator), dim=1)
    centre = lorentz.expmap0(direction * (3 + 3 * torch.rand(count, 1, generator=generator)), c=C)
    which = torch.randint(count, (n,), generator=generator)
    step = 0.1 * torch.randn(n, dim, generator=generator)
    return lorentz.expmap(centre[which], lorentz.transport0(centre[which], step, c=C), c=C), which


def test_nearest_cell_and_probes() -> None:
    points, _ = clusters(300)
    centroids = lorentz_kmeans.kmeans(points, 9, c=C)
    d = dist(points, centroids)
    assert torch.equal(lorentz_kmeans.assign(points, centroids, c=C), d.argmin(1))
    # the rank of every cell, by counting those that are nearer
    want = (d[:, :, None] > d[:, None, :]).sum(2) + 1
    assert torch.equal(lorentz_kmeans.probes(points, torch.arange(9).expand(300, -1), centroids, c=C), want)


def test_centroids_are_a_fixed_point() -> None:
    """No point has a nearer centroid, and no centroid can be moved to lower its cell's sum of cosh D."""
    points, _ = clusters(500)
    centroids = lorentz_kmeans.kmeans(points, 6, c=C, iterations=100).double()
    assert torch.isfinite(centroids).all()
    d = dist(points, centroids)
    cell = d.argmin(1)
    for j in range(6):
        members = points[cell == j].double()
        centre = centroids[j].clone().requires_grad_()
        x0, y0 = (1 + C * members.square().sum(1)).sqrt(), (1 + C * centre.square().sum()).sqrt()
        cosh = x0 * y0 - C * members @ centre
        (gradient,) = torch.autograd.grad(cosh.sum(), centre)
        # in the dual norm, next to the sum of the terms' own gradients
        norm = (gradient.square().sum() + C * (centre @ gradient).square()).sqrt()
        assert norm <= 1e-5 * C**0.5 * cosh.square().sub(1).clamp(min=0).sqrt().sum()


def test_finds_clusters() -> None:
    """As many cells as there are clusters, or more: none holds points of two."""
    points, which = clusters(1500)
    cell = lorentz_kmeans.assign(points, lorentz_kmeans.kmeans(points, 48, c=C), c=C)
    assert torch.bincount(cell, minlength=48).min() > 0
    mixed = torch.zeros(48, 12).index_put_((cell, which), torch.tensor(1.0))
    assert (mixed.sum(1) == 1).double().mean() >= 0.9


def test_deterministic_by_seed() -> None:
    points, _ = clusters(3000)
    first, again, other = (lorentz_kmeans.kmeans(points, 8, c=C, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_few_points() -> None:
    """As many cells as points: each its own; and equal points, which leave cells empty."""
    points, _ = clusters(5)
    assert torch.equal(
        lorentz_kmeans.assign(points, lorentz_kmeans.kmeans(points, 5, c=C), c=C).sort().values, torch.arange(5)
    )
    same = points[:1].repeat(7, 1)
    centroids = lorentz_kmeans.kmeans(same, 3, c=C)
    assert dist(same[:1], centroids).max() < 1e-3
    with pytest.raises(ValueError, match="cells must be from 1 to the 5 points, got 6"):
        lorentz_kmeans.kmeans(points, 6, c=C)
