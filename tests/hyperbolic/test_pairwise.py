"""The reductions over all pairs, against the oracles, loops over them and torch's cross entropy."""

import math
import os

import numpy
import pytest
import torch
from mpmath import mpf
from torch import Tensor
from torch.nn.functional import cross_entropy

from hyperbolic import lorentz, pairwise
from hyperbolic.testing import Sampler, oracle, ulp_error
from hyperbolic.testing.contract import GRADIENT_RADIUS
from hyperbolic.testing.errors import covector_norm, ulp
from hyperbolic.testing.oracle.vectors import minus
from tests.hyperbolic.scenes import DIST, DTYPES, GRADIENT, MODELS, MODULES, SCENES, exact_dist, scene


@DTYPES
@MODELS
@SCENES
def test_pairwise_dist(name: str, model: str, dtype: torch.dtype) -> None:
    """Every entry within the contract, coincident points at exactly 0."""
    x, y, c = scene(name, model, dtype)
    d = pairwise.pairwise_dist(x, y, model, c=c)
    assert d.shape == (len(x), len(y))
    assert torch.equal(d, MODULES[model].pairwise_dist(x, y, c=c))
    with oracle.digits():
        for i, p in enumerate(oracle.exact(x)):
            for j, q in enumerate(oracle.exact(y)):
                want = exact_dist(model, p, q, mpf(c))
                assert abs(mpf(d[i, j].item()) - want) <= mpf(DIST[dtype]) * want


@DTYPES
@MODELS
@SCENES
def test_gradient(name: str, model: str, dtype: torch.dtype) -> None:
    """At every point within the contract, beyond the half ULP a coordinate that storing the gradient costs."""
    x, y, c = scene(name, model, dtype, GRADIENT_RADIUS[dtype])
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    d = pairwise.pairwise_dist(x, y, model, c=c)
    g = torch.linspace(-1, 2, d.numel(), dtype=dtype).reshape(d.shape)
    got = torch.autograd.grad(d, (x, y), g)
    with oracle.digits():
        points = oracle.exact(x.detach()), oracle.exact(y.detach())
        weights = oracle.exact(g)
        for side in (0, 1):
            for i, p in enumerate(points[side]):
                total, size = [mpf(0)] * len(p), mpf(0)
                for j, q in enumerate(points[1 - side]):
                    if p == q:
                        continue
                    w = weights[i][j] if side == 0 else weights[j][i]
                    slope = oracle.gradient_of_dist(model, p, q, mpf(c))
                    total, size = [a + w * b for a, b in zip(total, slope)], size + abs(w)
                error = minus(oracle.exact(got[side][i]), total)
                half = [ulp(t, dtype) / 2 for t in total]
                floor = covector_norm(model, [abs(a) for a in p], half, mpf(c))
                assert covector_norm(model, p, error, mpf(c)) - floor <= GRADIENT[dtype] * size


@MODELS
def test_curvature_gradient(model: str) -> None:
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-13)):
        x, y, value = scene("mixed", model, dtype)
        c = torch.tensor(value, dtype=dtype, requires_grad=True)
        d = pairwise.pairwise_dist(x, y, model, c=c)
        got = torch.autograd.grad(d.sum(), c)[0]
        with oracle.digits():
            slopes = [
                oracle.vjp(getattr(oracle, model).dist, (p, q, mpf(value)), mpf(1))[2]
                for p in oracle.exact(x)
                for q in oracle.exact(y)
                if p != q
            ]
            assert abs(mpf(got.item()) - sum(slopes)) <= tolerance * sum(map(abs, slopes))


@DTYPES
@MODELS
def test_batches(model: str, dtype: torch.dtype) -> None:
    """Batches broadcast; gradients of what is shared are sums. Strides and expanded dimensions make no difference."""
    sampler = Sampler(model, dtype, 3, 1.0, 0, 30, max_radius=3.0)
    x = sampler.point().reshape(2, 3, 5, 3)
    y = sampler.point()[:20].reshape(2, 1, 10, 3)
    c = torch.tensor([[1.0], [0.9]], dtype=torch.float64)
    inputs = [a.clone().requires_grad_() for a in (x, y, c)]
    d = pairwise.pairwise_dist(inputs[0], inputs[1], model, c=inputs[2])
    assert d.shape == (2, 3, 5, 10)
    g = torch.linspace(-1, 1, d.numel(), dtype=dtype).reshape(d.shape)
    gradients = torch.autograd.grad(d, inputs, g)
    sums = [torch.zeros_like(a, dtype=torch.float64) for a in inputs]
    for i in range(2):
        for j in range(3):
            one = [a.clone().requires_grad_() for a in (x[i, j], y[i, 0], c[i, 0])]
            part = pairwise.pairwise_dist(one[0], one[1], model, c=one[2])
            assert torch.equal(part, d[i, j])
            for total, index, slope in zip(
                sums, ((i, j), (i, 0), (i, 0)), torch.autograd.grad(part, one, g[i, j]), strict=True
            ):
                total[index] += slope
    for got, want in zip(gradients, sums):
        torch.testing.assert_close(got.to(torch.float64), want, rtol=10 * torch.finfo(dtype).eps, atol=1e-7)
    strided = torch.stack([x, x], -1)[..., 0], y.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.equal(pairwise.pairwise_dist(*strided, model, c=c), d)
    expanded = x[:, :1].expand(2, 3, 5, 3)
    assert torch.equal(pairwise.pairwise_dist(expanded, y, model, c=c), d[:, :1].expand(2, 3, 5, 10))


