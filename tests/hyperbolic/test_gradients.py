"""Derivatives: against the oracle's, at singular points, to second order, and never NaN."""

import math
from typing import Any

import mpmath
import pytest
import torch
from mpmath import mpf
from torch import Tensor

from hyperbolic import lorentz, pairwise, poincare
from hyperbolic.testing import CASES, Case, Sampler, contract, covector_error, oracle

DTYPES = [torch.float32, torch.float64]
DIST = [case for case in CASES if case.name == "dist"]


def flat(x: Any) -> list[Any]:
    return [e for part in x for e in flat(part)] if isinstance(x, list) else [x]


def differentiable(case: Case, exact: list[Any]) -> bool:
    """Whether the oracle's difference quotients mean something: not at coincident points, not on an axis of a
    cone.
    """
    if case.name in ("dist", "dist_exp0", "logmap") and exact[0] == exact[1]:
        return False
    if case.name == "exterior_angle":
        x, y = exact
        area = mpmath.fdot(x, x) * mpmath.fdot(y, y) - mpmath.fdot(x, y) ** 2
        return bool(area > mpf(10) ** -12 * mpmath.fdot(x, x) * mpmath.fdot(y, y) > 0)
    if case.name in ("dist0", "norm"):
        return any(exact[-1])
    return True


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient(case: Case, dtype: torch.dtype) -> None:
    """In every argument and in c, within one eps of the largest component.

    Where a component is exactly 0 and its terms cancel, what is left of them is judged against those terms:
    1e-5 of an eps.
    """
    rows, eps = 12, torch.finfo(dtype).eps
    with oracle.digits(120):
        for seed, value in enumerate((0.1, 2.0)):
            sampler = Sampler(case.model, dtype, 3, value, seed + 11, rows, max_radius=4.0)
            args = [a.requires_grad_() for a in sampler.arguments(case.arguments)]
            c = torch.full((rows,), value, dtype=dtype, requires_grad=True)
            out = case.function(*args, c=c)
            cotangent = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(seed))
            grads = torch.autograd.grad(out, [*args, c], cotangent)
            for i in range(rows):
                exact = [oracle.exact(a[i].detach()) for a in args]
                if not differentiable(case, exact):
                    continue
                want = oracle.vjp(case.oracle, [*exact, mpf(c[i].item())], oracle.exact(cotangent[i]))
                scale = max(abs(e) for e in flat(want))
                for got, expected in zip((g[i] for g in grads), want):
                    size = max(abs(e) for e in flat(expected))
                    error = max(abs(g - e) for g, e in zip(flat(oracle.exact(got)), flat(expected)))
                    assert error <= eps * size + 1e-5 * eps * scale, (i, value, got, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DIST, ids=str)
