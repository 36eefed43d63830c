"""Points on the rim of a ball, outside it, or not finite: NaN in their row and nowhere else, whatever computes it."""

import math
from fractions import Fraction

import pytest
import torch
from mpmath import mpf
from torch import Tensor

from hyperbolic import models, pairwise, poincare
from hyperbolic.ops.dispatch import Op
from hyperbolic.testing import oracle, ulp_error

ALL = {op.title: op for module in (poincare, models) for op in vars(module).values() if isinstance(op, Op)}
OPS = {title: op for title, op in ALL.items() if op.inside}
FREE = {"poincare.project", "models.lorentz_to_poincare", "models.lorentz_to_klein"}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NAN, INF = math.nan, math.inf

# Coordinates, c, and whether that is a point of the ball; exact in every type.
ROWS = [
    ([0.0, 0.0, 0.0, 0.0, 0.0], 1.0, True),
    ([1.0, 0.0, 0.0, 0.0, 0.0], 1.0, False),
    ([0.5, 0.5, 0.5, 0.0, 0.0], 1.0, True),
    ([0.5, -0.5, 0.5, 0.5, 0.0], 1.0, False),
    ([1.5, 0.0, 0.0, 0.0, 0.0], 1.0, False),
    ([1.5, 1.0, 0.0, 0.0, 0.0], 0.25, True),
    ([-2.0, 0.0, 0.0, 0.0, 0.0], 0.25, False),
    ([1.0, 1.0, 0.0, 0.0, 0.0], 0.5, False),
    ([0.0, 0.0, 0.0, 9.0, 0.0], 0.01, True),
    ([64.0, 1.0, -1.0, 1.0, 1.0], 0.01, False),
    ([NAN, 0.0, 0.0, 0.0, 0.0], 1.0, False),
    ([0.0, INF, 0.0, 0.0, 0.0], 1.0, False),
    ([0.25, 0.0, -INF, NAN, 0.0], 4.0, False),
    ([0.25, 0.0, -0.25, 0.25, 0.0], 4.0, True),
]


