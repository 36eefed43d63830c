"""Reverse-mode differentiation of formulas in wide numbers, to any order.

torch's own autograd adds cotangents in float64 and so would lose the second word of a double-double. A
:class:`Variable` carries a wide number together with the pullbacks of the operation that made it; :func:`vjp`
turns a function of variables into the function that returns its vector-Jacobian product. That result is again a
function of variables, so ``vjp(vjp(f))`` is the second-order backward.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Union

import torch
from torch import Tensor

from hyperbolic.reference import elementary, wide
from hyperbolic.reference.wide import Wide

Pullback = Callable[["Variable"], "Variable"]
Number = Union["Variable", float, Fraction]
_serial = itertools.count()


class _State(threading.local):
    recording = False


_state = _State()


@contextmanager
def _recording() -> Iterator[None]:
    before, _state.recording = _state.recording, True
    try:
        yield
    finally:
        _state.recording = before


class Variable:
    """A wide number and, while a derivative is wanted, where it came from."""

    __slots__ = ("serial", "sources", "tracked", "value")

    def __init__(self, value: Wide, sources: Sequence[tuple[Variable, Pullback]] = (), leaf: bool = False):
        self.value = value
        self.tracked: bool
        self.sources = [s for s in sources if s[0].tracked] if _state.recording else []
        self.tracked = leaf or bool(self.sources)
        self.serial = next(_serial)

    @property
    def shape(self) -> torch.Size:
        """The shape of the value."""
        return torch.Size(self.value.shape)

    @property
    def head(self) -> Tensor:
        """The value in float64, for decisions."""
        return wide.head(self.value)

    def __neg__(self) -> Variable:
        return Variable(-self.value, [(self, lambda g: -g)])

    def __add__(self, other: Number) -> Variable:
        if not isinstance(other, Variable):
            return Variable(self.value + _plain(other, self.value), [(self, lambda g: g)])
        a, b = self.shape, other.shape
        return Variable(self.value + other.value, [(self, lambda g: fit(g, a)), (other, lambda g: fit(g, b))])

    def __mul__(self, other: Number) -> Variable:
        if not isinstance(other, Variable):
            return Variable(self.value * _plain(other, self.value), [(self, lambda g: g * other)])
        a, b = self, other
        return Variable(a.value * b.value, [(a, lambda g: fit(g * b, a.shape)), (b, lambda g: fit(g * a, b.shape))])

    def __truediv__(self, other: Number) -> Variable:
        if not isinstance(other, Variable):
            return Variable(self.value / _plain(other, self.value), [(self, lambda g: g / other)])
        # Pullbacks refer to the operands alone: one that held its own result would be a reference cycle, and the
        # tensors in it would live until the garbage collector runs.
        a, b = self, other
        return Variable(
            a.value / b.value, [(a, lambda g: fit(g / b, a.shape)), (b, lambda g: fit(-(g / b) * (a / b), b.shape))]
        )

    def __sub__(self, other: Number) -> Variable:
        return self + (-other)

    def __radd__(self, other: float | Fraction) -> Variable:
        return self + other

    def __rsub__(self, other: float | Fraction) -> Variable:
        return (-self) + other

    def __rmul__(self, other: float | Fraction) -> Variable:
        return self * other

    def __rtruediv__(self, other: float | Fraction) -> Variable:
        return full_like(self, other) / self

    def __getitem__(self, index: Any) -> Variable:
        """Basic indexing: slices, integers, ``None`` and ``...``."""
        shape = self.shape
        return Variable(self.value[index], [(self, lambda g: _place(g, index, shape))])


def _plain(x: float | Fraction, like: Wide) -> Wide | float:
    return wide.constant(x, like) if isinstance(x, Fraction) else x


def constant(value: Tensor) -> Variable:
    """Return a variable without derivatives."""
    return Variable(value)


def full_like(x: Variable, value: float | Fraction) -> Variable:
    """Return a constant of the shape and kind of ``x``."""
    return Variable(wide.remap(x.value, torch.zeros_like) + _plain(value, x.value))


def fit(g: Variable, shape: torch.Size) -> Variable:
    """Sums a cotangent over the dimensions that broadcasting added or stretched."""
    while len(g.shape) > len(shape):
        g = total(g, 0)[0]
    for dim, (have, want) in enumerate(zip(g.shape, shape)):
        if want == 1 and have != 1:
            g = total(g, dim)
    return g


def _place(g: Variable, index: Any, shape: torch.Size) -> Variable:
    """The adjoint of indexing: ``g`` written into zeros of ``shape``."""

    def write(w: Tensor) -> Tensor:
        out = w.new_zeros(shape)
        out[index] = w
        return out

    return Variable(wide.remap(g.value, write), [(g, lambda h: h[index])])


def expand(x: Variable, shape: Sequence[int]) -> Variable:
    """Broadcast ``x`` to a shape."""
    before = x.shape
    return Variable(wide.remap(x.value, lambda w: w.expand(shape)), [(x, lambda g: fit(g, before))])


def total(x: Variable, dim: int = -1) -> Variable:
    """Sum over ``dim``, kept with length 1."""
    shape = x.shape
    return Variable(wide.total(x.value, dim), [(x, lambda g: expand(g, shape))])


def dot(x: Variable, y: Variable) -> Variable:
    """Return the inner product along the last dimension, which stays with size 1."""
    return total(x * y)


def matvec(m: Variable, v: Variable) -> Variable:
    """Return the matrices ``m`` times the vectors ``v``."""
    return total(m * v[..., None, :])[..., 0]


def concatenate(x: Variable, y: Variable) -> Variable:
    """``x`` and ``y`` side by side along the last dimension."""
    batch = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    x, y = expand(x, (*batch, x.shape[-1])), expand(y, (*batch, y.shape[-1]))
    n = x.shape[-1]
    value = wide.concatenate([x.value, y.value], -1)
    return Variable(value, [(x, lambda g: g[..., :n]), (y, lambda g: g[..., n:])])


def where(mask: Tensor, a: Number, b: Number) -> Variable:
    """Return ``a`` where ``mask``, else ``b``."""
    sources: list[tuple[Variable, Pullback]] = []
    if isinstance(a, Variable):
        sa = a.shape
        sources.append((a, lambda g: fit(where(mask, g, 0.0), sa)))
    if isinstance(b, Variable):
        sb = b.shape
        sources.append((b, lambda g: fit(where(mask, 0.0, g), sb)))
    p = a.value if isinstance(a, Variable) else a
    q = b.value if isinstance(b, Variable) else b
    return Variable(wide.where(mask, p, q), sources)


def branch(
    mask: Tensor,
    if_true: Callable[..., Variable],
    if_false: Callable[..., Variable],
    args: Sequence[Variable],
    safe_true: float = 0.0,
) -> Variable:
    """``where(mask, if_true(*args), if_false(*args))``; each formula meets only rows of its own domain.

    Elsewhere the arguments are replaced by a value of its domain, ``safe_true`` or 0, so that neither a value nor a
    derivative outside can turn into a NaN that ``where`` would multiply by zero. On the CPU an idle formula is not
    evaluated.
    """
    if mask.device.type == "cpu" and mask.numel() > 0:
        if bool(mask.all()):
            return if_true(*args)
        if not bool(mask.any()):
            return if_false(*args)
    return where(
        mask,
        if_true(*(where(mask, a, safe_true) for a in args)),
        if_false(*(where(mask, 0.0, a) for a in args)),
    )


def scale(x: Variable, factor: Tensor) -> Variable:
    """``x`` times constant powers of two, exactly."""
    shape = x.shape
    return Variable(wide.remap(x.value, lambda w: w * factor), [(x, lambda g: fit(scale(g, factor), shape))])


def sqrt(x: Variable) -> Variable:
    """Square root whose derivative at 0 is defined as 0.

    This choice makes gradients of distances vanish at coincident points.
    """

    def pull(g: Variable) -> Variable:
        zero = x.head == 0
        return where(zero, 0.0, g * 0.5 / sqrt(where(zero, 1.0, x)))

    return Variable(elementary.sqrt(x.value), [(x, pull)])


def exp(x: Variable) -> Variable:
    """Return e^x."""
    return Variable(elementary.exp(x.value), [(x, lambda g: g * exp(x))])


def expm1(x: Variable) -> Variable:
    """Return e^x - 1."""
    return Variable(elementary.expm1(x.value), [(x, lambda g: g * exp(x))])


def log(x: Variable) -> Variable:
    """Return the natural logarithm."""
    return Variable(elementary.log(x.value), [(x, lambda g: g / x)])


def log1p(x: Variable) -> Variable:
    """Return log(1 + x)."""
    return Variable(elementary.log1p(x.value), [(x, lambda g: g / (x + 1.0))])


def atan2(y: Variable, x: Variable) -> Variable:
    """Its derivative at the origin, where the angle is undefined, is 0."""
    # The square of the radius in units of a power of two near it, which keeps it in range.
    _, down = wide.binade(torch.maximum(x.head.abs(), y.head.abs()))

    def pull(g: Variable, numerator: Variable) -> Variable:
        p, q = scale(x, down), scale(y, down)
        square = p * p + q * q
        zero = square.head == 0
        return where(zero, 0.0, scale(g * scale(numerator, down) / where(zero, 1.0, square), down))

    return Variable(
        elementary.atan2(y.value, x.value),
        [(y, lambda g: fit(pull(g, x), y.shape)), (x, lambda g: fit(pull(g, -y), x.shape))],
    )


def _pull(outputs: Sequence[Variable], cotangents: Sequence[Variable], inputs: Sequence[Variable]) -> list[Variable]:
    """Cotangents of ``inputs``, visiting each variable after everything that was made from it."""
    pending: dict[int, Variable] = {}
    nodes: dict[int, Variable] = {}
    queue: list[int] = []

    def give(node: Variable, g: Variable) -> None:
        if node.serial in pending:
            pending[node.serial] = pending[node.serial] + g
        else:
            pending[node.serial], nodes[node.serial] = g, node
            heapq.heappush(queue, -node.serial)

    for out, g in zip(outputs, cotangents):
        if out.tracked:
            give(out, g)
    goals = {x.serial for x in inputs}
    while queue:
        serial = -heapq.heappop(queue)
        if serial in goals:
            continue
        g = pending.pop(serial)
        for source, pullback in nodes.pop(serial).sources:
            give(source, pullback(g))
    return [pending[x.serial] if x.serial in pending else full_like(x, 0.0) for x in inputs]


Function = Callable[..., tuple[Variable, ...]]


def vjp(f: Function, arity: int) -> Function:
    """The function ``(*inputs, *cotangents) -> input cotangents`` of ``f``, which takes ``arity`` inputs."""

    def backward(*args: Variable) -> tuple[Variable, ...]:
        # An enclosing vjp has made its own leaves of these arguments; they serve both.
        inputs = [x if x.tracked else Variable(x.value, leaf=True) for x in args[:arity]]
        with _recording():
            outputs = f(*inputs)
        return tuple(_pull(outputs, args[arity:], inputs))

    return backward
