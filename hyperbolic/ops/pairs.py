"""An operator over all pairs of rows, whose reference is an operator on rows that broadcast."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hyperbolic.ops.dispatch import Core, Level, Op


class PairsLevel(Level):
    """A level of ``rows`` with arguments "x:N*D, y:M*D" and result "N*M", and cotangents of these."""

    def __init__(self, op: Op, name: str, rows: Level, cores: tuple[Core, ...]):
        self.rows = rows
        super().__init__(op, name, rows.formula, cores, rows.arity)

    def differentiate(self, cores: tuple[Core, ...]) -> Level:
        """Make the level of the vector-Jacobian product."""
        return PairsLevel(self.op, self.name + "_backward", self.rows.derivative, cores)

    def evaluate(self, *args: Tensor) -> Any:
        """Evaluate the reference: that of the rows, broadcast."""
        out = self.rows.evaluate(*(_spread(a, core) for a, core in zip(args, self.cores)))
        if isinstance(out, Tensor):
            return out
        return tuple(g.reshape(a.shape) for g, a in zip(out, args))


def _spread(a: Tensor, core: Core) -> Tensor:
    """``a`` with N and M as batch dimensions, the last two, of size 1 where it has none."""
    if core.dims == ():
        return a[..., None, None]
    if core.dims == ("N", "D"):
        return a[..., :, None, :]
    return a[..., None, :, :] if core.dims == ("M", "D") else a


class PairsOp(Op):
    """All pairs of an ``Op`` on two vectors and a scalar."""

    def __init__(self, title: str, rows: Op):
        self.rows = rows
        super().__init__(title, None, "x:N*D, y:M*D, c:1 -> N*M~", inside=rows.inside, space=rows.space)

    def make_level(self, name: str) -> Level:
        """Make the public level of the operator."""
        return PairsLevel(self, name, self.rows.level, self.cores)
