"""From a formula in wide numbers to a torch operator.

An :class:`Op` is a formula with a signature in the manner of NumPy's generalised ufuncs: ``"x:D, y:D, c:1 ->
1"`` takes two vectors and a scalar and returns a scalar, each with any batch shape in front, and batch shapes
broadcast. From the signature follow the argument checks, the schema, the fake kernel and the vmap rule; from
the formula, by ``autodiff.vjp``, the backward and the double backward, each an operator of its own.

The operators are opaque to torch.compile. That is the point: inside, double-word arithmetic is evaluated as it is
written, in eager and in compiled programs alike, and both return the same bits.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ParamSpec, Protocol, cast

import torch
from torch import Tensor

from hyperbolic import validation
from hyperbolic.ops import torch_internals
from hyperbolic.reference import autodiff, wide
from hyperbolic.reference.autodiff import Variable
from hyperbolic.reference.wide import Wide

Scalar = float | Tensor
P = ParamSpec("P")

# Numbers in flight: on a CPU what its cache holds some tens of times over, and what torch does not split between
# threads, whose meetings would cost more than the work; on a GPU what keeps it busy.
_PIECE = {"cpu": 1 << 14, "cuda": 1 << 25}

library = torch.library.Library("hyperbolic", "FRAGMENT")
_making = threading.RLock()  # a level may ask for that of another


def declare(
    name: str, schema: str, check: Callable[..., Any], reference: Callable[..., Any], fake: Callable[..., Any]
) -> Any:
    """The operator ``hyperbolic::name``, which runs ``reference`` on devices that have no kernel for it.

    Anyone may call it with anything: ``check`` raises for arguments that do not fit. Kernels that are registered
    elsewhere check for themselves.
    """
    library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, after(check, reference), "CompositeExplicitAutograd")
    torch.library.register_fake(f"hyperbolic::{name}", after(check, fake), lib=library)
    return getattr(torch.ops.hyperbolic, name).default


def after(check: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, called once ``check`` has passed its arguments."""

    def checked(*args: Any) -> Any:
        check(*args)
        return function(*args)

    return checked


def map_in_turn(name: str, operator: Any, fake: Callable[..., Any]) -> None:
    """The vmap rule of an operator without batch dimensions: one call after the other, none for none."""

    def vmap(info: Any, in_dims: Sequence[int | None], *args: Any) -> Any:
        if info.batch_size == 0:
            one = fake(*(a if d is None else a.new_empty(a.movedim(d, 0).shape[1:]) for a, d in zip(args, in_dims)))
            # Of no elements, but so that gradients find their way.
            link = sum(a.sum() for a in args if isinstance(a, Tensor) and a.is_floating_point())
            none = [
                a.new_empty(0, *a.shape) + (link if a.is_floating_point() else 0)
                for a in ((one,) if isinstance(one, Tensor) else one)
            ]
            return (none[0], 0) if isinstance(one, Tensor) else (tuple(none), (0,) * len(none))
        each = [
            operator(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims)))
            for i in range(info.batch_size)
        ]
        if isinstance(each[0], Tensor):
            return torch.stack(each), 0
        return tuple(map(torch.stack, zip(*each))), (0,) * len(each[0])

    torch.library.register_vmap(f"hyperbolic::{name}", vmap, lib=library)


