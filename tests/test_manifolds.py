"""The geoopt interface: the functions it promises, and its optimisers on a small embedding."""

from typing import Any

import geoopt
import pytest
import torch
from torch import Tensor

from hyperbolic import manifolds
from hyperbolic.testing import Sampler

MODELS = pytest.mark.parametrize(
    ("manifold", "model"), [(manifolds.Lorentz, "lorentz"), (manifolds.PoincareBall, "poincare")]
)


@MODELS
def test_interface(manifold: Any, model: str) -> None:
    m = manifold(c=0.5)
    sampler = Sampler(model, torch.float64, 3, 0.5, 0, 20, max_radius=3.0)
    x, y = sampler.arguments(("point", "point"))
    u, v = sampler.tangent(x, 2.0), sampler.tangent(x, 2.0)
    m.assert_check_point_on_manifold(x)
    m.assert_check_vector_on_tangent(x, u)
    assert torch.allclose(m.dist(x, y, keepdim=True)[..., 0], m.norm(x, m.logmap(x, y)), rtol=1e-9)
    assert torch.allclose(m.expmap0(m.logmap0(x)), x)
    moved, carried = m.retr_transp(x, u, v)
    assert torch.equal(moved, m.expmap(x, u))
    # transport keeps the polarised inner product, which agrees with the norm
    assert torch.allclose(m.inner(moved, carried, m.transp(x, moved, u)), m.inner(x, v, u), rtol=1e-9, atol=1e-12)
    assert torch.allclose(4 * m.inner(x, u, v), m.inner(x, u + v) - m.inner(x, u - v), rtol=1e-9, atol=1e-9)
    # the Riemannian gradient represents the Euclidean one in the metric
    assert torch.allclose(m.inner(x, m.egrad2rgrad(x, v), u, keepdim=True), (u * v).sum(-1, keepdim=True), atol=1e-9)
    assert torch.equal(m.projx(x), x)
    assert m.random(4, 3).shape == (4, 3)
    assert not m.origin(4, 3).any()


@MODELS
@pytest.mark.parametrize("optimizer", [geoopt.optim.RiemannianAdam, geoopt.optim.RiemannianSGD])
def test_optimisers(manifold: Any, model: str, optimizer: Any) -> None:
    """A star with five leaves at distance 2, and at 4 from one another, embeds almost without distortion."""
    torch.manual_seed(0)
    want = torch.full((6, 6), 4.0) - 4 * torch.eye(6)
    want[0, 1:] = want[1:, 0] = 2.0
    m = manifold(c=2.0)
    x = geoopt.ManifoldParameter(m.random(6, 2, scale=0.1), manifold=m)

    def stress(x: Tensor) -> Tensor:
        return (x.manifold.dist(x[:, None], x[None]) - want).square().mean()

    before = stress(x).item()
    steps = optimizer([x], lr=0.05 if optimizer is geoopt.optim.RiemannianAdam else 0.2)
    for _ in range(150):
        steps.zero_grad()
        stress(x).backward()
        steps.step()
    assert x.isfinite().all()
    assert stress(x).item() < 0.05 * before


@MODELS
def test_curvature(manifold: Any, model: str) -> None:
    c = torch.tensor(0.5)
    m = manifold(c=c, learnable=True)
    m.dist0(torch.tensor([0.3, 0.4])).backward()
    assert m.c.grad is not None
    with torch.no_grad():
        m.c.add_(1.0)
    assert c.item() == 0.5
    with pytest.raises(ValueError, match="c must be positive, got -1"):
        manifold(c=-1)