@MODELS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(model: str, dtype: torch.dtype) -> None:
    """Distances in float32, of the numbers as they are; gradients rounded once."""
    sampler = Sampler(model, torch.float32, 20, 1.0, 0, 12, max_radius=2.0)
    x, y = sampler.point().to(dtype).requires_grad_(), sampler.point().to(dtype).requires_grad_()
    d = pairwise.pairwise_dist(x, y, model)
    assert d.dtype == torch.float32
    wide = [a.detach().double().requires_grad_() for a in (x, y)]
    expected = pairwise.pairwise_dist(*wide, model)
    torch.testing.assert_close(d.double(), expected, rtol=1e-6, atol=0)
    for got, want in zip(torch.autograd.grad(d.sum(), (x, y)), torch.autograd.grad(expected.sum(), wide)):
        step = torch.nextafter(got.abs(), torch.full_like(got, math.inf)) - got.abs()
        assert bool(((got.double() - want).abs() <= 0.51 * step.double()).all())


@MODELS
def test_threads(model: str) -> None:
    """The same bits from any number of threads."""
    sampler = Sampler(model, torch.float32, 6, 1.0, 0, 700, max_radius=5.0)
    x, y = sampler.point().requires_grad_(), sampler.point().requires_grad_()
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            d = pairwise.pairwise_dist(x, y, model)
            loss = pairwise.contrastive_loss(x, y, 0.1, model)
            found = pairwise.nearest(x[:30], y, 7, model, depth_weight=0.2)
            slopes = torch.autograd.grad(d.sum() + loss, (x, y))
            results.append([d, loss, found.dist, found.indices, *slopes])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@MODELS
def test_empty(model: str) -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    y = torch.rand(4, 3) / 3
    assert pairwise.pairwise_dist(x, y, model).shape == (0, 4)
    assert pairwise.pairwise_dist(y, x, model).shape == (4, 0)
    assert torch.autograd.grad(pairwise.pairwise_dist(x, y, model).sum(), x)[0].shape == (0, 3)
    z = y.clone().requires_grad_()
    assert not torch.autograd.grad(pairwise.pairwise_dist(z, x, model).sum(), z)[0].any()
    assert pairwise.pairwise_dist(x.expand(5, 0, 3), y, model).shape == (5, 0, 4)
    assert pairwise.nearest(x.detach(), y, 2, model).indices.shape == (0, 2)


