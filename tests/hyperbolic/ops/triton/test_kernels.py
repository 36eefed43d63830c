"""The values of the Triton kernels: under the interpreter with the arithmetic of tensor cores, and on a GPU.

Triton decides at its import whether kernels are interpreted. So the tests of values are collected twice: here, for a
GPU, and by ``test_interpreted`` in a process of their own, on CPU tensors. There the product is replaced by a
model of tensor cores at their worst: 16 products and the sum so far are aligned to the largest and truncated to the
digits of float32 and one, and so is their sum.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from typing import Any

import numpy
import pytest
import torch
from mpmath import mpf
from torch import Tensor
from torch.nn.functional import cross_entropy

from hyperbolic.testing import Sampler, oracle
from hyperbolic.testing.contract import GRADIENT_RADIUS
from hyperbolic.testing.errors import covector_norm, ulp
from hyperbolic.testing.oracle.vectors import Vector, minus
from tests.hyperbolic import test_outside as outside
from tests.hyperbolic.scenes import DIST, DTYPES, GRADIENT, MODELS, MODULES, SCENES, exact_dist, scene

triton = pytest.importorskip("triton", reason="not installed")
tl = pytest.importorskip("triton.language")

from hyperbolic.ops.triton import contrast, nearest, pairwise_dist, rows, tile  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_device = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU; test_interpreted does without"
)
# of entries that are computed and not used
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def truncated(a: Any, largest: Any, digits: int) -> Any:
    unit = numpy.exp2(numpy.frexp(numpy.maximum(largest, 1e-300))[1] - digits)
    return numpy.trunc(a / unit) * unit


def tensor_core(a: Any, b: Any, start: Any) -> Any:
    """The sum of ``start`` and a product of bfloat16 matrices."""
    total = start.astype(numpy.float64)
    for k in range(0, a.shape[1], 16):
        products = a[:, None, k : k + 16].astype(numpy.float64) * b.T[None, :, k : k + 16]
        terms = numpy.concatenate([products, total[..., None]], -1)
        total = truncated(terms, numpy.abs(terms).max(-1)[..., None], 25).sum(-1)
        total = truncated(total, numpy.abs(total), 24)
    return total.astype(numpy.float32)


@pytest.fixture(autouse=True)
def product_of_tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    if INTERPRETED:
        from triton.runtime import interpreter

        builder = interpreter.InterpreterBuilder
        plain = builder.create_dot

        def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
            if d.data.dtype != numpy.float32:
                return plain(self, a, b, d, *rest)
            return interpreter.TensorHandle(tensor_core(a.data, b.data, d.data), d.dtype.scalar)

        monkeypatch.setattr(builder, "create_dot", create_dot)


def leaves(*args: Tensor) -> list[Tensor]:
    return [a.detach().to(torch.float64).clone().requires_grad_() for a in args]


def on_device(*args: Tensor | float) -> list[Tensor]:
    return [torch.as_tensor(a, dtype=None if isinstance(a, Tensor) else torch.float64).to(DEVICE) for a in args]


@pytest.mark.skipif(INTERPRETED, reason="is what this runs")
def test_interpreted() -> None:
    command = [sys.executable, "-m", "pytest", __file__, "-p", "no:cacheprovider", "-rs"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 60


@triton.jit
def _product(a, a_parts: tl.constexpr, b, b_parts: tl.constexpr, out, count, width, side: tl.constexpr):
    part = count * width
    sums = tile.product(a, part, width, 1, a_parts, b, part, 1, width, b_parts, width, side, side, 32)
    tl.store(out + tl.arange(0, side)[:, None] * side + tl.arange(0, side)[None, :], sums)


@needs_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [3, 64, 1024])
@pytest.mark.parametrize("positive", [False, True])
def test_product(dtype: torch.dtype, dim: int, positive: bool) -> None:
    """What ``slack`` says of the product alone. Truncation adds up where all terms are of one sign."""
    torch.manual_seed(dim)
    a, b = torch.randn(2, 16, dim).to(dtype)
    if positive:
        a, b = a.abs(), b.abs()
    one, side = torch.ones((), dtype=torch.float64, device=DEVICE), 16
    sides = [rows.rows_of("lorentz", p.to(DEVICE), one, torch.float32) for p in (a, b)]
    widths = [-(-s.width // 32) * 32 for s in sides]
    parts = [torch.nn.functional.pad(s.parts, (0, w - s.width))[:, :side].contiguous() for s, w in zip(sides, widths)]
    out = torch.empty(side, side, device=DEVICE)
    _product[(1,)](parts[0], len(parts[0]), parts[1], len(parts[1]), out, side, widths[0], side=side)
    exact, sizes = a.double() @ b.double().T, a.double().abs() @ b.double().abs().T
    bound = tile.slack(dim, torch.float32) - 2 * 2.0**-24
    # the bound is relative to twice the sizes
    assert bool(((out.cpu().double() - exact).abs() <= 2 * bound * sizes).all())
    assert (out.cpu().double() - exact).abs().max() > 0


@needs_device
@DTYPES
@MODELS
@SCENES
def test_pairwise_dist(name: str, model: str, dtype: torch.dtype) -> None:
    """Every entry within the contract, coincident points at exactly 0."""
    x, y, c = scene(name, model, dtype)
    d = pairwise_dist.pairwise_dist(model, *on_device(x, y, c)).cpu()
    assert d.shape == (len(x), len(y))
    assert d.dtype == dtype
    with oracle.digits():
        for i, p in enumerate(oracle.exact(x)):
            for j, q in enumerate(oracle.exact(y)):
                want = exact_dist(model, p, q, mpf(c))
                assert abs(mpf(d[i, j].item()) - want) <= mpf(DIST[dtype]) * want


def beyond_storage(model: str, got: Tensor, p: Vector, others: list[Vector], weights: list[Any], c: float) -> Any:
    """The error of a gradient at ``p``, beyond the half ULP a coordinate that storing it costs, relative to the sum of
    the sizes of its terms.
    """
    total, size = [mpf(0)] * len(p), mpf(0)
    for q, w in zip(others, weights, strict=True):
        if p == q:
            continue
        slope = oracle.gradient_of_dist(model, p, q, mpf(c))
        total, size = [a + w * b for a, b in zip(total, slope)], size + abs(w)
    error = covector_norm(model, p, minus(oracle.exact(got), total), mpf(c))
    half = [ulp(t, got.dtype) / 2 for t in total]
    return (error - covector_norm(model, [abs(a) for a in p], half, mpf(c))) / (size or 1)


@needs_device
@DTYPES
@MODELS
@SCENES
def test_gradient(name: str, model: str, dtype: torch.dtype) -> None:
    """At every point within the contract."""
    x, y, c = scene(name, model, dtype, GRADIENT_RADIUS[dtype])
    g = torch.linspace(-1, 2, len(x) * len(y), dtype=dtype).reshape(len(x), len(y))
    got = [a.cpu() for a in pairwise_dist.pairwise_dist_backward(model, *on_device(x, y, c, g))]
    with oracle.digits():
        points, weights = (oracle.exact(x), oracle.exact(y)), (oracle.exact(g), oracle.exact(g.T))
        for side in (0, 1):
            for i, p in enumerate(points[side]):
                error = beyond_storage(model, got[side][i], p, points[1 - side], weights[side][i], c)
                assert error <= GRADIENT[dtype]
        if name == "mixed":
            moves = [
                w * oracle.vjp(getattr(oracle, model).dist, (p, q, mpf(c)), mpf(1))[2]
                for p, row in zip(points[0], weights[0])
                for q, w in zip(points[1], row)
                if p != q
            ]
            bound = (2e-6 if dtype == torch.float32 else 1e-13) * sum(map(abs, moves))
            assert abs(mpf(got[2].item()) - sum(moves)) <= bound


@needs_device
@DTYPES
@MODELS
def test_sum_of_gradients(model: str, dtype: torch.dtype) -> None:
    """Over panels and elements of a batch, which all but cancel: as far out as the contract reaches, and within it."""
    sampler = Sampler(model, dtype, 3, 1.0, 7, 40, GRADIENT_RADIUS[dtype])
    x = sampler.store(sampler._at(sampler.directions(), numpy.full((40, 1), sampler.max_radius)))[:2]
    y = sampler.partner(x.repeat(20, 1))
    g = torch.linspace(-1, 2, 80, dtype=dtype).reshape(2, 40)
    g = torch.stack([g, g * (2.0**-20 - 1)])
    by_x = pairwise_dist.pairwise_dist_backward(model, *on_device(x, y.expand(2, 40, 3), 1.0, g))[0].cpu()
    with oracle.digits():
        others, weights = oracle.exact(y.repeat(2, 1)), oracle.exact(g.transpose(0, 1).flatten(1))
        for i, p in enumerate(oracle.exact(x)):
            assert beyond_storage(model, by_x[i], p, others, weights[i], 1.0) <= GRADIENT[dtype]


def spread(model: str, dtype: torch.dtype, n: int, dim: int, seed: int = 0) -> Tensor:
    """Points at radii up to 3, the last few of them twice."""
    sampler = Sampler(model, dtype, dim, 1.0, seed, n - 3, max_radius=3.0)
    x = sampler.point()
    return torch.cat([x, x[-3:]])


@needs_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@MODELS
def test_many_tiles(model: str, dtype: torch.dtype) -> None:
    """Ragged sizes beyond one panel, against float64 row by row."""
    x, y = (spread(model, torch.float32, n, 21).to(dtype) for n in (45, 37))
    y[:3] = x[:3]
    c = torch.tensor(0.8, dtype=torch.float64)
    g = torch.linspace(-1, 1, 45 * 37, dtype=torch.promote_types(dtype, torch.float32)).reshape(45, 37)
    # strides of every kind
    args = [a.T.contiguous().T for a in on_device(x, y)] + on_device(c)
    weights = on_device(g)[0].T.contiguous().T
    d = pairwise_dist.pairwise_dist(model, *args).cpu()
    inputs = leaves(x, y, c)
    want = MODULES[model].dist(inputs[0][:, None], inputs[1], c=inputs[2])
    eps = torch.finfo(d.dtype).eps
    assert bool(((d - want).abs() <= DIST[d.dtype] * want).all())
    assert not d[:3, :3].diagonal().any()
    expected = torch.autograd.grad(want, inputs, g.double())
    got = [a.cpu() for a in pairwise_dist.pairwise_dist_backward(model, *args, weights)]
    sizes = [g.abs().sum(1, dtype=torch.float64)[:, None], g.abs().sum(0, dtype=torch.float64)[:, None]]
    for a, b, p, size in zip(got, expected, (x, y), sizes):
        assert a.dtype == dtype
        # a covector of dual norm 1 is as long as the conformal factor in the ball, and no longer than 1 else
        longest = 2 / (1 - 0.8 * p.double().square().sum(-1, keepdim=True)) if model == "poincare" else 1.0
        rounding = torch.finfo(dtype).eps / 2 * b.abs()
        assert bool(((a.double() - b).abs() <= 1.01 * rounding + GRADIENT[d.dtype] * size * longest).all())
    moved = abs(got[2].item() - expected[2].item())
    assert moved <= 200 * eps * float((g.abs() * want.detach()).sum())


@needs_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_outside(dtype: torch.dtype) -> None:
    """Rows and columns of points outside the ball are NaN, and no others."""
    x, good = outside.crowd(dtype)
    y, c = torch.full((5, 5), 0.1, dtype=dtype), torch.tensor(1.0, dtype=torch.float64)
    outside.assert_rows(pairwise_dist.pairwise_dist("poincare", *on_device(x, y, c)).cpu(), good)
    outside.assert_rows(pairwise_dist.pairwise_dist("poincare", *on_device(y, x, c)).cpu().T, good)


@needs_device
@MODELS
def test_batches(model: str) -> None:
    """Batches broadcast; gradients of what is shared are sums."""
    x = spread(model, torch.float32, 30, 3).reshape(2, 3, 5, 3)
    y = spread(model, torch.float32, 20, 3, seed=1).reshape(2, 1, 10, 3)
    c = torch.tensor([[1.0], [0.9]], dtype=torch.float64)
    g = torch.linspace(-1, 1, 300).reshape(2, 3, 5, 10)
    args = on_device(x, y, c)
    d = pairwise_dist.pairwise_dist(model, *args).cpu()
    inputs = leaves(x, y, c)
    want = MODULES[model].dist(inputs[0][..., None, :], inputs[1][..., None, :, :], c=inputs[2][..., None, None])
    torch.testing.assert_close(d.double(), want.detach(), rtol=1e-6, atol=0)
    got = pairwise_dist.pairwise_dist_backward(model, *args, *on_device(g))
    for a, b in zip(got, torch.autograd.grad(want, inputs, g.double())):
        torch.testing.assert_close(a.cpu().double(), b, rtol=1e-5, atol=1e-5)
    expanded = on_device(torch.ones(1, 1).expand(5, 10))[0].expand(5, 10)
    pair = [a[0, 0] for a in args[:2]] + [args[2][0, 0]]
    ones = pairwise_dist.pairwise_dist_backward(model, *pair, expanded)
    dense = pairwise_dist.pairwise_dist_backward(model, *pair, expanded.contiguous())
    assert all(map(torch.equal, ones, dense))


@needs_device
@MODELS
def test_empty(model: str) -> None:
    x, y, c = on_device(torch.zeros(0, 3), torch.rand(4, 3) / 3, 1.0)
    assert pairwise_dist.pairwise_dist(model, x, y, c).shape == (0, 4)
    assert pairwise_dist.pairwise_dist(model, y.expand(2, 4, 3), x, c).shape == (2, 4, 0)
    g = torch.zeros(4, 0, device=DEVICE)
    assert not pairwise_dist.pairwise_dist_backward(model, y, x, c, g)[0].any()
    assert nearest.nearest(model, x, y, c, 2, 0.0).shape == (0, 2)
    labels = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    assert contrast.contrast(model, x, y, labels, c, c)[0].shape == (0,)


@needs_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("temperature", [0.07, 1.0])
@MODELS
def test_contrast(model: str, temperature: float, dtype: torch.dtype) -> None:
    """Cross entropy of the float64 matrix, and its gradients."""
    x, y = spread(model, dtype, 37, 5), spread(model, dtype, 41, 5)
    labels = torch.arange(37).flip(0)
    labels[:5] = torch.arange(5)
    c, tau = torch.tensor(0.8, dtype=torch.float64), torch.tensor(temperature, dtype=torch.float64)
    inputs = leaves(x, y, c, tau)
    d = MODULES[model].dist(inputs[0][:, None], inputs[1], c=inputs[2])
    want = cross_entropy(-d / inputs[3], labels)
    expected = torch.autograd.grad(want, inputs)
    args = on_device(x, y, labels, c, tau)
    total, positive = contrast.contrast(model, *args)
    loss = (total + positive / temperature).mean().item()
    # rounding a distance moves its exponent by so much
    moved = torch.finfo(dtype).eps * (2 + want.item() + d.max().item() / temperature)
    assert abs(loss - want.item()) <= moved
    g = torch.full_like(total, 1 / 37)
    got = [a.cpu().double() for a in contrast.contrast_backward(model, *args, total, g, g / temperature)]
    # the loss depends on the temperature by itself too
    got[3] -= positive.cpu().double().mean() / temperature**2
    for a, b in zip(got, expected):
        assert bool(((a - b).abs() <= 10 * moved * (b.abs().max() + 1 / temperature)).all())


@needs_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("depth_weight", [0.0, 0.3])
@MODELS
def test_nearest(model: str, depth_weight: float, dtype: torch.dtype) -> None:
    """The choice of float64. Rows that stand in the bank twice are ties, which go to the lower index."""
    bank = spread(model, torch.float32, 50, 6).to(dtype)
    bank = torch.cat([bank, bank[:30]])
    query = torch.cat([bank[[0, 7]], spread(model, torch.float32, 18, 6, seed=1).to(dtype)])
    got = nearest.nearest(model, *on_device(query, bank, 0.5), 7, depth_weight).cpu()
    assert torch.equal(got, best(model, query, bank, 0.5, 7, depth_weight))


def best(model: str, query: Tensor, bank: Tensor, c: float, k: int, depth_weight: float) -> Tensor:
    module = MODULES[model]
    d = module.dist(query.double()[:, None], bank.double(), c=c)
    score = depth_weight * module.dist0(bank.double(), c=c) - d
    return score.sort(dim=-1, descending=True, stable=True).indices[:, :k]


@needs_device
@MODELS
def test_nearest_where_bounds_do_not_decide(model: str) -> None:
    """A cluster far out, which a product cannot resolve, and more ties than are kept to spare."""
    sampler = Sampler(model, torch.float32, 8, 1.0, 1, 60)
    centre = sampler._at(sampler.directions(), numpy.full((60, 1), 9.0))[:1]
    step = 0.5 if model == "lorentz" else 0.15 / math.cosh(4.5) ** 2
    bank = sampler.store(centre + step * sampler.rng.standard_normal((60, 8)))
    bank = torch.cat([bank, bank[:1].expand(40, -1)])
    query = sampler.store(centre + step * sampler.rng.standard_normal((5, 8)))
    query[0] = bank[0]
    got = nearest.nearest(model, *on_device(query, bank, 1.0), 12, 0.0).cpu()
    assert torch.equal(got, best(model, query, bank, 1.0, 12, 0.0))
