"""Every public function with its oracle and the kinds of its arguments: what a test iterates over.

Another library is tested by giving ``Case`` its own functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hyperbolic import lorentz, models, poincare
from hyperbolic.testing import oracle


@dataclass(frozen=True)
class Case:
    """``function(*args, c=c)`` and what it should return.

    ``arguments`` are kinds: "point"; "tangent" at the first point; "tangent0" at the origin; "covector";
    "direction"; "scale"; "fraction"; "min_radius"; "points" (K, D) with "weights" (K,); "matrix" (D, D).
    ``result`` is "scalar", "angle", "point", "tangent" at the argument with index ``at``, or "vector" where
    each coordinate is judged.
    """

    model: str
    name: str
    function: Callable[..., Tensor]
    oracle: Callable[..., Any]
    arguments: tuple[str, ...]
    result: str
    at: int = 0
    result_model: str = ""

    def __str__(self) -> str:
        return f"{self.model}.{self.name}"


_SHARED: list[tuple[str, tuple[str, ...], str, int]] = [
    ("expmap0", ("tangent0",), "vector", 0),
    ("logmap0", ("point",), "vector", 0),
    ("expmap", ("point", "tangent"), "point", 0),
    ("logmap", ("point", "point"), "tangent", 0),
    ("dist", ("point", "point"), "scalar", 0),
    ("dist0", ("point",), "scalar", 0),
    ("dist_exp0", ("tangent0", "tangent0"), "scalar", 0),
    ("transport", ("point", "point", "tangent"), "tangent", 1),
    ("transport0", ("point", "tangent0"), "tangent", 0),
    ("geodesic", ("point", "point", "fraction"), "point", 0),
    ("midpoint", ("point", "point"), "point", 0),
    ("centroid", ("points", "weights"), "point", 0),
    ("norm", ("point", "tangent"), "scalar", 0),
    ("egrad2rgrad", ("point", "covector"), "tangent", 0),
    ("half_aperture", ("point", "min_radius"), "angle", 0),
    ("exterior_angle", ("point", "point"), "angle", 0),
    ("busemann", ("point", "direction"), "signed", 0),
    ("log_prob", ("point", "point", "scale"), "signed", 0),
]
_LORENTZ: list[tuple[str, tuple[str, ...], str, int]] = [
    ("time", ("point",), "scalar", 0),
    ("inner", ("point", "point"), "scalar", 0),
    ("to_ambient", ("point",), "vector", 0),
    ("boost", ("point", "point"), "point", 0),
]
_POINCARE: list[tuple[str, tuple[str, ...], str, int]] = [
    ("mobius_add", ("point", "point"), "point", 0),
    ("mobius_scalar_mul", ("fraction", "point"), "point", 0),
    ("mobius_matvec", ("matrix", "point"), "point", 0),
    ("gyration", ("point", "point", "tangent0"), "rotated", 0),
    ("conformal_factor", ("point",), "scalar", 0),
]
_MODELS = [
    ("lorentz", "poincare"),
    ("poincare", "lorentz"),
    ("lorentz", "klein"),
    ("klein", "lorentz"),
    ("poincare", "klein"),
    ("klein", "poincare"),
]
_ORACLE_NAMES = {"norm": "norm_at", "log_prob": "wrapped_normal_log_prob"}


def _log_prob(module: Any) -> Callable[..., Tensor]:
    return lambda x, mean, scale, c=1.0: module.wrapped_normal(mean, scale, c=c).log_prob(x)


def _half_aperture(module: Any) -> Callable[..., Any]:
    return lambda x, min_radius, c: module.half_aperture(x, c, min_radius)


def _cases() -> list[Case]:
    cases = []
    for model, module, reference, own in (
        ("lorentz", lorentz, oracle.lorentz, _LORENTZ),
        ("poincare", poincare, oracle.poincare, _POINCARE),
    ):
        for name, arguments, result, at in _SHARED + own:
            function = _log_prob(module) if name == "log_prob" else getattr(module, name)
            expected = (
                _half_aperture(reference)
                if name == "half_aperture"
                else getattr(reference, _ORACLE_NAMES.get(name, name))
            )
            cases.append(Case(model, name, function, expected, arguments, result, at, model))
    for source, target in _MODELS:
        name = f"{source}_to_{target}"
        cases.append(
            Case(source, name, getattr(models, name), getattr(oracle.models, name), ("point",), "point", 0, target)
        )
    return cases


CASES = _cases()