def test_many_elements() -> None:
    """Indices beyond 2^31: the last rows of a matrix of 2^31 + 2^16 distances."""
    n, m = 2**15 + 1, 2**16
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 4 * n * m + 2**30:
        pytest.skip("needs 10 GB of free memory")
    x, y = torch.zeros(n, 1), torch.linspace(0, 1, m)[:, None]
    x[-1] = 1.0
    d = pairwise.pairwise_dist(x, y)
    torch.testing.assert_close(d[-1], lorentz.dist(x[-1:], y), rtol=1e-6, atol=0)
    torch.testing.assert_close(d[-2], lorentz.dist0(y), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("depth_weight", [0.0, 0.3])
@MODELS
def test_nearest(model: str, depth_weight: float, dtype: torch.dtype) -> None:
    """The oracle's choice. Doubled rows are ties, which go to the lower index."""
    sampler = Sampler(model, torch.float32, 3, 0.5, 4, 20, max_radius=4.0)
    bank = torch.cat([sampler.point(), sampler.point()[:5]]).to(dtype)
    bank = torch.cat([bank, bank[:4]])
    query = torch.cat([bank[[0, 7]], sampler.point()[:3].to(dtype)])
    found = pairwise.nearest(query, bank, 6, model, c=0.5, depth_weight=depth_weight)
    module = getattr(oracle, model)
    with oracle.digits():
        points = [oracle.exact(row) for row in bank]
        for i, row in enumerate(oracle.exact(query)):
            d = [exact_dist(model, row, p, mpf("0.5")) for p in points]
            score = [-a + mpf(depth_weight) * module.dist0(p, mpf("0.5")) for a, p in zip(d, points)]
            order = sorted(range(len(points)), key=lambda j: (-score[j], j))[:6]
            for chosen, j in zip(found.indices[i].tolist(), order):
                # the same, up to scores that float64 cannot tell apart
                assert chosen == j or abs(score[chosen] - score[j]) <= mpf(2) ** -53 * abs(score[j])
                assert chosen <= j or score[chosen] != score[j]
            for got, j in zip(found.dist[i], found.indices[i].tolist()):
                assert ulp_error(got, d[j]) <= 4 if d[j] else got == 0


@pytest.mark.parametrize("radius", [0.5, 3.0, 12.0])
@pytest.mark.parametrize("depth_weight", [0.0, 0.3])
@MODELS
def test_nearest_in_a_large_bank(model: str, depth_weight: float, radius: float) -> None:
    """Many tiles and tasks, clusters that a product of floats cannot resolve, k beyond what one task keeps."""
    sampler = Sampler(model, torch.float32, 8, 1.0, 1, 3000)
    centres = sampler._at(sampler.directions(), numpy.full((3000, 1), radius))[numpy.arange(3000) % 5]
    spread = 1.0 if model == "lorentz" else 0.3 / math.cosh(radius / 2) ** 2
    bank = sampler.store(centres + spread * sampler.rng.standard_normal(centres.shape))
    query = sampler.store(centres[:40] + spread * sampler.rng.standard_normal((40, 8)))
    found = pairwise.nearest(query, bank, 50, model, depth_weight=depth_weight)
    d = MODULES[model].dist(query.double()[:, None], bank.double())
    score = depth_weight * MODULES[model].dist0(bank.double()) - d
    order = score.sort(dim=-1, descending=True, stable=True).indices[:, :50]
    assert torch.equal(found.indices, order)
    torch.testing.assert_close(found.dist.double(), d.gather(-1, order), rtol=1.2e-7, atol=0)


def test_nearest_gradient() -> None:
    query = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    bank = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def f(query: Tensor, bank: Tensor, c: Tensor) -> Tensor:
        return pairwise.nearest(query, bank, 2, c=c).dist

    assert torch.autograd.gradcheck(f, (query, bank, c))


def loop_loss(model: str, x: Tensor, y: Tensor, tau: Tensor, c: Tensor, labels: Tensor) -> Tensor:
    d = torch.stack([MODULES[model].dist(a, y, c=c) for a in x])
    return cross_entropy(-d / tau, labels)


@pytest.mark.parametrize("symmetric", [False, True])
@MODELS
def test_contrastive_loss(model: str, symmetric: bool) -> None:
    torch.manual_seed(0)
    x, y = (torch.randn(5, 3, dtype=torch.float64) / 4 for _ in range(2))
    tau = torch.tensor(0.3, dtype=torch.float64)
    c = torch.tensor(0.8, dtype=torch.float64)
    for labels in (None, torch.tensor([1, 0, 4, 2, 2])):
        if symmetric and labels is not None:
            continue
        inputs = [t.clone().requires_grad_() for t in (x, y, tau, c)]

        def f(x: Tensor, y: Tensor, tau: Tensor, c: Tensor, labels: Tensor | None = labels) -> Tensor:
            return pairwise.contrastive_loss(x, y, tau, model, c=c, labels=labels, symmetric=symmetric)

        target = torch.arange(5) if labels is None else labels
        want = loop_loss(model, *inputs, target)
        if symmetric:
            want = (want + loop_loss(model, inputs[1], inputs[0], *inputs[2:], target)) / 2
        got = f(*inputs)
        torch.testing.assert_close(got, want, rtol=1e-13, atol=0)
        for a, b in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(want, inputs)):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-14)
        assert torch.autograd.gradcheck(f, inputs)
        assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


@pytest.mark.parametrize("name", ["mixed", "equal", "clusters", "far", "outlier"])
@MODELS
def test_contrastive_loss_in_float32(model: str, name: str) -> None:
    """Against the float64 loss of the same points: hard scenes, sharp temperatures, many tiles."""
    x, y, c = scene(name, model, torch.float32)
    x, y = x[:9].repeat(60, 1).requires_grad_(), y[:9].repeat(60, 1).requires_grad_()
    wide = [a.detach().double().requires_grad_() for a in (x, y)]
    for tau in (0.07, 1.0):
        loss, want = (pairwise.contrastive_loss(*pair, temperature=tau, model=model, c=c) for pair in ((x, y), wide))
        # rounding a distance to float32 moves its exponent by so much
        moved = 1.2e-7 * (2 + want.item() + pairwise.pairwise_dist(*wide, model, c=c).max().item() / tau)
        assert abs(loss.item() - want.item()) <= moved
        parts = pairwise.pairwise_dist(*wide, model, c=c).square().mean() / tau
        sizes = [a.norm(dim=-1).max() for a in torch.autograd.grad(parts, wide)]
        for a, b, size in zip(torch.autograd.grad(loss, (x, y)), torch.autograd.grad(want, wide), sizes):
            assert bool(a.isfinite().all())
            assert bool(((a.double() - b).norm(dim=-1) <= 10 * moved * (b.norm(dim=-1) + size)).all())
