"""The compiled row-wise kernels against the reference operators: every layout of memory, type and number of threads."""

from typing import Any

import pytest
import torch
from torch import Tensor

import hyperbolic
from hyperbolic import lorentz, poincare
from hyperbolic.ops.dispatch import Op
from hyperbolic.testing import Sampler

NAMES = ("expmap0", "logmap0", "expmap", "logmap", "dist", "dist0", "dist_exp0", "mobius_add")
OPS: dict[str, Op] = {
    f"{module.__name__.split('.')[-1]}.{name}": getattr(module, f"_{name}")
    for module in (lorentz, poincare)
    for name in NAMES
    if hasattr(module, f"_{name}")
}
KINDS = {"x": "point", "y": "point", "v": "tangent", "u": "tangent0"}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
C = 0.7

pytestmark = pytest.mark.skipif(hyperbolic.kernels().cpu == "reference", reason="no compiled kernels here")
operators = pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())


def arguments(op: Op, rows: int, dim: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """Vectors (rows, dim), float64 curvatures (rows,) and, where it is wanted, the largest coordinate."""
    model = op.title.split(".")[0]
    sampler = Sampler(model, torch.float64, dim, C, seed, rows, max_radius=3.0)
    args: list[Tensor] = []
    for name, core in zip(op.names, op.cores):
        if name == "v" and op.title.endswith("expmap"):
            args.append(sampler.tangent(args[0], 3.0))
        elif core.dims:
            point = KINDS[name] == "point"
            args.append((sampler.partner(args[0]) if args else sampler.point()) if point else sampler.tangent0(3.0))
        elif name == "c":
            args.append(torch.full((rows,), C, dtype=torch.float64))
        else:
            args.append(torch.full((), torch.finfo(dtype).max, dtype=torch.float64))
    return [a.to(dtype) if core.dims else a for a, core in zip(args, op.cores)]


def cotangent(op: Op, args: list[Tensor], seed: int = 1) -> Tensor:
    like = op.level.fake(*args)
    assert isinstance(like, Tensor)
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(like.dtype)


def assert_same(op: Op, args: list[Tensor], slack: float = 1.0) -> None:
    """Values and cotangents are those of the reference operators but for ``slack`` units in the last place of the
    largest coordinate, both being wide inside.
    """
    wide = torch.finfo(torch.float64).eps if op.level._dtype(args) == torch.float64 else 1e-10
    g = cotangent(op, args)
    want = op.level.evaluate(*args)
    assert isinstance(want, Tensor)
    close(op.operator(*args), want, slack, wide, bool(op.result.dims))
    for got, expected, core in zip(op.backward(*args, g), op.level.derivative.evaluate(*args, g), op.cores):
        close(got, expected, slack, wide, bool(core.dims))


def close(got: Tensor, want: Tensor, slack: float, wide: float, vector: bool) -> None:
    """Within ``slack`` eps of the type or, of a type that holds more, within what the wide numbers hold; what is left
    of terms that cancel is judged against these, which are of the size of the largest result.
    """
    assert (got.dtype, got.shape, got.is_contiguous()) == (want.dtype, want.shape, True)
    if not got.numel():
        return
    a, b = got.double(), want.double()
    size = b.abs().amax(-1, keepdim=True) if vector else b.abs()
    info = torch.finfo(got.dtype)
    noise = 1e-13 if wide > 1e-15 else 1e-26
    bound = slack * max(info.eps, wide) * size + noise * (1 + b.abs().max()) + info.tiny * info.eps
    assert ((a == b) | ((a - b).abs() <= bound)).all(), float(((a - b).abs() / bound).max())


@operators
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [1, 2, 3, 7, 8, 9, 16, 33, 100])
def test_dimensions(op: Op, dtype: torch.dtype, dim: int) -> None:
    assert_same(op, arguments(op, 20, dim, dtype))


@operators
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts(op: Op, dtype: torch.dtype) -> None:
    """Rows that do not follow each other, coordinates that do not, and one row for all by stride."""
    args = arguments(op, 12, 5, dtype)
    vectors = sum(bool(core.dims) for core in op.cores)
    for change in (
        lambda a: a.t().contiguous().t(),
        lambda a: torch.stack([a, a], -1)[..., 0],
        lambda a: a.repeat_interleave(2, 0)[::2],
        lambda a: a.flip(0)[:1].expand(12, 5),
        lambda a: a.reshape(3, 4, 5).transpose(0, 1),
    ):
        for which in range(vectors):
            changed = [change(a) if i == which else a for i, a in enumerate(args)]
            if changed[which].dim() == 3:
                changed = [change(a) if core.dims else a[:1] for a, core in zip(args[:vectors], op.cores)]
                changed += [a.reshape(-1)[0] for a in args[vectors:]]
            assert_same(op, changed)