def near_the_rim(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Points a few steps of the last bit from the rim, their c, and by fractions whether they are inside."""
    generator = torch.Generator().manual_seed(0)
    u = torch.nn.functional.normalize(torch.randn(40, 5, generator=generator, dtype=torch.float64), dim=-1)
    c = torch.tensor([0.01, 0.3, 1.0, 7.0], dtype=torch.float64).repeat(10)
    steps = torch.randint(-3, 4, (40, 1), generator=generator) * torch.finfo(dtype).eps
    x = (u * (1 + steps) / c[:, None].sqrt()).to(dtype)
    if dtype == torch.float32:
        # what two coordinates leave over is nothing to float64, and what three do nothing to its last bit
        a = 1 - 2.0**-24
        for count in (2, 3):
            coordinates, left = [a], 1 - Fraction(a) ** 2
            for _ in range(count - 1):
                coordinates.append(torch.tensor(math.sqrt(abs(left)), dtype=dtype).item())
                left -= Fraction(coordinates[-1]) ** 2
            row = torch.tensor(coordinates + [0.0] * (5 - count), dtype=dtype)
            less = torch.where(torch.arange(5) == count - 1, torch.nextafter(row, torch.zeros(5)), row)
            more = torch.where(torch.arange(5) == count - 1, torch.nextafter(row, torch.ones(5)), row)
            x, c = torch.cat([x, torch.stack([less, row, more])]), torch.cat([c, torch.ones(3, dtype=torch.float64)])
    inside = [Fraction(k) * sum(Fraction(a) ** 2 for a in row) < 1 for k, row in zip(c.tolist(), x.tolist())]
    return x, c, torch.tensor(inside)


def arguments(op: Op, place: str, x: Tensor, c: Tensor, first: bool = True) -> list[Tensor]:
    """``x`` for the argument named ``place``, first in a set of points, and for the others what is in their domain."""
    n, dtype = len(x), x.dtype
    good = (torch.tensor([0.1, 0.2, -0.1, 0.0, 0.3], dtype=torch.float64) / c[:, None].sqrt()).to(dtype)
    other = {
        "y": -good,
        "t": torch.full((n,), 0.3),
        "min_radius": torch.full((n,), 0.1),
        "weights": torch.ones(n, 2, dtype=dtype),
        "m": torch.linspace(-1, 1, 10).reshape(2, 5).to(dtype).expand(n, 2, 5),
        "scale": torch.ones(n, 5),
        "c": c,
    }
    args = []
    for name, core in zip(op.names, op.cores):
        a = x if name == place else other.get(name, good)
        if core.dims == ("K", "D"):
            a = torch.stack([a, good] if first else [good, a], 1)
        args.append(a)
    return args


def check(op: Op, place: str, dtype: torch.dtype, operator: object, backward: object) -> None:
    x, c = torch.tensor([r[0] for r in ROWS], dtype=dtype), torch.tensor([r[1] for r in ROWS], dtype=torch.float64)
    inside = torch.tensor([r[2] for r in ROWS])
    for first in (True, False) if ("K", "D") in op.ranks else (True,):
        args = arguments(op, place, x, c, first)
        out = operator(*args)  # type: ignore[operator]
        assert_rows(out, inside)
        for g in backward(*args, torch.ones_like(out)):  # type: ignore[operator]
            assert_rows(g, inside)
    near, c, inside = near_the_rim(dtype)
    assert_rows(operator(*arguments(op, place, near, c)), inside)  # type: ignore[operator]


def assert_rows(out: Tensor, inside: Tensor) -> None:
    rows = out.reshape(len(inside), -1).isnan()
    assert rows[~inside].all()
    assert not rows[inside].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("title", "place"), [(title, place) for title, op in OPS.items() for place in op.inside])
def test_rows(title: str, place: str, dtype: torch.dtype) -> None:
    """What runs here and the reference, forward and backward."""
    op = OPS[title]
    check(op, place, dtype, op.operator, op.backward)
    check(op, place, dtype, op.level.evaluate, op.level.derivative.evaluate)


def test_every_function() -> None:
    """Whatever takes a point of a ball is among those."""
    for title, op in ALL.items():
        assert set(op.inside) == (set() if title in FREE else {"x", "y", "mean"} & set(op.names)), title


def crowd(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """150 points, c = 1, and which of them are in the ball."""
    bad = [i for i, row in enumerate(ROWS) if row[1] == 1.0 and not row[2]]
    x = torch.zeros(150, 5, dtype=dtype)
    x[:, 0] = torch.linspace(-0.9, 0.9, 150)
    x[10 : 10 + len(bad)] = torch.tensor([ROWS[i][0] for i in bad], dtype=dtype)
    near, _, inside = (t[2::4] for t in near_the_rim(dtype))  # those of c = 1
    x[100 : 100 + len(near)] = near
    good = torch.ones(150, dtype=torch.bool)
    good[10 : 10 + len(bad)] = False
    good[100 : 100 + len(near)] = inside
    return x, good


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_project(dtype: torch.dtype) -> None:
    """Every finite row ends inside, however long; no other does."""
    x = torch.tensor([r[0] for r in ROWS] + [[torch.finfo(dtype).max] * 5], dtype=dtype)
    c = torch.tensor([r[1] for r in ROWS] + [1.0], dtype=torch.float64)
    finite = torch.tensor([all(map(math.isfinite, row)) for row in x.tolist()])
    p = poincare.project(x, c=c)
    assert_rows(p, finite)
    assert_rows(poincare.dist0(p, c=c), finite)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_all_pairs(dtype: torch.dtype) -> None:
    """Rows and columns of a matrix that is made in tiles, and its gradient."""
    x, good = crowd(dtype)
    y = torch.full((70, 5), 0.1, dtype=dtype, requires_grad=True)
    op = pairwise.PAIRS["poincare"].dist
    c = torch.tensor(1.0, dtype=torch.float64)
    for evaluate in (op.operator, op.level.evaluate):
        assert_rows(evaluate(x, y.detach(), c), good)
        assert_rows(evaluate(y.detach(), x, c).T, good)
    x.requires_grad_()
    poincare.pairwise_dist(x, y).nansum().backward()
    assert_rows(x.grad, good)


@pytest.mark.parametrize("function", ["dist0", "conformal_factor"])
def test_near_the_rim(function: str) -> None:
    """Next to the rim a float32 point has all its digits, although float64 has none of what is left of 1."""
    x, c, inside = near_the_rim(torch.float32)
    x, c = x[inside], c[inside]
    with oracle.digits():
        for row, k, out in zip(x, c.tolist(), getattr(poincare, function)(x, c=c)):
            want = getattr(oracle.poincare, function)(oracle.exact(row), mpf(k))
            assert ulp_error(out, want) <= 1