@pytest.mark.parametrize("dim", [2, 16, 512])
def test_gradient_of_dist(case: Case, dtype: torch.dtype, dim: int) -> None:
    """The contract: 2 eps in the dual Riemannian norm, as far as it reaches, beyond what rounding must cost."""
    rows = {2: 40, 16: 20, 512: 3}[dim]
    with oracle.digits():
        for seed, c in enumerate((0.01, 1.0, 10.0)):
            sampler = Sampler(case.model, dtype, dim, c, seed, rows, contract.GRADIENT_RADIUS[dtype])
            x, y = (a.requires_grad_() for a in sampler.arguments(case.arguments))
            gx, gy = torch.autograd.grad(case.function(x, y, c=c).sum(), (x, y))
            for i in range(rows):
                p, q = oracle.exact(x[i].detach()), oracle.exact(y[i].detach())
                if p == q:
                    assert not gx[i].any()
                    assert not gy[i].any()
                    continue
                for here, there, got in ((p, q, gx[i]), (q, p, gy[i])):
                    want = oracle.gradient_of_dist(case.model, here, there, mpf(c))
                    error = covector_error(case.model, here, got, want, mpf(c))
                    assert error <= contract.GRADIENT_OF_DIST, (c, error, here, there)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_finite(case: Case, dtype: torch.dtype) -> None:
    """Over the whole domain, values, gradients and second derivatives are finite; these overflow only where the
    exact ones do, next to a kink."""
    for c in (0.01, 1.0, 10.0):
        for dim in (1, 2, 16):
            args = [a.requires_grad_() for a in Sampler(case.model, dtype, dim, c, 5, 100).arguments(case.arguments)]
            k = torch.full((100,), c, dtype=dtype, requires_grad=True)
            out = case.function(*args, c=k)
            assert out.isfinite().all()
            grads = torch.autograd.grad(out.sum(), [*args, k], create_graph=True)
            assert all(g.isfinite().all() for g in grads)
            second = torch.autograd.grad([g.sum() for g in grads], [*args, k])
            assert not any(h.isnan().any() for h in second)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_second_order(case: Case) -> None:
    """gradcheck and gradgradcheck, at radius 1, away from kinks."""
    sampler = Sampler(case.model, torch.float64, 2, 0.7, 3, 2, max_radius=1.0)
    sampler.radii = lambda largest: sampler.rng.uniform(0.3, 1.0, (sampler.n, 1))  # type: ignore[method-assign]
    sampler.partner = lambda x, relation=None: sampler.point()  # type: ignore[method-assign]
    args = [a.requires_grad_() for a in sampler.arguments(case.arguments)]
    if case.name == "dist_exp0":
        args[1] = sampler.tangent0().requires_grad_()
    if case.name == "half_aperture":
        args[1] = torch.full((2,), 0.05, dtype=torch.float64, requires_grad=True)
    c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def f(*inputs: Tensor) -> Tensor:
        return case.function(*inputs[:-1], c=inputs[-1])

    assert torch.autograd.gradcheck(f, [*args, c])
    assert torch.autograd.gradgradcheck(f, [*args, c], fast_mode=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("module", [lorentz, poincare], ids=["lorentz", "poincare"])
def test_coincident_points(module: Any, dtype: torch.dtype) -> None:
    """Distances and logarithms are exactly 0, and so are the gradients of distances."""
    model = module.__name__.split(".")[-1]
    for c in (0.01, 1.0, 10.0):
        x = Sampler(model, dtype, 5, c, 1, 50).point()
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        for f in (module.dist, module.dist_exp0, module.exterior_angle):
            out = f(a, b, c=c)
            assert not out.any()
            assert not any(g.any() for g in torch.autograd.grad(out.sum(), (a, b)))
        assert not module.logmap(a, b, c=c).any()
        matrix = pairwise.pairwise_dist(a, a, model, c=c)
        assert not matrix.diagonal().any()
        assert torch.autograd.grad(matrix.sum(), a)[0].isfinite().all()


@pytest.mark.parametrize(("dtype", "radius"), [(torch.float32, 80.0), (torch.float64, 140.0)], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case.model == "lorentz"], ids=str)
def test_far_out(case: Case, dtype: torch.dtype, radius: float) -> None:
    """Well beyond the contract nothing is NaN, and what is Inf is so because the exact gradient exceeds the type."""
    u, w = (torch.nn.functional.normalize(torch.randn(30, 3, dtype=torch.float64), dim=-1) for _ in range(2))
    x, y = (a * math.sinh(radius) for a in (u, w))
    values = {
        "point": (x, y),
        "tangent": (x * 0.5,),
        "tangent0": (u * 60, w * 60),
        "points": (torch.stack([x] * 4, -2),),
    }
    sampler = Sampler("lorentz", dtype, 3, 1.0, 0, 30)
    used: dict[str, int] = {}
    args = []
    for kind in case.arguments:
        if kind in values:
            args.append(values[kind][used.get(kind, 0)].to(dtype).requires_grad_())
            used[kind] = used.get(kind, 0) + 1
        else:
            args.append(sampler.arguments((kind,))[0].requires_grad_())
    out = case.function(*args)
    assert not out.isnan().any()
    grads = torch.autograd.grad(out.sum(), args)
    assert not any(g.isnan().any() for g in grads)
    if dtype == torch.float64:
        assert out.isfinite().all()
        assert all(g.isfinite().all() for g in grads)
