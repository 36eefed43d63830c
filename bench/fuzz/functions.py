"""Every public function of ``hyperbolic``, found by introspection, against its reference on clones of the arguments.

A call must do on a view what it does on a clone of it: return the same, up to rounding, or refuse both.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import hyperbolic
from fuzz import tensors
from fuzz.comparison import Reference, compare, finite, flat, outcome
from fuzz.isolation import Fault
from hyperbolic import lorentz, manifolds, models, pairwise, poincare
from hyperbolic.ops.all_pairs import AllPairs
from hyperbolic.ops.dispatch import Op

MODES = ("plain", "plain", "gradient", "no_grad", "inference", "vmap", "jvp", "checks")
# Refusals that the docstrings promise.
ALLOWED = (ValueError, TypeError, IndexError)
_MODULES = (lorentz, poincare, models, pairwise)
# What geoopt's classes have beside geometry.
_NO_GEOMETRY = {"origin", "random", "extra_repr", "forward"}
_NUMBERS = (1.0, 0.5, 1, 2.0, 0.01, 100.0, 0.0, -1.0, math.nan, math.inf, -math.inf, 1e-40, 1e40, 1e300, 5e-324, 2**70)
_FOREIGN: tuple[Any, ...] = (None, True, "1.0", [1.0], {})


@cache
def functions() -> dict[str, Callable[..., Any]]:
    """By name: functions of the modules, methods of the manifolds, and what a distribution does once it is made."""
    found: dict[str, Callable[..., Any]] = {}
    for module in _MODULES:
        prefix = module.__name__.removeprefix("hyperbolic.")
        for name, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == module.__name__ and name[0] != "_":
                found[f"{prefix}.{name}"] = function
    for name, kind in vars(manifolds).items():
        if inspect.isclass(kind) and kind.__module__ == manifolds.__name__ and name[0] != "_":
            for method, function in inspect.getmembers(kind, inspect.isfunction):
                ours = function.__module__ == manifolds.__name__
                if ours and method[0] != "_" and method not in _NO_GEOMETRY:
                    found[f"manifolds.{name}.{method}"] = _method(kind, function)
    return found


def _method(kind: Any, function: Any) -> Callable[..., Any]:
    """The method as a function that takes the curvature too."""

    def call(c: Any, **arguments: Any) -> Any:
        return function(kind(c), **arguments)

    own = list(inspect.signature(function).parameters.values())[1:]
    curvature = inspect.Parameter("c", inspect.Parameter.KEYWORD_ONLY, default=1.0, annotation="Scalar")
    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    call.__signature__ = inspect.Signature([*named, curvature])  # type: ignore[attr-defined]
    return call


@cache
def formulas() -> list[Op]:
    """Return the operators that are formulas: those of the documented functions, and those that stand beside them."""
    found = []
    for module in _MODULES:
        for each in vars(module).values():
            operators = (each.row_dist, each.dist) if isinstance(each, AllPairs) else (getattr(each, "op", each),)
            found += [op for op in operators if isinstance(op, Op)]
    return found


@cache
def ranks() -> dict[str, Mapping[str, tuple[str, ...]]]:
    """The trailing dimensions of the arguments of every function that is one operator."""
    return {op.title: dict(zip(op.names, op.ranks)) for op in formulas()}


def prepare(recipe: Any = None) -> None:
    """Import what torch imports on first use of its modes and transforms, so that each fork need not."""
    if recipe is not None:
        return
    point = {"shape": [2], "dtype": "float32", "values": [0.5]}
    for mode in dict.fromkeys(MODES):
        judge({"call": "lorentz.dist0", "mode": mode, "arguments": {"x": point}})


def recipes() -> st.SearchStrategy[dict[str, Any]]:
    """Return the strategy that draws calls of public functions."""
    return st.sampled_from(sorted(functions())).flatmap(_calls)


@st.composite
def _calls(draw: st.DrawFn, name: str) -> dict[str, Any]:
    parameters = inspect.signature(functions()[name]).parameters.values()
    taken = [p for p in parameters if p.default is p.empty or draw(st.booleans())]
    dims = {p.name: _dims(name, p) for p in taken}
    drawn = dict(zip(dims, draw(tensors.shapes([d or () for d in dims.values()]))))
    ball = name.split(".")[0] == "poincare" or "Ball" in name
    arguments = {p.name: draw(_argument(p, dims[p.name], drawn[p.name], ball)) for p in taken}
    if foreign := draw(st.sampled_from((None,) * 12 + tuple(dims))):
        arguments[foreign] = draw(st.sampled_from(_FOREIGN))
    return {"call": name, "mode": draw(st.sampled_from(MODES)), "arguments": arguments}


def _dims(function: str, parameter: inspect.Parameter) -> tuple[str, ...] | None:
    """Trailing dimensions of a tensor; None for what is none."""
    known = ranks().get(function.replace("wrapped_normal", "wrapped_normal_log_prob"), {})
    if "Tensor" not in str(parameter.annotation) and parameter.annotation != "Scalar":
        return None
    if parameter.name in known:
        return known[parameter.name]
    if parameter.annotation == "Scalar" or "Scalar" in str(parameter.annotation):
        return ()
    if parameter.name == "labels":
        return ("N",)
    rows = {"y": "M", "bank": "M"}.get(parameter.name, "N")
    return (rows, "D") if function.startswith("pairwise.") or "pairwise" in function else ("D",)


def _argument(
    parameter: inspect.Parameter, dims: tuple[str, ...] | None, shape: list[int], ball: bool
) -> st.SearchStrategy[Any]:
    annotation = str(parameter.annotation)
    if parameter.name == "labels":
        return tensors.tensors(shape, ("int64", "int64", "int64", "int32", "float32"))
    if dims is not None:
        dtypes = st.sampled_from((*tensors.FLOATS,) * 3 + tensors.FOREIGN)
        tensor = dtypes.flatmap(lambda dtype: tensors.tensors(shape, (dtype,), inside=ball and "D" in dims))
        return st.sampled_from(_NUMBERS) | tensor if "Scalar" in annotation else tensor
    if parameter.name == "model":
        return st.sampled_from(("lorentz", "poincare", "klein", ""))
    if annotation == "bool":
        return st.booleans()
    if annotation == "int":
        return st.sampled_from((1, 2, 3, 0, -1, 20, 2**40, 2**63))
    if annotation == "float":
        return st.sampled_from(_NUMBERS)
    return st.none()


def judge(recipe: Mapping[str, Any]) -> None:
    """``Fault`` where the call does not do what it does on clones by way of the reference."""
    huge = any(map(tensors.is_huge, recipe["arguments"].values()))
    name, mode = recipe["call"], "plain" if huge else recipe["mode"]
    given = {key: tensors.build(a) if tensors.is_tensor(a) else a for key, a in recipe["arguments"].items()}
    call = partial(_called, functions()[name], mode)
    # What no memory holds ends in any error of torch; geoopt's methods take what they are given to be tensors.
    allowed = (*ALLOWED, *[RuntimeError] * huge, *[AttributeError] * name.startswith("manifolds."))
    got = outcome(lambda: call(given), allowed)
    if huge:
        return
    with Reference():
        want = outcome(lambda: call({key: tensors.clone(a) for key, a in given.items()}), allowed)
    if isinstance(got, Exception) or isinstance(want, Exception):
        if type(got) is not type(want):
            raise Fault(f"{name}: {_ending(got)} where the reference ends in {_ending(want)}", f"{got!r}\n{want!r}")
        return
    if len(got) != len(want):
        raise Fault(f"{name}: {len(got)} results, the reference has {len(want)}")
    for a, b in zip(got, want):
        compare(a, b, name, mode in ("gradient", "jvp") or not _moderate(given), finite(given.values()))


def _ending(result: Any) -> str:
    return type(result).__name__ if isinstance(result, Exception) else "a result"


def _moderate(given: Mapping[str, Any]) -> bool:
    """Whether the arguments are where the contract of every function reaches: near the origin, nothing tiny."""
    for a in given.values():
        if isinstance(a, Tensor) and a.is_floating_point():
            a = a.detach().double().abs()
            if not bool(((a == 0) | ((a > 1e-3) & (a < 8))).all()):
                return False
        elif isinstance(a, (int, float)) and a and not 1e-3 < abs(a) < 8:
            return False
    return True


def _called(function: Callable[..., Any], mode: str, given: Mapping[str, Any]) -> Any:
    # A manifold looks at its curvature when it is made, which no transform lets it do.
    constant = "c" if hasattr(function, "__signature__") else ""
    floats = {key: a for key, a in given.items() if isinstance(a, Tensor) and a.is_floating_point() and key != constant}
    if mode == "vmap" and floats:
        # over a dimension that no argument has yet
        names = list(floats)
        stacked = [torch.stack([a, a]) for a in floats.values()]

        def one(*values: Tensor) -> list[Tensor]:
            return flat(_use(function, {**given, **dict(zip(names, values))}))

        return torch.func.vmap(one, randomness="same")(*stacked)
    if mode == "jvp" and floats:
        names = list(floats)
        primal = tuple(map(tensors.writable, floats.values()))
        along = tuple(torch.ones_like(a) for a in primal)
        return torch.func.jvp(lambda *a: flat(_use(function, {**given, **dict(zip(names, a))})), primal, along)
    if mode == "gradient":
        leaves = {key: a.detach().requires_grad_() for key, a in floats.items()}
        results = [t for t in flat(_use(function, {**given, **leaves})) if t.requires_grad]
        total = sum((t.double().sum() for t in results), torch.zeros((), dtype=torch.float64))
        if not results or not leaves:
            return results
        return [*results, *torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)]
    context: dict[str, Callable[[], Any]] = {
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
        "checks": hyperbolic.checks,
    }
    with context.get(mode, torch.enable_grad)():
        return _use(function, given)


def _use(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    result = function(**given)
    if isinstance(result, torch.distributions.Distribution):
        torch.manual_seed(0)
        return [result.log_prob(given["mean"]), result.rsample((2,))]
    return result