@operators
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_broadcast(op: Op, dtype: torch.dtype) -> None:
    """Cotangents of what rows share are summed over them."""
    args = arguments(op, 24, 5, dtype)
    vectors = sum(bool(core.dims) for core in op.cores)
    shapes: list[list[tuple[int, ...]]] = [
        [(1,), (24,), ()],
        [(24,), (), (24,)],
        [(4, 1, 3), (1, 6, 1), (4, 1, 1)],
        [(1, 6, 1), (2, 1, 3), (3,)],
        [(6, 1), (4,), (6, 4)],
        [(2, 3, 4), (3, 1), (1, 1, 1)],
        [(), (), (5, 2)],
        [(), (), ()],
    ]
    for shape in shapes:
        sizes = [torch.Size(s).numel() for s in shape]
        changed = [a[:n].reshape(*s, 5) for a, s, n in zip(args[:vectors], shape, sizes)]
        c = args[vectors]
        changed.append(c[: sizes[2]].reshape(shape[2]) if vectors == 2 else c[: sizes[1]].reshape(shape[1]))
        assert_same(op, changed + args[vectors + 1 :])


@operators
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty(op: Op, dtype: torch.dtype) -> None:
    args = arguments(op, 1, 5, dtype)
    vectors = sum(bool(core.dims) for core in op.cores)
    for which in range(len(args[:vectors])):
        changed = [a.expand(0, 5) if i == which else a for i, a in enumerate(args)]
        out = op.operator(*changed)
        assert out.shape[0] == 0
        for g, a in zip(op.backward(*changed, torch.zeros_like(out)), changed):
            assert g.shape == a.shape
            assert not g.any()


@operators
def test_types_mixed(op: Op) -> None:
    """Every argument's cotangent has its own type and is rounded once; curvatures of any type are read exactly."""
    vectors = sum(bool(core.dims) for core in op.cores)
    for first in DTYPES:
        for second in DTYPES:
            args = arguments(op, 9, 6, torch.float16)
            changed = [a.to((first, second)[i]) if i < vectors else a for i, a in enumerate(args)]
            changed[vectors] = changed[vectors].to(second)
            assert_same(op, changed)
            changed[vectors] = changed[vectors][0]
            assert_same(op, changed)


@operators
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threads(op: Op, dtype: torch.dtype) -> None:
    """The same bits for any number of threads."""
    args = arguments(op, 3000, 20, dtype)
    vectors = sum(bool(core.dims) for core in op.cores)
    shared = [*args[:vectors], args[vectors][0], *args[vectors + 1 :]]
    anchor = [*(a[-1] if i == 0 else a for i, a in enumerate(args))]
    pairs = [a[:60, None] if i == 0 else a[:50] for i, a in enumerate(args[:vectors])]
    pairs += [args[vectors][:50], *args[vectors + 1 :]]
    before = torch.get_num_threads()
    for case in (args, shared, anchor, pairs):
        g = cotangent(op, case)
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append([op.operator(*case), *op.backward(*case, g)])
        torch.set_num_threads(before)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@operators
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan(op: Op, dtype: torch.dtype) -> None:
    """A NaN stays in its row, there in everything that it belongs in."""
    args: list[Any] = arguments(op, 6, 9, dtype)
    args[0] = args[0].clone()
    args[0][2, 4] = torch.nan
    out = op.operator(*args)
    bad = out.isnan().reshape(6, -1)
    assert bad[2].any()
    assert not bad[[0, 1, 3, 4, 5]].any()
    gradient = op.backward(*args, cotangent(op, args))[0]
    assert gradient[2].isnan().any()
    assert not gradient[[0, 1, 3, 4, 5]].isnan().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_rows(dtype: torch.dtype) -> None:
    """Sums over more rows than one piece holds."""
    op = OPS["lorentz.dist"]
    x, y, _ = arguments(op, 20000, 4, dtype)
    c = torch.tensor(C, dtype=torch.float64)
    assert_same(op, [x, y[0], c])
    assert_same(op, [x.reshape(2, 10000, 4), y[:2, None], c])
