"""Numbers and views that anyone may hand over: curvatures that are none, NaN, views with torch's negative bit."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from hyperbolic import lorentz, pairwise, poincare
from hyperbolic.testing import CASES, Case, Sampler
from tests.hyperbolic.ops.test_operators import KERNELS, alone

NAN, INF = math.nan, math.inf
MODELS = pytest.mark.parametrize("model", ["lorentz", "poincare"])


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_curvature_of_rows(case: Case, dtype: torch.dtype) -> None:
    """Where an element of ``c`` is no curvature, that row and its gradient are NaN, and no other; at coincident points
    and at the origin too.
    """
    c = torch.tensor([1.0, 0.0, -1.0, NAN, INF, -INF, 1.0], dtype=torch.float64)
    good = torch.tensor([True, *[False] * 5, True])
    args = Sampler(case.model, dtype, 3, 1.0, 5, 7, 1.0).arguments(case.arguments)
    for changed in (args, [args[0] if a.shape == args[0].shape else a for a in args], [0 * a for a in args]):
        inputs = [a.clone().requires_grad_() for a in changed]
        out = case.function(*inputs, c=c)
        alone = case.function(*(a[good] for a in inputs), c=1.0)
        torch.testing.assert_close(out[good], alone, rtol=0, atol=0, equal_nan=True)
        assert out[~good].isnan().all()
    inputs = [(a + 0.05).requires_grad_() for a in args]  # off the origin, where some gradients are defined as 0
    vectors = [a for a in inputs if a.dim() > 1]
    for g in torch.autograd.grad(case.function(*inputs, c=c).sum(), vectors):
        assert g[~good].isnan().all()
        assert g[good].isfinite().all()


@pytest.mark.parametrize("bad", [0.0, -1.0, NAN, INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@MODELS
def test_curvature_and_temperature_of_pairs(model: str, dtype: torch.dtype, bad: float) -> None:
    """As of rows; every neighbour is as good as any other then, and the first are chosen."""
    x = (torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) / 10).to(dtype)
    x[1], x[2] = x[0], 0.0
    x.requires_grad_()
    number = torch.tensor(bad, dtype=torch.float64)
    one = torch.tensor(1.0)
    for value in (
        pairwise.pairwise_dist(x, x, model, c=number),
        pairwise.pairwise_dist(x.expand(2, 40, 3), x, model, c=torch.stack([number, number])),
        pairwise.contrastive_loss(x, x, one, model, c=number),
        pairwise.contrastive_loss(x, x, number, model, c=one),
        pairwise.nearest(x, x, 3, model, c=number).dist,
    ):
        assert value.isnan().all()
        assert torch.autograd.grad(value.sum(), x)[0].isnan().any()
    assert pairwise.nearest(x, x, 3, model, c=number).indices.tolist() == [[0, 1, 2]] * 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@MODELS
def test_nearest_rows_without_a_distance(model: str, dtype: torch.dtype) -> None:
    """They come last, in order, whatever their number; of a query without one all are."""
    bank = torch.tensor([[NAN, 0.0], [0.5, 0.0], [0.0, NAN], [0.1, 0.0], [NAN, NAN]], dtype=dtype)
    query = torch.tensor([[0.0, 0.0], [0.0, NAN]], dtype=dtype)
    for weight in (0.0, 0.5):
        found = pairwise.nearest(query, bank, 5, model, depth_weight=weight)
        reference = pairwise.PAIRS[model].nearest.evaluate(query, bank, torch.tensor(1.0), 5, weight)
        for indices in (found.indices, reference):
            assert indices.tolist() == [[3, 1, 0, 2, 4], [0, 1, 2, 3, 4]]
        assert found.dist.isnan().tolist() == [[False, False, True, True, True], [True] * 5]


WEIGHTS = """
for model in ("lorentz", "poincare"):
    for dtype in (torch.float32, torch.float64):
        bank = torch.tensor([[0.9, 0.0], [0.0, 0.0], [0.0, 0.5], [0.1, 0.0]], dtype=dtype).repeat(300, 1)
        for weight in (-1e308, -1.7e308, -1e39, 1e39, 1e308):
            print(pairwise.nearest(bank[:3], bank, 301, model, depth_weight=weight).indices[:, 0].tolist())
        bank[::2] = torch.nan
        pairwise.nearest(bank[:3], bank, 1000, model, depth_weight=-1e308)
"""


@KERNELS
def test_nearest_weights_that_overflow(kernels: str) -> None:
    """Where the weight of the depth outdoes any distance, the shallowest or deepest rows are chosen."""
    assert alone(WEIGHTS, kernels).splitlines() == [*["[1, 1, 1]"] * 3, *["[0, 0, 0]"] * 2] * 4


INFINITE = """
for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
    far = torch.tensor([[torch.inf, 0.0, 0.1], [0.0, -torch.inf, 0.0]], dtype=dtype)
    x = torch.tensor([[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]], dtype=dtype)
    for d in (lorentz.dist(far, x), lorentz.dist(x, far), lorentz.dist(far, far), pairwise.pairwise_dist(far, x),
              lorentz.dist_exp0(far, x), lorentz.dist_exp0(x, far), poincare.dist_exp0(far, x)):
        assert d.isnan().all(), (dtype, d)
    assert pairwise.nearest(x, torch.cat([far, x]), 3).indices.tolist() == [[2, 3, 0], [3, 2, 0]]
