"""The geoopt interface: the functions it promises, and its optimisers on a small embedding."""

import math
import pickle
from typing import Any

import geoopt
import numpy
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
    (growth,) = m.parameters()
    assert (m.c.item(), growth.item()) == (0.5, 1.0)
    m.dist0(torch.tensor([0.3, 0.4])).backward()
    with torch.no_grad():
        growth.sub_(growth.grad.sign() * 0.25)
    assert m.c.item() == (0.375 if growth.grad > 0 else 0.625)
    assert c.item() == 0.5


@MODELS
@pytest.mark.parametrize(
    "c", [float("inf"), float("nan"), -1, 0.0, 10**400, torch.tensor([1.0, 0.0]), torch.tensor(-3)]
)
def test_curvature_refused(manifold: Any, model: str, c: Any) -> None:
    with pytest.raises(ValueError, match=rf"{manifold.__name__}: c must be positive and finite, got"):
        manifold(c=c)
    for other in (
        "1",
        True,
        None,
        1j,
        torch.tensor(True),
        torch.tensor(1.0).to(torch.float8_e4m3fn),
        torch.ones(2).to_sparse(),
    ):
        with pytest.raises(TypeError, match=rf"{manifold.__name__}: c must be a number or a dense tensor of real"):
            manifold(c=other)


@MODELS
@pytest.mark.parametrize("c", [2, torch.tensor(2), numpy.float32(2), 2.0])
def test_curvature_of_any_kind(manifold: Any, model: str, c: Any) -> None:
    x = torch.tensor([0.3, 0.4])
    want = math.asinh(0.5 * 2**0.5) / 2**0.5 if model == "lorentz" else 2 * math.atanh(0.5 * 2**0.5) / 2**0.5
    assert manifold(c=c).dist0(x).item() == pytest.approx(want, rel=1e-6)


@MODELS
@pytest.mark.parametrize("c", [1.2345678, 1e-6, 300.0])
def test_curvature_survives_any_step(manifold: Any, model: str, c: float) -> None:
    """At first the c given, bit for bit; positive after every step; and the way back is open."""
    m = manifold(c=c, learnable=True)
    assert m.c.item() == c
    for rate in (1e2, 1e6):
        optimizer = torch.optim.SGD(m.parameters(), lr=rate)
        m.c.log().backward()
        optimizer.step()
        assert 0 < m.c.item() < c
        assert m.dist0(torch.tensor([0.3, 0.4]) / c**0.5).isfinite()
    fast = torch.optim.Adam(m.parameters(), lr=1e6)
    for _ in range(50):
        fast.zero_grad()
        (m.c / c - 1).square().backward()
        fast.step()
    assert m.c.item() > 0


@MODELS
@pytest.mark.parametrize("learnable", [False, True])
def test_curvature_keeps_its_digits(manifold: Any, model: str, learnable: bool) -> None:
    """In a model of half precision too, and through a checkpoint."""
    m = torch.nn.ModuleDict({"m": manifold(c=1.2345678, learnable=learnable)})
    for change in (m.half, m.bfloat16, m.float, m.double, lambda: m.to(torch.float16)):
        change()
        assert m["m"].c.item() == 1.2345678
    other = manifold(c=0.1, learnable=learnable)
    other.load_state_dict(m["m"].state_dict())
    assert other.c.item() == pickle.loads(pickle.dumps(other)).c.item() == 1.2345678


@MODELS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_curvature_of_few_digits_learns(manifold: Any, model: str, dtype: torch.dtype) -> None:
    """The steps of an optimiser have room, whatever type ``c`` was given in."""
    m = manifold(c=torch.tensor(1.0, dtype=dtype), learnable=True)
    for sign in (1, -1):
        optimizer = torch.optim.RMSprop(m.parameters(), lr=100.0)
        for _ in range(5):
            optimizer.zero_grad()
            (sign * m.dist0(torch.tensor([0.3, 0.4]) * 1e-3)).backward()
            optimizer.step()
            assert 0 < m.c.item() < math.inf


@MODELS
def test_made_without_memory(manifold: Any, model: str) -> None:
    """As large models are loaded: on the meta device first."""
    with torch.device("meta"):
        m = manifold(c=torch.tensor(1.0), learnable=True)
    m = torch.nn.ModuleDict({"m": m}).to_empty(device="cpu")
    m.load_state_dict(torch.nn.ModuleDict({"m": manifold(c=0.3, learnable=True)}).state_dict())
    assert m["m"].c.item() == 0.3


def test_scaled() -> None:
    """Every length, as geoopt scales its own ball's."""
    x, y = torch.tensor([[0.1, 0.2, 0.3], [0.3, -0.2, 0.1]], dtype=torch.float64)
    ours, theirs = (
        geoopt.Scaled(ball, torch.tensor(2.5)) for ball in (manifolds.PoincareBall(), geoopt.PoincareBall())
    )
    for name in ("dist0", "expmap0", "logmap0"):
        torch.testing.assert_close(getattr(ours, name)(x), getattr(theirs, name)(x), rtol=1e-12, atol=0)
    for name in ("dist", "dist2", "expmap", "logmap"):
        torch.testing.assert_close(getattr(ours, name)(x, y), getattr(theirs, name)(x, y), rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.retr(x, y), theirs.expmap(x, y), rtol=1e-12, atol=0)
    twice = geoopt.Scaled(manifolds.Lorentz(), 2.0)
    assert twice.dist0(torch.tensor([3.0, 4.0])).item() == pytest.approx(2 * math.asinh(5.0), rel=1e-6)
    # a sample of the scaled space is as far from its origin as one of the space itself is from its own
    assert twice.dist0(twice.random(4000, 3)).square().mean().sqrt().item() == pytest.approx(1.0, rel=0.05)


