"""The row-wise functions of the library: which there are, and arguments for them."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from harness import points
from hyperbolic import lorentz, poincare

MODULES: dict[str, ModuleType] = {"lorentz": lorentz, "poincare": poincare}
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "expmap0": ("tangent0",),
    "logmap0": ("point",),
    "dist0": ("point",),
    "expmap": ("point", "tangent"),
    "logmap": ("point", "point"),
    "dist": ("point", "point"),
    "dist_exp0": ("tangent0", "tangent0"),
    "mobius_add": ("point", "point"),
}
ONE_INPUT = tuple(name for name, kinds in ARGUMENTS.items() if len(kinds) == 1)
TWO_INPUTS = tuple(name for name in ARGUMENTS if name not in ONE_INPUT)
# These return a vector a row, the others a number.
VECTORS = ("expmap0", "logmap0", "expmap", "logmap", "mobius_add")


def functions(model: str) -> list[str]:
    """Return the functions of a model that are timed."""
    return [name for name in ARGUMENTS if hasattr(MODULES[model], name)]


def inputs(model: str, name: str, n: int, dim: int, backward: bool) -> list[Tensor]:
    """Return the arguments of one measurement."""
    arguments: list[Tensor] = []
    for seed, kind in enumerate(ARGUMENTS[name], 1):
        if kind == "tangent":
            arguments.append(points.tangents(model, seed, arguments[0]))
        else:
            make = points.spread if kind == "point" else points.tangents0
            arguments.append(make(model, seed, n, dim))
    if backward:
        arguments.append(points.normal(9, n, dim) if name in VECTORS else points.normal(9, n))
    return arguments
