"""``torch.ops.hyperbolic``, called directly: whoever does that goes past the checks of the Python functions.

The kernel must do what the reference does on clones: return the same, up to rounding, or refuse both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from hypothesis import strategies as st

from fuzz import functions, tensors
from fuzz.comparison import Reference, compare, finite, outcome
from fuzz.isolation import Fault
from hyperbolic.ops.dispatch import Level

ALLOWED = (ValueError, TypeError, IndexError, RuntimeError)
# Of operators that are no formula on rows, by the names of their schemas.
_DIMS: dict[str, tuple[str, ...]] = {"query": ("N", "D"), "bank": ("M", "D"), "x": ("N", "D"), "y": ("M", "D")}
_DIMS |= dict.fromkeys(("labels", "partition", "g", "h"), ("N",))
_POSITIVE = ("c", "temperature", "largest", "target", "min_radius")
_NUMBERS = {"int": (1, 2, 3, 20, 0, -1, 2**40, -(2**63)), "float": functions._NUMBERS[:-1], "bool": (True, False)}


@cache
def operators() -> dict[str, Any]:
    """All that are registered and run on a CPU."""
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("hyperbolic::")]
    named = {n.removeprefix("hyperbolic::").removesuffix("."): n for n in names}
    return {name: getattr(torch.ops.hyperbolic, name).default for name in sorted(named)}


@cache
def _levels() -> dict[str, Level]:
    """The formulas on rows and their derivatives, which know the dimensions of their arguments."""
    found: dict[str, Level] = {}

    def add(level: Level | None) -> None:
        while level is not None:
            found[level.name] = level
            level = level._derivative

    for op in functions.formulas():
        add(op.level)
    return found


def prepare(recipe: Any = None) -> None:
    """Make what the calls need."""
    functions.prepare(recipe)


def recipes() -> st.SearchStrategy[dict[str, Any]]:
    """Return the strategy that draws calls of operators."""
    return st.sampled_from(sorted(operators())).flatmap(_calls)


@st.composite
def _calls(draw: st.DrawFn, name: str) -> dict[str, Any]:
    schema = operators()[name]._schema.arguments
    level = _levels().get(name)
    dims = [level.cores[i].dims if level else _DIMS.get(a.name, ()) for i, a in enumerate(schema)]
    drawn = draw(tensors.shapes(dims))
    arguments: list[Any] = []
    for argument, shape, core in zip(schema, drawn, dims):
        kind = str(argument.type)
        if kind != "Tensor":
            arguments.append(draw(st.sampled_from(_NUMBERS.get(kind, (None,)))))
            continue
        usual = ("int64",) if argument.name == "labels" else tensors.FLOATS if core else ("float64", "float32")
        dtypes = st.sampled_from(usual * 12 + tensors.FOREIGN)
        inside = "poincare" in name and "D" in core
        arguments.append(draw(dtypes.flatmap(partial(_tensor, shape, inside))))
    return {"call": name, "arguments": arguments}


def _tensor(shape: Sequence[int], inside: bool, dtype: str) -> st.SearchStrategy[Mapping[str, Any]]:
    return tensors.tensors(shape, (dtype,), inside=inside)


def judge(recipe: Mapping[str, Any]) -> None:
    """``Fault`` where the kernel does not do what the reference does on clones."""
    name = recipe["call"]
    operator = operators()[name]
    if name.endswith("_backward") and any(map(tensors.is_countable, recipe["arguments"])):
        return  # It sums over rows that share memory: nothing is too large, and it takes days.
    given = [tensors.build(a) if tensors.is_tensor(a) else a for a in recipe["arguments"]]
    with torch.no_grad():
        got = outcome(lambda: operator(*given), ALLOWED)
        if any(map(tensors.is_huge, recipe["arguments"])):
            return
        with Reference():
            want = outcome(lambda: operator(*map(tensors.clone, given)), ALLOWED)
    if isinstance(want, Exception) and not isinstance(got, Exception):
        raise Fault(f"{name}: a result where the reference ends in {type(want).__name__}", repr(want))
    if isinstance(got, Exception) or isinstance(want, Exception):
        # A kernel may refuse more than it is ever given by the functions.
        return
    rows = all(a.numel() for a in given if isinstance(a, torch.Tensor))  # of none there are sums alone
    values = finite(given) and rows and _in_domain(name, given)
    for a, b in zip(got, want):
        compare(a, b, name, loose=True, values=values)


def _in_domain(name: str, given: Sequence[Any]) -> bool:
    """Whether curvatures and bounds are positive. Where not, singular points are 0 or NaN, as a tier has it."""
    level = _levels().get(name)
    names = level.op.names if level else [argument.name for argument in operators()[name]._schema.arguments]
    return all(bool((a > 0).all()) for a, each in zip(given, names) if each in _POSITIVE)
