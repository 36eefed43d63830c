"""Half precision, mixed types, autocast: computed wide and rounded once."""

import pytest
import torch
from mpmath import mpf
from torch import Tensor

from hyperbolic import lorentz, poincare
from hyperbolic.reference import wide
from hyperbolic.testing import CASES, Case, Sampler, oracle

HALF = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_half(case: Case, dtype: torch.dtype) -> None:
    """The float64 result for the same inputs, rounded: vectors to the type, scalars to float32; gradients
    likewise.
    """
    sampler = Sampler(case.model, torch.float32, 4, 0.5, 2, 30, max_radius=2.0)
    args = [a.to(dtype).requires_grad_() for a in sampler.arguments(case.arguments)]
    doubles = [a.detach().double().requires_grad_() for a in args]
    out, expected = case.function(*args, c=0.5), case.function(*doubles, c=0.5)
    assert out.dtype == (dtype if case.result in ("vector", "point", "tangent", "rotated") else torch.float32)
    largest = torch.finfo(dtype).max
    kept = expected.detach().reshape(30, -1).abs().amax(-1) < largest  # the others are shortened, in their direction
    # a point of a ball may be one step further inside
    steps = 1.51 if case.result_model != "lorentz" and case.result in ("vector", "point") else 0.51
    assert off(out, expected, kept) <= steps
    grads = torch.autograd.grad(out, args, torch.ones_like(out))
    for a, g, want in zip(args, grads, torch.autograd.grad(expected, doubles, torch.ones_like(expected))):
        assert g.dtype == a.dtype
        assert off(g, want, kept & (want.reshape(30, -1).abs().amax(-1) < largest)) <= 0.51


def off(got: Tensor, want: Tensor, rows: Tensor) -> float:
    """The largest error of the given rows, relative to a component and in eps of the type, cancelled digits
    aside.
    """
    info = torch.finfo(got.dtype)
    got, want = (t.detach().double().reshape(30, -1)[rows] for t in (got, want))
    noise = info.tiny * info.eps + 1e-12 * want.abs().amax(-1, keepdim=True).clamp(min=1)
    return float((((got - want).abs() - noise).clamp(min=0) / (info.eps * want.abs() + noise)).max())


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_rounded_once(dtype: torch.dtype) -> None:
    """A value just above a tie of the half type rounds up, though float32 would round it to the tie."""
    step = torch.finfo(dtype).eps
    value = torch.tensor(
        [1 + step / 2 + 2.0**-40, -1 - step / 2 - 2.0**-40, 1 + step / 2 - 2.0**-40], dtype=torch.float64
    )
    assert wide.round_to(value, dtype).tolist() == [1 + step, -1 - step, 1.0]


def test_fp16_origin() -> None:
    """Where MERU's expmap0 is NaN."""
    v = torch.zeros(3, dtype=torch.float16, requires_grad=True)
    out = lorentz.expmap0(v)
    assert not out.any()
    assert torch.equal(torch.autograd.grad(out.sum(), v)[0], torch.ones(3, dtype=torch.float16))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_autocast(case: Case) -> None:
    args = Sampler(case.model, torch.float32, 4, 0.5, 2, 20).arguments(case.arguments)
    args = [a.requires_grad_() for a in args]
    expected = case.function(*args, c=0.5)
    expected_grads = torch.autograd.grad(expected.sum(), args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = case.function(*args, c=0.5)
        grads = torch.autograd.grad(out.sum(), args)
    assert torch.equal(out, expected)
    assert all(torch.equal(g, e) for g, e in zip(grads, expected_grads))


def test_mixed_types() -> None:
    x, y = torch.randn(3, 2), torch.randn(3, 2, dtype=torch.float64)
    assert lorentz.dist(x, y).dtype == torch.float64
    assert lorentz.dist(x, x).dtype == torch.float32
    # a scalar never promotes, and counts as exact
    c = torch.tensor(0.1, dtype=torch.float64)
    assert lorentz.dist(x, 2 * x, c=c).dtype == torch.float32
    assert torch.equal(lorentz.dist(x, 2 * x, c=c), lorentz.dist(x, 2 * x, c=0.1))
    with oracle.digits():
        exact = oracle.lorentz.dist(oracle.exact(x[0]), oracle.exact(2 * x[0]), mpf(0.1))
        assert lorentz.dist(x, 2 * x, c=0.1)[0].item() == torch.tensor(float(exact)).item()


def test_gradient_types() -> None:
    x = torch.rand(3, 2, dtype=torch.bfloat16, requires_grad=True)
    c = torch.tensor(0.5, dtype=torch.float32, requires_grad=True)
    gx, gc = torch.autograd.grad(poincare.dist0(x * 0.5, c=c).sum(), (x, c))
    assert gx.dtype == torch.bfloat16
    assert gc.dtype == torch.float32