"""


@KERNELS
def test_infinite_points_are_at_no_distance(kernels: str) -> None:
    alone(INFINITE, kernels)


def negative(a: Tensor) -> Tensor:
    """The same numbers, in a view with torch's lazy negative bit."""
    view = torch.complex(torch.zeros_like(a), -a).conj().imag
    assert view.is_neg()
    return view


@pytest.mark.parametrize("case", CASES, ids=str)
def test_negative_views(case: Case) -> None:
    args = Sampler(case.model, torch.float32, 3, 1.0, 5, 4, 1.0).arguments(case.arguments)
    expected = case.function(*args)
    leaves = [a.clone().requires_grad_() for a in args]
    slopes = torch.autograd.grad(case.function(*leaves).sum(), leaves)
    for which in range(len(args)):
        views = [negative(a) if i == which else a for i, a in enumerate(args)]
        with torch.no_grad():
            assert torch.equal(case.function(*views), expected)
        with torch.inference_mode():
            assert torch.equal(case.function(*views), expected)
        assert torch.equal(case.function(*views), expected)
        assert torch.equal(vmap(case.function)(*views), expected)
        views = [negative(a) if i == which else a for i, a in enumerate(leaves)]
        for got, want in zip(torch.autograd.grad(case.function(*views).sum(), leaves), slopes):
            assert torch.equal(got, want)


def functions(model: str) -> dict[str, Any]:
    module = {"lorentz": lorentz, "poincare": poincare}[model]
    return {
        "pairwise_dist": lambda x: pairwise.pairwise_dist(x, x, model),
        "nearest": lambda x: pairwise.nearest(x, x.flip(0), 2, model, depth_weight=0.1).dist,
        "contrastive_loss": lambda x: pairwise.contrastive_loss(x, x, 0.5, model),
        "expmap0": module.expmap0,
        "centroid": module.centroid,
    }


@pytest.mark.parametrize("name", functions("lorentz"))
@MODELS
def test_negative_views_of_pairs_and_compiled(model: str, name: str) -> None:
    torch._dynamo.reset()
    x, f = torch.tensor([[0.1, 0.2], [0.3, -0.4], [0.0, 0.5]]), functions(model)[name]
    expected = f(x)
    with torch.no_grad():
        for call in (f, torch.compile(f, fullgraph=True, backend="aot_eager")):
            assert torch.equal(call(negative(x)), expected)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(f(negative(leaf)).sum(), leaf)
    assert torch.equal(slope, torch.autograd.grad(f(leaf).sum(), leaf)[0])


COTANGENTS = """
import torch
from hyperbolic import pairwise  # registers the operators

x, y = torch.tensor([[0.3, 0.4], [1.0, -2.0]]), torch.tensor([[0.5, 0.0], [0.0, 1.5], [2.0, 2.0]])
rest = torch.tensor([2, 0]), torch.tensor(0.7), torch.tensor(0.2)
for model in ("lorentz", "poincare"):
    points = (x, y) if model == "lorentz" else (x / 4, y / 4)
    partition, _ = getattr(torch.ops.hyperbolic, f"{model}_contrast")(*points, *rest)
    backward = getattr(torch.ops.hyperbolic, f"{model}_contrast_backward")
    g, h = torch.tensor([0.25, -1.5]), torch.tensor([2.0, 0.125])
    wanted = backward(*points, *rest, partition, g, h)
    for wide in ((g.double(), h), (g, h.double()), (g.double(), h.double())):
        for a, b in zip(backward(*points, *rest, partition, *wide), wanted):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

v, c, largest, ones = torch.tensor([[0.3, 0.4]]), torch.tensor(0.0), torch.tensor(1e30), torch.ones(1, 2)
assert all(a.isnan().all() for a in torch.ops.hyperbolic.lorentz_expmap0_backward(v, c, largest, ones))
"""


@KERNELS
def test_backward_operators_called_directly(kernels: str) -> None:
    """Cotangents of any floating type mean what they say, and no derivative of a bad curvature is a number."""
    alone(COTANGENTS, kernels)


FAR = """
import torch
from hyperbolic import lorentz, poincare

u = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
v = torch.tensor([[-3.0, -4.0], [0.0, 0.0], [0.5, 0.0]], dtype=torch.float64)
for c in (1e30, 1e38, 1e40, 1e60):
    for dtype in (torch.float32, torch.float64):
        for geometry, length in ((lorentz, 1.0), (poincare, 2.0)):  # of a unit tangent at the origin
            d = geometry.dist_exp0(u.to(dtype), v.to(dtype), c=c)
            torch.testing.assert_close(d, length * torch.tensor([10.0, 1.0, 1.5], dtype=dtype), rtol=1e-6, atol=0)
"""


@KERNELS
def test_tangents_far_beyond_any_radius(kernels: str) -> None:
    """On one line distances are those of the line, however curved the space is."""
    alone(FAR, kernels)