@dataclass(frozen=True)
class Core:
    """The trailing dimensions of one argument: () for a scalar, ("D",) for a vector, ("N", "D") for a matrix.

    Written "1", "D" and "N*D" in a signature, where a result may be "D+1". The types of vectors and matrices
    decide the type of the result; "D~" is a vector that, like the scalars, has no part in that. A result that is no
    vector, "1" or "N*M~", is of float32 at least.
    """

    dims: tuple[str, ...]
    promotes: bool

    @staticmethod
    def parse(text: str) -> Core:
        """Read the dimensions of one argument or result from a signature."""
        dims = () if text == "1" else tuple(text.rstrip("~").split("*"))
        return Core(dims, bool(dims) and not text.endswith("~"))

    def core(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the argument's own dimensions of a shape."""
        return tuple(shape[len(shape) - len(self.dims) :])

    def batch(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the batch dimensions of a shape."""
        return tuple(shape[: len(shape) - len(self.dims)])


class Level:
    """A formula or one of its vector-Jacobian products as a torch operator: schema, fake, autograd and vmap."""

    def __init__(self, op: Op, name: str, formula: autodiff.Function, cores: tuple[Core, ...], arity: int | None):
        # arity: None for the public function; for a vector-Jacobian product, how many of the leading arguments are
        # those of the level below. They are what its results are cotangents of; the other arguments are cotangents.
        self.op, self.name, self.formula, self.cores, self.arity = op, name, formula, cores, arity
        self._derivative: Level | None = None
        self.parameters = tuple(f"a{i}" for i in range(len(cores)))
        arguments = ", ".join(f"Tensor {a}" for a in self.parameters)
        returns = "Tensor" if arity is None else f"({', '.join(['Tensor'] * arity)})"
        self.operator = declare(name, f"({arguments}) -> {returns}", self.check, self.evaluate, self.fake)
        self._register_autograd()

    @property
    def derivative(self) -> Level:
        """The vector-Jacobian product of this level, made on first use, which may come from several threads at once."""
        with _making:
            if self._derivative is None:
                outputs = (self.op.result,) if self.arity is None else self.cores[: self.arity]
                self._derivative = self.differentiate(self.cores + outputs)
        return self._derivative

    def differentiate(self, cores: tuple[Core, ...]) -> Level:
        """Make the level of the vector-Jacobian product, whose arguments have these ``cores``."""
        formula = autodiff.vjp(self.formula, len(self.cores))
        return Level(self.op, self.name + "_backward", formula, cores, len(self.cores))

    def _dtype(self, args: Sequence[Tensor]) -> torch.dtype:
        """The common type of the arguments that promote: never that of a curvature or another scalar."""
        dtypes = [a.dtype for a, core in zip(args, self.op.cores) if core.promotes]
        dtype = dtypes[0]
        for other in dtypes[1:]:
            dtype = torch.promote_types(dtype, other)
        return dtype

    def _result(self, args: Sequence[Tensor]) -> tuple[tuple[int, ...], torch.dtype]:
        bound: dict[str, int] = {}
        batches = []
        for a, core in zip(args, self.cores):
            bound.update(zip(core.dims, core.core(a.shape)))
            batches.append(core.batch(a.shape))
        dtype = self._dtype(args)
        if not self.op.result.promotes:
            dtype = torch.promote_types(dtype, torch.float32)
        sizes = (bound[d] if d in bound else bound[d.removesuffix("+1")] + 1 for d in self.op.result.dims)
        return (*torch.broadcast_shapes(*batches), *sizes), dtype

    def check(self, *args: Tensor) -> None:
        """Raise ``TypeError`` or ``ValueError`` for arguments that do not fit."""
        validation.arguments(self.name, self.parameters, [core.dims for core in self.cores], args)

    def fake(self, *args: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return empty results: their shapes, types and device."""
        if self.arity is None:
            shape, dtype = self._result(args)
            return args[0].new_empty(shape, dtype=dtype)
        return tuple(a.new_empty(a.shape) for a in args[: self.arity])

    def evaluate(self, *args: Tensor) -> Any:
        """The reference: runs where no compiled kernel does."""
        place = self.op.names.index("c")
        args = (*args[:place], validation.positive_or_nan(args[place]), *args[place + 1 :])
        self.fake(*args)  # fails at once where there is no memory for the results, and not after the work
        results = self.in_pieces(args)
        if self.arity is None:
            shape, dtype = self._result(args)
            c = args[place].to(torch.float64)[..., None]
            if self.op.point == "ball":
                out = wide.round_inside(results[0], c, dtype)
            elif self.op.point == "lorentz":
                out = wide.round_finite(results[0], dtype)
            else:
                out = wide.round_to(results[0], dtype)
            # also where the formula has a case in which c has no part
            out = out.where(~c.isnan(), math.nan)
            return _own(out if self.op.result.dims else out[..., 0], shape, args)
        return tuple(
            _own(g if core.dims else g[..., 0], a.shape, args)
            for g, a, core in zip((wide.round_to(r, a.dtype) for r, a in zip(results, args)), args, self.cores)
        )

    def in_pieces(self, args: Sequence[Tensor]) -> list[Wide]:
        """The formula's results, wide, from slices of the batch that keep its many intermediates in the cache."""
        batches = [core.batch(a.shape) for a, core in zip(args, self.cores)]
        shape = torch.broadcast_shapes(*batches)
        cells = math.prod(shape) * max(math.prod(core.core(a.shape)) for a, core in zip(args, self.cores))
        pieces = -(-cells // _PIECE.get(args[0].device.type, _PIECE["cuda"]))
        if pieces <= 1 or max(shape, default=1) == 1:
            double_double = self._dtype(args) is torch.float64
            lifted = (wide.lift(a if core.dims else a[..., None], double_double) for a, core in zip(args, self.cores))
            return [r.value for r in self.formula(*map(Variable, lifted))]
        size = max(shape)
        dim = shape.index(size)
        # where that dimension stands in each argument, None where it is missing or broadcast
        places = [dim - len(shape) + len(b) for b in batches]
        dims = [p if p >= 0 and b[p] == size else None for p, b in zip(places, batches)]
        step = max(1, size // pieces)
        parts = [
            self.in_pieces([a if d is None else a.narrow(d, i, min(step, size - i)) for a, d in zip(args, dims)])
            for i in range(0, size, step)
        ]
        along = [dim] if self.arity is None else dims[: self.arity]
        return [_assemble(column, d) for column, d in zip(zip(*parts), along)]

    def _register_autograd(self) -> None:
        level = self

        class Autograd(torch_internals.SingleLevelFunction):
            @staticmethod
            def forward(*args: Tensor) -> Any:
                with torch_internals.below_autograd():
                    return level.operator(*args)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
                ctx.save_for_backward(*inputs)
                ctx.save_for_forward(*inputs)

            @staticmethod
            def backward(ctx: Any, *cotangents: Tensor) -> Any:
                return level.derivative.operator(*ctx.saved_tensors, *cotangents)

            @staticmethod
            def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
                return level.jvp(ctx.saved_tensors, tangents)

        Autograd.__name__ = Autograd.__qualname__ = self.name

        def kernel(*args: Tensor) -> Any:
            if level.arity is None and validation.checking():
                level.op.check_values(args)
            return torch_internals.apply(Autograd, *args)

        library.impl(self.name, kernel, "Autograd")
        torch.library.register_vmap(f"hyperbolic::{self.name}", self.vmap, lib=library)

    def jvp(self, args: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Any:
        """The pullback is linear in the cotangents, so its own pullback at 0 is the pushforward."""
        fake = self.fake(*args)
        zeros = [torch.zeros_like(z) for z in ((fake,) if isinstance(fake, Tensor) else fake)]
        directions = [torch.zeros_like(a) if t is None else t for a, t in zip(args, tangents)]
        pushed = self.derivative.derivative.operator(*args, *zeros, *directions)[len(args) :]
        return pushed[0] if self.arity is None else pushed

    def vmap(self, info: Any, in_dims: Sequence[int | None], *args: Tensor) -> Any:
        """Map over a dimension.

        It goes in front of the batch shape, which is padded so that the rest still lines up.
        """
        ranks = [a.dim() - len(core.dims) - (d is not None) for a, core, d in zip(args, self.cores, in_dims)]
        rank, size = max(ranks), info.batch_size
        padded = []
        for a, r, d in zip(args, ranks, in_dims):
            a = a.expand(size, *a.shape) if d is None else a.movedim(d, 0)
            padded.append(a.reshape(size, *[1] * (rank - r), *a.shape[1:]))
        out = self.operator(*padded)
        if self.arity is None:
            return out, 0
        n = self.arity
        flat = tuple(g.reshape(size, *g.shape[1 + rank - r :]) for g, r in zip(out, ranks[:n]))
        return flat, (0,) * n


_PLAIN = (Tensor, torch.nn.Parameter)


@lru_cache(maxsize=64)
def _constant(value: float) -> Tensor:
    with torch.inference_mode(False):  # for all who come later
        return torch.full((), value, dtype=torch.float64, device="cpu")


def is_abstract(a: Tensor) -> bool:
    """Whether ``a`` stands for other tensors, in a trace or under torch.func, that come here in their turn."""
    return type(a) not in _PLAIN or torch_internals.is_wrapped(a)


def _assemble(parts: Sequence[Wide], dim: int | None) -> Wide:
    """Slices side by side or, of a cotangent that all slices share, their sum."""
    if dim is not None:
        return wide.concatenate(parts, dim)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _own(out: Tensor, shape: Sequence[int], args: Sequence[Tensor]) -> Tensor:
    """``out`` broadcast to ``shape`` in memory of its own: an operator may not return its argument."""
    out = out.expand(shape)
    if not out.is_contiguous() or any(out.data_ptr() == a.data_ptr() for a in args):
        return out.clone(memory_format=torch.contiguous_format)
    return out


class Op:
    """A formula that can be called on tensors.

    Args:
        title: name of the public function, "lorentz.dist"; the operator is ``hyperbolic::lorentz_dist``.
        formula: takes and returns ``Variable``.
        signature: argument names with core dimensions, and the core dimensions of the result.
        point: "ball" for a result that must stay strictly inside a ball, "lorentz" for one whose coordinates must stay
            finite.
        inside: names of the arguments that ``checks()`` wants inside the ball.
        space: names of the arguments that are points of the hyperboloid, of which ``checks()`` wants space components.
    """

    def __init__(
        self,
        title: str,
        formula: Callable[..., Variable] | None,
        signature: str,
        point: str = "",
        inside: tuple[str, ...] = (),
        space: tuple[str, ...] = (),
    ):
        inputs, result = re.sub(r"\s", "", signature).split("->")
        parameters = [p.split(":") for p in inputs.split(",")]
        self.title, self.point, self.inside, self.space = title, point, inside, space
        self.names = tuple(name for name, _ in parameters)
        self.cores = tuple(Core.parse(core) for _, core in parameters)
        self.ranks = tuple(core.dims for core in self.cores)
        self.result = Core.parse(result)
        self.only_vectors = all(core.dims in ((), ("D",)) for core in self.cores) and bool(self.cores[0].dims)
        self.formula = formula
        self.level = self.make_level(title.replace(".", "_"))
        # The first derivative exists from the start: a compiled program may come from a cache that names it.
        self.operator, self.backward = self.level.operator, self.level.derivative.operator
        self._cpu_kernel = torch_internals.CpuKernel(self.operator)

    def make_level(self, name: str) -> Level:
        """Make the public level of the operator."""
        formula = self.formula
        assert formula is not None
        return Level(self, name, lambda *a: (formula(*a),), self.cores, None)

    def __call__(self, *args: Scalar) -> Tensor:
        """Check the arguments and call the operator, past the dispatcher where nothing needs it."""
        result: Tensor
        # A compiler must not look into the shortcut, nor must anything that stands between the caller and the kernel
        # be left out.
        if not torch.compiler.is_compiling() and torch_internals.is_called_directly() and not validation.checking():
            plain = self._plain(args)
            if plain is not None:
                if torch.is_grad_enabled():
                    for a in plain:
                        if a.requires_grad:
                            result = self.operator(*plain)
                            return result
                return self._cpu_kernel(*plain)
        tensors = validation.arguments(self.title, self.names, self.ranks, args)
        # Elsewhere the autograd kernel checks values, which inference mode goes past.
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled() and validation.checking():
            self.check_values(tensors)
        result = self.operator(*tensors)
        return result

    def check_values(self, tensors: Sequence[Tensor]) -> None:
        """Check values within ``checks()``, unless the tensors have none of their own."""
        if not any(map(is_abstract, tensors)):
            validation.values(self.title, self.names, self.ranks, self.inside, self.space, tensors)

    def _plain(self, args: Sequence[Any]) -> list[Tensor] | None:
        """Return ``args`` as tensors if they need no further checks, else None.

        That is, if they are vectors of one shape and type and numbers, on the CPU, whose memory holds what they are.
        """
        first = args[0]
        if not self.only_vectors or type(first) not in _PLAIN:
            return None
        shape, dtype = first.shape, first.dtype
        if not shape or shape[-1] == 0 or dtype not in validation.DTYPES:
            return None
        plain = []
        for a, core in zip(args, self.cores):
            if core.dims:
                alike = type(a) in _PLAIN and a.shape == shape and a.dtype is dtype
                if not alike or not a.is_cpu or a.layout is not torch.strided or a.is_neg():
                    return None
                plain.append(a)
            elif type(a) is float and 0 < a < math.inf:
                plain.append(_constant(a))
            else:
                return None
        return plain


class PublicFunction(Protocol[P]):
    """A documented function and the operator that it calls."""

    op: Op

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        """Call the operator."""


def operator(
    formula: Callable[..., Variable],
    signature: str,
    point: str = "",
    inside: tuple[str, ...] = (),
    space: tuple[str, ...] = (),
) -> Callable[[Callable[P, Tensor]], PublicFunction[P]]:
    """Declare the operator of a documented function, which calls it as ``function.op``; see :class:`Op`.

    It is called as the function is: ``hyperbolic.lorentz.dist`` has the operator ``hyperbolic::lorentz_dist``.
    """

    def declare_for(function: Callable[P, Tensor]) -> PublicFunction[P]:
        model = function.__module__.rpartition(".")[2]
        public = cast(PublicFunction[P], function)
        public.op = Op(f"{model}.{function.__name__}", formula, signature, point, inside, space)
        return public

    return declare_for
