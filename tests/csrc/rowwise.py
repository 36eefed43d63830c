"""The operators on rows that are compiled, arguments for them, and how close to the reference they must be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperbolic import lorentz, poincare
from hyperbolic.ops.dispatch import Op
from hyperbolic.testing import Sampler

NAMES = ("expmap0", "logmap0", "expmap", "logmap", "dist", "dist0", "dist_exp0", "mobius_add")
OPS: dict[str, Op] = {
    op.title: op
    for op in (getattr(module, name).op for module in (lorentz, poincare) for name in NAMES if hasattr(module, name))
}
KINDS = {"x": "point", "y": "point", "v": "tangent", "u": "tangent0"}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
C = 0.7

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
