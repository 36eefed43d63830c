"""The wrapped normal: that its density is the density of its samples."""

import math
from typing import Any

import pytest
import torch

from hyperbolic import lorentz, models, poincare


def test_density_integrates_to_one() -> None:
    """Over the hyperbolic plane in geodesic polar coordinates around the mean."""
    c, scale = 0.7, torch.tensor([0.4, 0.9], dtype=torch.float64)
    mean = torch.tensor([0.6, -0.3], dtype=torch.float64)
    normal = lorentz.wrapped_normal(mean, scale, c=c)
    r = torch.linspace(0, 8, 801, dtype=torch.float64)[1:]
    angle = torch.linspace(0, 2 * math.pi, 241, dtype=torch.float64)[:-1]
    v = torch.stack(torch.broadcast_tensors(r[:, None] * angle.cos(), r[:, None] * angle.sin()), dim=-1)
    points = lorentz.expmap(mean, lorentz.transport0(mean, v, c=c), c=c)
    area = torch.sinh(math.sqrt(c) * r) / math.sqrt(c)
    mass = (normal.log_prob(points).exp() * area[:, None]).sum() * 0.01 * (2 * math.pi / 240)
    assert mass.item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("module", [lorentz, poincare], ids=["lorentz", "poincare"])
def test_samples(module: Any) -> None:
    """Mapped back to the tangent space at the mean they have the scale that was asked for, and nothing else."""
    torch.manual_seed(0)
    c, mean = 0.5, torch.tensor([0.3, 0.4], dtype=torch.float64)
    scale = torch.tensor([0.5, 0.1], dtype=torch.float64)
    x = module.wrapped_normal(mean, scale, c=c).sample((40000,))
    v = module.logmap(mean, x, c=c)
    w = module.transport(mean, torch.zeros_like(mean), v, c=c) * (1 if module is lorentz else 2)
    assert torch.allclose(w.mean(0), torch.zeros(2, dtype=torch.float64), atol=0.01)
    assert torch.allclose(w.std(0), scale, rtol=0.02)
    assert abs(torch.corrcoef(w.T)[0, 1].item()) < 0.02


def test_models_agree() -> None:
    p = torch.tensor([[0.1, 0.2], [0.3, -0.4]], dtype=torch.float64)
    x = models.poincare_to_lorentz(p)
    ball = poincare.wrapped_normal(p[0], 0.3).log_prob(p[1])
    torch.testing.assert_close(ball, lorentz.wrapped_normal(x[0], 0.3).log_prob(x[1]))


def test_shapes_and_gradients() -> None:
    mean = torch.randn(4, 1, 3, requires_grad=True)
    scale = torch.rand(2, 3, requires_grad=True)
    c = torch.tensor(0.5, requires_grad=True)
    normal = lorentz.wrapped_normal(mean, scale, c=c)
    assert normal.batch_shape == (4, 2)
    assert normal.event_shape == (3,)
    x = normal.rsample((5,))
    assert x.shape == (5, 4, 2, 3)
    log_prob = normal.log_prob(x)
    assert log_prob.shape == (5, 4, 2)
    assert log_prob.dtype == torch.float32
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(log_prob.sum(), (mean, scale, c)))
    assert lorentz.wrapped_normal(torch.zeros(3), 0.1).sample().shape == (3,)
