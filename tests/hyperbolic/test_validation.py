"""What the public boundary accepts, refuses and checks."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hyperbolic
from hyperbolic import lorentz, models, pairwise, poincare
from hyperbolic.testing import CASES, Case, Sampler

X = torch.tensor([[0.1, 0.2], [0.3, 0.4]])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_broadcasting(case: Case) -> None:
    """Any batch shapes that broadcast, ``c`` among them, give what the expanded arguments give; so do their
    gradients.
    """
    args = Sampler(case.model, torch.float64, 3, 0.5, 1, 2, max_radius=2.0).arguments(case.arguments)
    wide = [a[None, :, None] if i % 2 else a[:, None, None] for i, a in enumerate(args)]
    c = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)
    lead = [a.shape[:3] for a in wide]
    full = torch.broadcast_shapes(*lead, (3,))
    expanded = [a.expand(*full, *a.shape[3:]).clone() for a in wide]
    inputs = [*(a.clone().requires_grad_() for a in wide), c.requires_grad_()]
    separate = [*(a.requires_grad_() for a in expanded), c.detach().expand(full).clone().requires_grad_()]
    out = case.function(*inputs[:-1], c=inputs[-1])
    want = case.function(*separate[:-1], c=separate[-1])
    assert torch.equal(out, want)
    grads = torch.autograd.grad(out.sum(), inputs)
    for g, each, a in zip(grads, torch.autograd.grad(want.sum(), separate), inputs):
        torch.testing.assert_close(g, each.sum_to_size(a.shape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layouts(case: Case) -> None:
    """Strided and expanded inputs, empty batches, and nothing is written to an argument."""
    args = Sampler(case.model, torch.float32, 3, 0.5, 1, 4, max_radius=2.0).arguments(case.arguments)
    before = [a.clone() for a in args]
    out = case.function(*args, c=0.5)
    assert all(torch.equal(a, b) for a, b in zip(args, before))
    assert not any(out.data_ptr() == a.data_ptr() for a in args)
    strided = [torch.stack([a, a], dim=-1)[..., 0] for a in args]
    assert torch.equal(case.function(*strided, c=0.5), out)
    doubled = case.function(*(a.expand(2, *a.shape) for a in args), c=0.5)
    assert torch.equal(doubled[1], out)
    empty = [a[:0].clone().requires_grad_() for a in args]
    nothing = case.function(*empty, c=0.5)
    assert nothing.shape == (0, *out.shape[1:])
    assert all(g.shape == a.shape for g, a in zip(torch.autograd.grad(nothing.sum(), empty), empty))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: lorentz.dist([1.0, 2.0], X), TypeError, "lorentz.dist: x must be a floating point tensor, got list"),
        (lambda: lorentz.dist(X, X.long()), TypeError, "lorentz.dist: y must be a tensor of float16, .* got int64"),
        (lambda: lorentz.dist(X, X + 0j), TypeError, "lorentz.dist: y must be .* got complex64"),
        (
            lambda: lorentz.dist(X[0, 0], X),
            ValueError,
            r"lorentz.dist: x must have shape \(..., D\), got .* shape \(\)",
        ),
        (
            lambda: lorentz.dist(X, torch.zeros(2, 3)),
            ValueError,
            r"lorentz.dist: y must have size 2 along D as x has, got 3 \(shape \(2, 3\)\)",
        ),
        (
            lambda: lorentz.dist(X, torch.zeros(3, 2)),
            ValueError,
            r"lorentz.dist: y must have a batch shape that broadcasts with \(2,\), got \(3,\)",
        ),
        (
            lambda: lorentz.dist(X, X, c=torch.ones(3)),
            ValueError,
            r"lorentz.dist: c must have a batch shape that broadcasts with \(2,\), got \(3,\)",
        ),
        (lambda: lorentz.dist(X[:, :0], X[:, :0]), ValueError, "x must have at least one element along D"),
        (lambda: lorentz.dist(X, X, c=0.0), ValueError, "lorentz.dist: c must be positive and finite, got 0.0"),
        (lambda: poincare.expmap0(X, c=-1), ValueError, "poincare.expmap0: c must be positive and finite, got -1"),
        (lambda: lorentz.dist0(X, c=float("nan")), ValueError, "c must be positive and finite, got nan"),
        (lambda: lorentz.dist0(X, c="1"), TypeError, "c must be a number or a floating point tensor, got str"),
        (lambda: lorentz.dist0(X, c=torch.tensor(1)), TypeError, "lorentz.dist0: c must be a tensor of .* got int64"),
        (lambda: lorentz.dist(X, X.to("meta")), ValueError, "y must be on cpu as the other arguments are, got meta"),
        (lambda: models.lorentz_to_klein(None), TypeError, "models.lorentz_to_klein: x must be .* got NoneType"),
        (lambda: lorentz.expmap0(3), TypeError, "lorentz.expmap0: v must be a floating point tensor, got int"),
        (lambda: poincare.project([1]), TypeError, "poincare.project: x must be a floating point tensor, got list"),
        (lambda: poincare.mobius_matvec(X, X[0, :1]), ValueError, "poincare.mobius_matvec: x must have size 2 along D"),
        (
            lambda: lorentz.centroid(X, torch.ones(3)),
            ValueError,
            "lorentz.centroid: weights must have size 2 along K as x has, got 3",
        ),
        (
            lambda: lorentz.wrapped_normal(X, torch.ones(3)),
            ValueError,
            "wrapped_normal: scale must have size 2 along D",
        ),
        (lambda: pairwise.pairwise_dist(X, X, model="klein"), ValueError, "model must be 'lorentz' or 'poincare'"),
        (lambda: pairwise.nearest(X, X, k=3), ValueError, "k must be from 1 to the 2 rows of bank, got 3"),
        (lambda: pairwise.nearest(X, X, k=0), ValueError, "k must be from 1 to the 2 rows of bank, got 0"),
        (lambda: pairwise.nearest(X, X, k=1.0), TypeError, "pairwise.nearest: k must be an int, got float"),
        (lambda: pairwise.nearest(X, X, 1, depth_weight="1"), TypeError, "depth_weight must be a number, got str"),
        (lambda: pairwise.nearest(X, X, 1, depth_weight=10**400), ValueError, "depth_weight must be finite, got 1000"),
        (lambda: lorentz.geodesic(X, X, 10**400), ValueError, "t must be a number that float64 can hold, got 1000"),
        (lambda: pairwise.nearest(X, X[None], 1), ValueError, r"bank must have shape \(M, D\), got \(1, 2, 2\)"),
        *(
            (lambda w=w: pairwise.nearest(X, X, 1, depth_weight=w), ValueError, f"depth_weight must be finite, got {w}")
            for w in (float("nan"), float("inf"), float("-inf"))
        ),
        *(
            (lambda t=t: pairwise.contrastive_loss(X, X, t), ValueError, "temperature must be positive and finite, got")
            for t in (0.0, -0.1, float("nan"), float("inf"))
        ),
        (lambda: pairwise.contrastive_loss(X, X, "1"), TypeError, "temperature must be a number or a floating point"),
        (lambda: pairwise.contrastive_loss(X[:0], X[:0], 1.0), ValueError, r"at least one row, got \(0, 2\)"),
        (
            lambda: pairwise.contrastive_loss(X[:0], X, 1.0, labels=torch.zeros(0, dtype=torch.int64)),
            ValueError,
            "x must have at least one row",
        ),
        (lambda: pairwise.contrastive_loss(X, X, 1.0, labels=[0, 1]), TypeError, "labels must be a tensor .* got list"),
        (
            lambda: pairwise.contrastive_loss(X, X, 1.0, labels=torch.zeros(2, dtype=torch.int64, device="meta")),
            ValueError,
            r"labels must be .* on cpu, got int64 of shape \(2,\) on meta",
        ),
        (lambda: lorentz.dist(X, X.to_sparse()), TypeError, "lorentz.dist: y must be a dense tensor, got torch.sparse"),
        (lambda: lorentz.dist0(X.to_sparse()), TypeError, "lorentz.dist0: x must be a dense tensor, got torch.sparse"),
        (lambda: lorentz.dist0(X, c=10**400), ValueError, "c must be positive and finite, got 1000"),
        (lambda: lorentz.dist0(X, c=float("inf")), ValueError, "c must be positive and finite, got inf"),
        (lambda: lorentz.from_ambient(X[:, :1]), ValueError, r"p must have at least two elements along D\+1"),
        (
            lambda: pairwise.contrastive_loss(X, X[:1], 1.0),
            ValueError,
            "x and y must pair up here, got 2 and 1 rows",
        ),
        (
            lambda: pairwise.contrastive_loss(X, X, 1.0, labels=torch.zeros(3, dtype=torch.int64)),
            ValueError,
            r"labels must be a tensor of int64 of shape \(2,\) on cpu, got int64 of shape \(3,\)",
        ),
    ],
)
def test_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


NAN = torch.tensor([[0.1, 0.2], [float("nan"), 0.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lorentz.dist(X, NAN), r"lorentz.dist: y\[1\] is not finite: got \[nan, 0.0\]"),
        (lambda: lorentz.expmap0(NAN), r"lorentz.expmap0: v\[1\] is not finite"),
        (
            lambda: poincare.dist(2 * X, 2 * X),
            r"poincare.dist: x\[1\] is outside the ball: got c\|x\|\^2 = 1.0\d*, wanted less",
        ),
        (
            lambda: poincare.mobius_add(X, X, c=torch.tensor([1.0, 5.0])),
            r"poincare.mobius_add: x\[1\] is outside the ball",
        ),
        (lambda: poincare.centroid(3 * X), r"poincare.centroid: x\[1\] is outside the ball"),
        (lambda: models.klein_to_lorentz(3 * X), r"models.klein_to_lorentz: x\[1\] is outside the ball"),
        (lambda: lorentz.dist0(X, c=torch.tensor([1.0, -1.0])), r"lorentz.dist0: c\[1\] is not positive: got -1.0"),
        (
            lambda: lorentz.from_ambient(torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])),
            r"lorentz.from_ambient: p\[1\] is off the hyperboloid: got c<p,p>_L = 0, wanted -1 and p0 > 0",
        ),
        (
            lambda: lorentz.from_ambient(
                torch.tensor([1.0, 0.0, 0.0]), torch.tensor([[0.0, 2.0, 3.0], [0.5, 0.0, 0.0]])
            ),
            r"lorentz.from_ambient: v\[1\] is off the tangent space at p: got <p,v>_L = -0.5, wanted 0",
        ),
        (
            lambda: torch.func.vmap(poincare.dist0)(torch.stack([X, 3 * X])),
            r"poincare.dist0: x\[1, 1\] is outside the ball",
        ),
        (lambda: pairwise.pairwise_dist(X, NAN), r"lorentz.pairwise_dist: y\[1\] is not finite"),
        (lambda: pairwise.nearest(NAN, X, 1), r"pairwise.nearest: query\[1\] is not finite"),
        (lambda: pairwise.contrastive_loss(X, 3 * X, 1.0, "poincare"), r"pairwise.contrastive_loss: y\[1\] is outside"),
    ],
)
def test_checks(call: Any, message: str) -> None:
    call()
    with hyperbolic.checks(), pytest.raises(ValueError, match=message):
        call()
    call()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_checks_accept_the_domain(case: Case, dtype: torch.dtype) -> None:
    with hyperbolic.checks():
        for c in (0.01, 1.0, 10.0):
            case.function(*Sampler(case.model, dtype, 5, c, 9, 100).arguments(case.arguments), c=c)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_checks_accept_rounded_ambient_coordinates(dtype: torch.dtype) -> None:
    for c in (0.01, 1.0, 10.0):
        sampler = Sampler("lorentz", torch.float64, 5, c, 9, 100, max_radius=5.0)
        x = sampler.point().to(dtype)
        v = sampler.tangent(x.double(), 3.0).to(dtype)
        with hyperbolic.checks():
            p, w = lorentz.to_ambient(x, c=c), lorentz.to_ambient(x, v, c=c)
            assert torch.equal(lorentz.from_ambient(p, c=c), x)
            assert torch.equal(lorentz.from_ambient(p, w, c=c), v)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("dim", [1, 2, 10, 100])
def test_checks_of_projected_tangents(dtype: torch.dtype, c: float, dim: int) -> None:
    """``w + c <p,w> p`` in the type itself, at any radius, is tangent; what is not projected is not."""
    torch.manual_seed(0)

    def product(p: Tensor, w: Tensor) -> Tensor:
        return (p[:, 1:] * w[:, 1:]).sum(-1, keepdim=True) - p[:, :1] * w[:, :1]

    radii = torch.tensor([0.0, 0.01, 0.5, 2.0], dtype=torch.float64).repeat(50)
    u = torch.nn.functional.normalize(torch.randn(200, dim, dtype=torch.float64), dim=-1)
    x = (u * torch.sinh(radii)[:, None] / c**0.5).to(dtype)
    p = torch.cat([(1 / c + x.square().sum(-1, keepdim=True)).sqrt(), x], -1)
    for size in (1.0, 1e-2) if dtype in (torch.float32, torch.float64) else (1.0,):
        w = (size * torch.randn(200, dim + 1, dtype=torch.float64)).to(dtype)
        v = w + c * product(p, w) * p
        with hyperbolic.checks():
            assert torch.equal(lorentz.from_ambient(p, v, c=c), v[:, 1:])
        off = v.clone()
        off[150] += size * torch.eye(dim + 1, dtype=dtype)[0]
        with hyperbolic.checks(), pytest.raises(ValueError, match=r"v\[150\] is off the tangent space at p"):
            lorentz.from_ambient(p, off, c=c)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_checks_of_ambient_coordinates(dtype: torch.dtype, c: float) -> None:
    """Points of D + 1 ambient coordinates are no points of D + 1 space components, though one may look like one."""
    x = Sampler("lorentz", torch.float64, 3, c, 9, 40, max_radius=3.0).point()
    p = torch.cat([(1 / c + x.square().sum(-1, keepdim=True)).sqrt(), x], -1).to(dtype)
    calls: list[tuple[str, Callable[[Tensor], Any]]] = [
        ("lorentz.dist: x", lambda p: lorentz.dist(p, p * 2, c=c)),
        ("lorentz.dist: y", lambda p: lorentz.dist(p * 2, p, c=c)),
        ("lorentz.logmap0: x", lambda p: lorentz.logmap0(p, c=c)),
        ("lorentz.transport0: y", lambda p: lorentz.transport0(p, p, c=c)),
        ("lorentz.boost: a", lambda p: lorentz.boost(p * 2, p, c=c)),
        ("lorentz.centroid: x", lambda p: lorentz.centroid(p, c=c)),
        ("lorentz.pairwise_dist: y", lambda p: lorentz.pairwise_dist(p * 2, p, c=c)),
        ("pairwise.nearest: bank", lambda p: pairwise.nearest(p * 2, p, 1, c=c)),
        ("models.lorentz_to_klein: x", lambda p: models.lorentz_to_klein(p, c=c)),
    ]
    origin = torch.eye(4, dtype=dtype)[0].expand(40, 4) / c**0.5
    for name, call in calls:
        call(p)
        with hyperbolic.checks():
            with pytest.raises(ValueError, match=f"{name} seems to be ambient"):
                call(p)
            for real in (p[:2], p[:1].expand(40, 4), origin, torch.cat([p, 2 * p[:1]])):
                call(real)
        assert call(p) is not None


def test_sizes_that_differ_by_one() -> None:
    with pytest.raises(ValueError, match=r"got 3 .*; points and tangents are space components, see lorentz.from_amb"):
        lorentz.expmap(torch.zeros(5, 2), torch.zeros(5, 3))


def test_checks_in_a_compiled_program() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(poincare.dist0, fullgraph=True, backend="aot_eager")
    assert compiled(3 * X).isnan().any()
    with hyperbolic.checks(), pytest.raises(ValueError, match=r"poincare.dist0: x\[1\] is outside the ball"):
        compiled(3 * X)


def test_checks_in_inference_mode() -> None:
    """Where operators do not pass by autograd."""
    with hyperbolic.checks(), torch.inference_mode():
        for call in (lambda: lorentz.dist(X, NAN), lambda: pairwise.pairwise_dist(X, NAN)):
            with pytest.raises(ValueError, match=r"y\[1\] is not finite"):
                call()
        assert lorentz.dist(X, X).shape == (2,)


def test_checks_take_views_with_the_negative_bit() -> None:
    """The imaginary part of a conjugate is one; 2 atanh(1/2) = log 3."""
    x = torch.tensor([complex(0, -0.5)], dtype=torch.complex128).conj().imag
    with hyperbolic.checks():
        assert poincare.dist0(x).item() == pytest.approx(math.log(3), rel=1e-15)
