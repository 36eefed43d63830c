"""What other libraries clamp away, overwrite or ignore."""

import math

import pytest
import torch
from mpmath import mpf

from hyperbolic import lorentz, pairwise, poincare
from hyperbolic.testing import oracle, ulp_error


def test_close_points() -> None:
    """Two points 1e-3 apart at radius 1: float32 acosh of the inner product is 31 % wrong."""
    x = torch.tensor([math.sinh(1.0), 0.0])
    y = torch.tensor([math.sinh(1.0), 1e-3])
    with oracle.digits():
        assert ulp_error(lorentz.dist(x, y), oracle.lorentz.dist(oracle.exact(x), oracle.exact(y), mpf(1))) <= 1


@pytest.mark.parametrize("c", [0.01, 1.0, 10.0])
@pytest.mark.parametrize(("dtype", "radius"), [(torch.float32, 86.0), (torch.float64, 700.0)], ids=str)
def test_lorentz_radius(dtype: torch.dtype, radius: float, c: float) -> None:
    """expmap0 reaches what the type can hold, where MERU saturates at 11; beyond, it stops short of overflow."""
    u = torch.tensor([0.6, 0.8], dtype=torch.float64)
    v = (u * radius / math.sqrt(c)).to(dtype)
    with oracle.digits():
        assert ulp_error(lorentz.expmap0(v, c=c), oracle.lorentz.expmap0(oracle.exact(v), mpf(c))) <= 2
    for factor in (1.1, 2.0, 1e6, 1e30):
        w = (v * factor).requires_grad_()
        x = lorentz.expmap0(w, c=c)
        assert x.isfinite().all()
        assert x.abs().max() > torch.finfo(dtype).max * 1e-5
        direction = torch.nn.functional.normalize(x.double() / x.abs().max(), dim=0)
        assert torch.allclose(direction, u, rtol=1e-6)
        assert torch.autograd.grad(x.sum(), w)[0].isfinite().all()
        y = lorentz.expmap(torch.ones(2, dtype=dtype), w.detach(), c=c)
        assert y.isfinite().all()


@pytest.mark.parametrize("c", [1e-10, 1e-77, 1e-78, 1e-100, 1e-300, 5e-324])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_nearly_flat(dtype: torch.dtype, c: float) -> None:
    """As c goes to 0 the maps are those of flat space; none is cut short where all coordinates fit."""
    v = torch.tensor([1.0, -2.0], dtype=dtype, requires_grad=True)
    out = lorentz.expmap0(v, c=c)
    with oracle.digits():
        assert ulp_error(out, oracle.lorentz.expmap0(oracle.exact(v.detach()), mpf(c))) <= 2
        far = torch.full((2,), torch.finfo(dtype).max / 4, dtype=dtype)
        if c < 1e-80 and dtype != torch.float64:
            assert ulp_error(lorentz.expmap0(far, c=c), oracle.lorentz.expmap0(oracle.exact(far), mpf(c))) <= 2
    assert torch.allclose(torch.autograd.grad(out.sum(), v)[0].double(), torch.ones(2, dtype=torch.float64), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_points_stay_finite(dtype: torch.dtype) -> None:
    """What no coordinate of the type can hold is returned as far out as it can be, in the right direction."""
    far = torch.tensor([0.6, 0.8], dtype=torch.float64) * torch.finfo(dtype).max * 0.9
    x = far.to(dtype)
    for y in (lorentz.boost(x, x), lorentz.geodesic(x * 0.5, x, 3.0), lorentz.expmap(x, x)):
        assert y.isfinite().all()
        assert y.abs().max() >= torch.finfo(dtype).max * 0.99
        assert torch.allclose(y.double() / y.double().norm(), far / far.norm(), rtol=2e-3)


@pytest.mark.parametrize(("dtype", "radius"), [(torch.float32, 16.0), (torch.float64, 36.0)], ids=str)
def test_ball_radius(dtype: torch.dtype, radius: float) -> None:
    """Geoopt and hypll clip to radius 6.2 and 12.2."""
    x = poincare.expmap0(torch.tensor([radius / 2, 0.0], dtype=dtype))
    assert abs(poincare.dist0(x).item() - radius) < 0.5
    beyond = poincare.expmap0(torch.tensor([1e30, 1e30], dtype=dtype))
    assert poincare.dist0(beyond) > radius
    assert poincare.dist0(beyond).isfinite()


@pytest.mark.parametrize("module", [lorentz, poincare], ids=["lorentz", "poincare"])
def test_coincident_gradient(module: object) -> None:
    """MERU's gradient is infinite: clamp(z, 1 + 1e-8) is 1 in float32."""
    x = torch.tensor([0.3, 0.4], requires_grad=True)
    y = x.detach().clone().requires_grad_()
    gradients = torch.autograd.grad(module.dist(x, y), (x, y))  # type: ignore[attr-defined]
    assert not any(g.any() for g in gradients)


def test_curvature_tensor_is_left_alone() -> None:
    """geoopt's PoincareBall overwrites it."""
    c = torch.tensor(0.5, requires_grad=True)
    poincare.dist0(torch.rand(2) / 2, c=c).backward()
    assert c.item() == 0.5
    assert c.grad is not None


def test_cdist_heeds_curvature() -> None:
    x = torch.randn(3, 2, dtype=torch.float64)
    for c in (0.1, 4.0):
        k = math.sqrt(c)
        scaled = pairwise.pairwise_dist(k * x, k * x) / k
        torch.testing.assert_close(pairwise.pairwise_dist(x, x, c=c), scaled, rtol=1e-14, atol=0)


def test_half_aperture_scales_with_curvature() -> None:
    """asin(2 K/(sqrt(c)|x|)): sqrt(c), where geoopt has sqrt(1/c)."""
    x = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert lorentz.half_aperture(x, 0.1, c=4.0).item() == pytest.approx(math.asin(0.2 / 10), rel=1e-15)


def test_anchor_states() -> None:
    """Layer-normed hidden states of width 4096 sit at radius 64, where cosh overflows float32."""
    torch.manual_seed(0)
    u = torch.nn.functional.layer_norm(torch.randn(4, 4096), (4096,)).requires_grad_()
    v = (u.detach() + 1e-3 * torch.randn(4, 4096)).requires_grad_()
    for c in (0.01, 0.1, 1.0):
        d = lorentz.dist_exp0(u, v, c=c)
        with oracle.digits():
            for i in range(4):
                want = oracle.lorentz.dist_exp0(oracle.exact(u[i].detach()), oracle.exact(v[i].detach()), mpf(c))
                assert ulp_error(d[i].detach(), want) <= 4
        assert all(g.isfinite().all() for g in torch.autograd.grad(d.square().sum(), (u, v)))
        same = lorentz.dist_exp0(u, u.detach(), c=c)
        assert not same.any()
        assert not torch.autograd.grad(same.square().sum(), u)[0].any()
