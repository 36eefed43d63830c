"""Double-double arithmetic and the special functions, to many more digits than a float64 has."""

from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from mpmath import mpf
from torch import Tensor

from hyperbolic.reference import autodiff, elementary, special, wide
from hyperbolic.reference.autodiff import Variable

DIGITS = mpf(10) ** -28


def number(low: float, high: float, n: int = 60, signed: bool = True) -> wide.DoubleDouble:
    g = torch.Generator().manual_seed(0)
    x = 10 ** (torch.rand(n, generator=g, dtype=torch.float64) * (high - low) + low)
    if signed:
        x = x * torch.randn(n, generator=g, dtype=torch.float64).sign()
    return wide.DoubleDouble(*wide.two_sum(x, x * torch.randn(n, generator=g, dtype=torch.float64) * 1e-17))


def exact(x: wide.DoubleDouble) -> list[Any]:
    return [mpf(h) + mpf(low) for h, low in zip(x.hi.flatten().tolist(), x.lo.flatten().tolist())]


def worst(got: wide.DoubleDouble, want: list[Any]) -> Any:
    return max(abs(g - w) / abs(w) for g, w in zip(exact(got), want))


@pytest.mark.parametrize(
    ("name", "low", "high", "signed"),
    [
        ("sqrt", -200, 300, False),
        ("exp", -20, 2.8, True),
        ("expm1", -20, 2.8, True),
        ("sinh", -20, 2.8, True),
        ("cosh", -20, 2.8, True),
        ("log", 0.1, 300, False),
        ("log1p", -20, 300, False),
        ("asinh", -80, 299, True),
    ],
)
def test_elementary(name: str, low: float, high: float, signed: bool) -> None:
    x = number(low, high, signed=signed)
    with mpmath.workdps(60):
        assert worst(getattr(elementary, name)(x), [getattr(mpmath, name)(e) for e in exact(x)]) < DIGITS


@pytest.mark.parametrize("op", ["__add__", "__sub__", "__mul__", "__truediv__"])
def test_arithmetic(op: str) -> None:
    a, b = number(-8, 8), number(-8, 8, signed=False).map(lambda w: w.flip(0))
    with mpmath.workdps(60):
        assert worst(getattr(a, op)(b), [getattr(p, op)(q) for p, q in zip(exact(a), exact(b))]) < DIGITS


def test_two_prod_is_exact() -> None:
    g = torch.Generator().manual_seed(1)
    a, b = (
        torch.randn(1000, generator=g, dtype=torch.float64)
        * 10.0 ** torch.randint(-90, 150, (1000,), generator=g).double()
        for _ in range(2)
    )
    p, e = wide.two_prod(a, b)
    with mpmath.workdps(60):
        assert all(mpf(x) * mpf(y) == mpf(s) + mpf(t) for x, y, s, t in zip(*(w.tolist() for w in (a, b, p, e))))


def test_total() -> None:
    """A sum that cancels to its last word, of any length."""
    for n in (1, 2, 3, 7, 64, 1000):
        x = number(-3, 16, n)
        pair = wide.DoubleDouble(torch.cat([x.hi, -x.hi]), torch.cat([x.lo, torch.zeros_like(x.lo)]))
        with mpmath.workdps(80):
            got, want = exact(wide.total(pair, -1))[0], mpmath.fsum(exact(pair))
            assert abs(got - want) <= mpf(10) ** -29 * sum(abs(e) for e in exact(pair))


def test_round_inside() -> None:
    """Every rounding of a direction to the rim ends strictly inside, within a few steps of the last bit."""
    u = torch.nn.functional.normalize(torch.randn(2000, 5, dtype=torch.float64), dim=-1)
    for c in (0.01, 0.1, 1.0, 3.0):
        rim = u / c**0.5
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            x = wide.round_inside(rim, torch.tensor(c, dtype=torch.float64), dtype)
            with mpmath.workdps(60):
                assert all(mpf(c) * sum(mpf(e) ** 2 for e in row) < 1 for row in x[:200].tolist())
            assert (
                (x.double() - rim).abs() <= 4.1 * torch.finfo(dtype).eps * rim.abs() + torch.finfo(dtype).tiny
            ).all()


def _derivatives(f: Callable[[Variable], Variable], x: Tensor, order: int) -> Tensor:
    functions: list[autodiff.Function] = [lambda v: (f(v),)]
    for k in range(order):
        inner = functions[-1]
        functions.append(lambda v, inner=inner: autodiff.vjp(inner, 1)(v, autodiff.full_like(v, 1.0))[:1])  # type: ignore[misc]
        del k
    return functions[-1](Variable(wide.lift(x, True)))[0].head


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "function", "want"),
    [
        ("cosh", lambda q: special.stumpff(0, q), lambda q: mpmath.cosh(mpmath.sqrt(q))),
        ("sinhc", lambda q: special.stumpff(1, q), lambda q: mpmath.sinh(mpmath.sqrt(q)) / mpmath.sqrt(q)),
        ("tanhc", special.tanhc, lambda q: mpmath.tanh(mpmath.sqrt(q)) / mpmath.sqrt(q)),
        ("asinhc", special.asinhc, lambda q: mpmath.asinh(mpmath.sqrt(q)) / mpmath.sqrt(q)),
        ("log_sinhc", special.log_sinhc, lambda q: mpmath.log(mpmath.sinh(mpmath.sqrt(q)) / mpmath.sqrt(q))),
    ],
)
def test_functions_of_a_square(name: str, function: Any, want: Any, order: int) -> None:
    """Values and derivatives, across the switch from series to closed form and next to the removable
    singularity.
    """
    x = torch.tensor(
        [1e-20, 1e-9, 1e-4, 0.05, 0.12499, 0.12501, 0.3, 0.9999, 1.0001, 3.0, 50.0, 900.0], dtype=torch.float64
    )
    with mpmath.workdps(60):
        for got, q in zip(_derivatives(function, x, order).tolist(), x.tolist()):
            expected = mpmath.diff(want, mpf(q), order, h=mpf(q) * mpf(10) ** -14) if order else want(mpf(q))
            assert abs(got - expected) <= 4e-16 * abs(expected), (name, q)


def test_at_zero() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    for function, values in (
        (lambda q: special.stumpff(1, q), (1, 1 / 6, 1 / 60)),
        (special.asinhc, (1, -1 / 6, 3 / 20)),
        (special.tanhc, (1, -1 / 3, 4 / 15)),
    ):
        for order, want in enumerate(values):
            assert abs(_derivatives(function, zero, order).item() - want) <= 1e-16


def test_gram_of_nearly_collinear_vectors() -> None:
    """Where |a|^2 |b|^2 - (a.b)^2 has no digit left, in float64 or in double-double."""
    b = torch.tensor([[3.0, 4.0, 12.0]], dtype=torch.float64)
    a = b * 1e8 + torch.tensor([[0.0, 2.0**-25, 0.0]], dtype=torch.float64)
    for both in (False, True):
        got = special.gram(Variable(wide.lift(a, both)), Variable(wide.lift(b, both))).head.item()
        with mpmath.workdps(60):
            p, q = [mpf(e) for e in a[0].tolist()], [mpf(e) for e in b[0].tolist()]
            want = mpmath.fdot(p, p) * mpmath.fdot(q, q) - mpmath.fdot(p, q) ** 2
            assert abs(got - want) <= (1e-15 if both else 1e-7) * want
    exactly = special.gram(Variable(wide.lift(b * 0.375, True)), Variable(wide.lift(b, True)))
    assert exactly.head.item() == 0
