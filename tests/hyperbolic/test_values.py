"""Every function against the oracle, in the units and within the bounds of the contract."""

import pytest
import torch
from mpmath import mpf

from hyperbolic import lorentz, poincare
from hyperbolic.limits import RIM_MARGIN
from hyperbolic.testing import CASES, Case, Sampler, contract, oracle

CURVATURES = (0.01, 0.1, 1.0, 2.0, 10.0)
ROWS = {2: 30, 16: 12, 512: 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_value(case: Case, dtype: torch.dtype) -> None:
    allowed = contract.bound(case, dtype)
    with oracle.digits():
        for seed, c in enumerate(CURVATURES):
            for dim, rows in ROWS.items():
                if "matrix" in case.arguments and dim == 512:
                    continue
                sampler = Sampler(case.model, dtype, dim, c, seed, rows, contract.max_radius(case, dtype))
                args = sampler.arguments(case.arguments)
                out = case.function(*args, c=c)
                for i in range(rows):
                    exact = [oracle.exact(a[i]) for a in args]
                    want = case.oracle(*exact, mpf(c))
                    error = contract.error(case, exact, out[i], want, mpf(c))
                    assert error <= allowed, (error, allowed, c, dim, [a[i].tolist() for a in args], out[i].tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.result_model == "poincare" and case.result == "point"], ids=str
)
def test_strictly_inside(case: Case, dtype: torch.dtype) -> None:
    """Exactly: c|x|^2 < 1 for the stored coordinates."""
    for c in CURVATURES:
        args = Sampler(case.model, dtype, 3, c, 7, 200).arguments(case.arguments)
        args = [a * 50 if kind == "tangent" else a for a, kind in zip(args, case.arguments)]
        with oracle.digits():
            for row in oracle.exact(case.function(*args, c=c)):
                assert mpf(c) * sum(e * e for e in row) < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_project(dtype: torch.dtype) -> None:
    """Bit for bit the argument inside the margin; beyond, on the ray at the margin, wherever it came from."""
    for c in CURVATURES:
        u = torch.nn.functional.normalize(torch.randn(60, 3, dtype=torch.float64), dim=-1) / c**0.5
        inside = (u[:20] * torch.rand(20, 1, dtype=torch.float64) * 0.9).to(dtype)
        assert torch.equal(poincare.project(inside, c=c), inside)
        for factor in (1.01, 1.5, 1e3, 1e30 if dtype in (torch.float32, torch.float64) else 10.0):
            x = (u * factor).to(dtype).requires_grad_()
            p = poincare.project(x, c=c)
            want = u * (1 - 1.5 * RIM_MARGIN[dtype])
            assert ((p.double() - want).abs() <= 4 * torch.finfo(dtype).eps * want.abs().amax(-1, keepdim=True)).all()
            assert poincare.dist0(p, c=c).isfinite().all()
            assert torch.equal(poincare.project(p, c=c), p)
            assert torch.autograd.grad(p.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("model", ["lorentz", "poincare"])
def test_dist_exp0_far_out(model: str, dtype: torch.dtype) -> None:
    """Radii up to 1e4, where neither point can be written down."""
    (case,) = [case for case in CASES if str(case) == f"{model}.dist_exp0"]
    sampler = Sampler(model, dtype, 3, 0.5, 3, 40)
    u, v = sampler.tangent0(1e4), sampler.tangent0(1e4)
    v[:5], v[5:10], v[10:15], v[15:20] = u[:5], u[5:10] * (1 + 1e-5), -u[10:15], 0
    d = case.function(u, v, c=0.5)
    with oracle.digits():
        for i in range(40):
            want = case.oracle(oracle.exact(u[i]), oracle.exact(v[i]), mpf("0.5"))
            error = contract.error(case, [], d[i], want, mpf("0.5"))
            assert error <= contract.bound(case, dtype), (error, u[i], v[i], d[i])


def test_beyond_every_square() -> None:
    """Coordinates whose squares leave float64, at both ends."""
    big = torch.tensor([[3e200, 4e200]], dtype=torch.float64)
    small = torch.tensor([[3e-200, 4e-200]], dtype=torch.float64)
    with oracle.digits(900):
        for x, y in ((big, -big), (big, 0.5 * big), (small, -small), (small, 0.5 * small), (big, small)):
            got = lorentz.dist(x, y)[0]
            want = oracle.lorentz.dist(oracle.exact(x[0]), oracle.exact(y[0]), mpf(1))
            assert abs(mpf(got.item()) - want) <= 5 * mpf(2) ** -53 * want, (x, y)
        for x in (big, small):
            want = oracle.lorentz.dist0(oracle.exact(x[0]), mpf(1))
            assert abs(mpf(lorentz.dist0(x)[0].item()) - want) <= 3 * mpf(2) ** -53 * want
            back = lorentz.expmap0(lorentz.logmap0(x))
            assert ((back - x).abs() <= 1e-12 * x.abs()).all()