@MODELS
@pytest.mark.parametrize("dim", [1, 3, 300])
def test_random(manifold: Any, model: str, dim: int) -> None:
    """As far from the origin in any number of dimensions."""
    torch.manual_seed(0)
    m = manifold(c=0.7)
    distance = m.dist0(m.random(4000, dim, scale=0.5))
    assert distance.square().mean().sqrt().item() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_product(dtype: torch.dtype) -> None:
    """With manifolds of any type, and points of either: the root of the sum of squared distances."""
    ball = geoopt.PoincareBall(c=torch.tensor(1.0, dtype=dtype))
    product = geoopt.ProductManifold((manifolds.PoincareBall(), 3), (ball, 3), (manifolds.Lorentz(), 2))
    x = torch.tensor([0.3, 0.0, 0.4, 0.0, 0.5, 0.0, 3.0, 4.0], dtype=dtype)
    want = math.sqrt(2 * (2 * math.atanh(0.5)) ** 2 + math.asinh(5.0) ** 2)
    assert product.dist(x, torch.zeros_like(x)).item() == pytest.approx(want, rel=1e-6)
    assert product.random(5, 8).shape == (5, 8)
    assert product.check_point_on_manifold(x)
    nested = geoopt.ProductManifold((geoopt.Sphere(), 3), (manifolds.Lorentz(), 2), (geoopt.Euclidean(ndim=1), 2))
    assert nested.projx(nested.random_combined(4, 7)).dtype == torch.float32


@MODELS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_inner_of_halves(manifold: Any, model: str, dtype: torch.dtype) -> None:
    """In float32, to its digits: the arguments count as exact."""
    x, u, v = (torch.tensor(a, dtype=dtype) for a in ([0.5, 0.0], [0.25, 0.75], [0.5, -1.0]))
    got = manifold().inner(x, u, v)
    # on the hyperboloid u.v - (x.u)(x.v)/(1 + |x|^2), in the ball (2/(1 - |x|^2))^2 u.v
    want = -0.625 - 0.125 * 0.25 / 1.25 if model == "lorentz" else -0.625 * (2 / 0.75) ** 2
    assert got.dtype == manifold().inner(x, u).dtype == torch.float32
    assert got.item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int64, torch.complex64])
def test_inner_refuses_types_that_are_no_numbers_of_its_own(dtype: torch.dtype) -> None:
    x = torch.zeros(2)
    with pytest.raises(TypeError, match=str(dtype).removeprefix("torch.")):
        manifolds.PoincareBall().inner(x, x, x.to(dtype))


@MODELS
def test_explanations(manifold: Any, model: str) -> None:
    m, x = manifold(), torch.tensor([0.1, 0.2])
    assert m.check_point_on_manifold(x, explain=True) == (True, None)
    assert m.check_vector_on_tangent(x, x, explain=True) == (True, None)
    far = x * math.nan if model == "lorentz" else torch.tensor([0.5, -0.5, 0.5, 0.5])
    good, reason = m.check_point_on_manifold(far, explain=True)
    assert not good
    assert reason == ("the point is not finite" if model == "lorentz" else "the point is outside the ball")


@MODELS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("optimizer", [geoopt.optim.RiemannianAdam, geoopt.optim.RiemannianSGD])
def test_repulsion(manifold: Any, model: str, optimizer: Any, dtype: torch.dtype) -> None:
    """Points that flee from one another in long steps stop where their type still holds them."""
    torch.manual_seed(0)
    m = manifold(c=1.0)
    x = geoopt.ManifoldParameter(m.random(5, 3, dtype=dtype), manifold=m)
    steps = optimizer([x], lr=1.0)
    for _ in range(60):
        steps.zero_grad()
        (-m.dist(x[:, None], x[None])).sum().backward()
        steps.step()
    assert x.isfinite().all()
    assert m.dist(x[:, None], x[None]).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("c", [0.01, 1.0, 10.0])
def test_lorentz_projx(dtype: torch.dtype, c: float) -> None:
    """Bit for bit the point up to the radius of its type, and 1/64 short of that on its ray from beyond."""
    limit = {torch.float16: 7.0, torch.bfloat16: 20.0, torch.float32: 20.0, torch.float64: 36.0}[dtype]
    u = torch.tensor([0.6, -0.8, 0.0], dtype=torch.float64)
    m = manifolds.Lorentz(c=c)
    near = (u * math.sinh(limit - 0.01) / c**0.5).to(dtype)
    assert torch.equal(m.projx(near), near)
    for far in (math.sinh(limit + 0.1) / c**0.5, torch.finfo(dtype).max):
        p = m.projx((u * far).to(dtype))
        want = u * math.sinh(limit - 1 / 64) / c**0.5
        assert ((p.double() - want).abs() <= 2 * torch.finfo(dtype).eps * want.abs()).all()
        assert torch.equal(m.projx(p), p)
