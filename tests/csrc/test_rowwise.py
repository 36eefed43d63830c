"""The compiled row-wise kernels against the reference operators: every layout of memory, type and number of threads."""

from typing import Any

import pytest
import torch

import hyperbolic
from hyperbolic.ops.dispatch import Op
from tests.csrc.rowwise import DTYPES, OPS, C, arguments, assert_same, cotangent, operators

pytestmark = pytest.mark.skipif(hyperbolic.kernels().cpu == "reference", reason="no compiled kernels here")


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
