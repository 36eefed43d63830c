"""The error contract of ``docs/numerics.md`` as data: how a result is judged and what it is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath
import torch
from mpmath import mpf
from torch import Tensor

from hyperbolic.testing.catalogue import Case
from hyperbolic.testing.errors import displacement, tangent_error, tangent_norm, ulp_error
from hyperbolic.testing.oracle.vectors import Vector, minus, norm

_DEFAULT = {"scalar": (1, 1), "angle": (2, 4), "signed": (2, 2), "vector": (2, 2), "rotated": (2, 2)}
_DEFAULT |= {"point": (4, 4), "tangent": (2, 2)}
_OWN = {
    "lorentz.dist": (1, 5),
    "poincare.dist": (1, 4),
    "dist0": (1, 3),
    "logmap0": (1, 3),
    "dist_exp0": (4, 4),
}
GRADIENT_OF_DIST = 2.0
"""Bound, in eps of the dual Riemannian norm, up to the radii below."""
GRADIENT_RADIUS = {torch.float32: 20.0, torch.float64: 36.0}
TANGENT_RADIUS = {torch.float32: 20.0, torch.float64: 40.0}


def bound(case: Case, dtype: torch.dtype) -> float:
    """The largest allowed :func:`error` of a float32 or float64 result."""
    pair = _OWN.get(str(case)) or _OWN.get(case.name) or _DEFAULT[case.result]
    return pair[dtype == torch.float64]


def max_radius(case: Case, dtype: torch.dtype) -> float | None:
    """How far out the contract of a function reaches where that is less than its model's domain."""
    tangent = case.result == "tangent" or case.name == "norm"
    return TANGENT_RADIUS[dtype] if tangent and case.model == "lorentz" else None


def error(case: Case, args: Sequence[Any], got: Tensor, want: Any, c: Any) -> float:
    """How far ``got`` is from ``want``, in the unit in which :func:`bound` is given.

    Scalars and vectors: ULP. Signed scalars: eps of ``max(1, |want|)``. Angles: ULP, beyond an absolute 1e-30.
    Rotated vectors: eps of the norm. Tangents: Riemannian eps. Points: displacement in ``eps (1 + r + n + sinh
    r_out)``, or ULP in the Klein ball.
    """
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    eps = torch.finfo(got.dtype).eps
    if case.result in ("scalar", "vector") or case.result_model == "klein":
        return ulp_error(got, want)
    if case.result == "angle":
        return ulp_error(got, want) if abs(mpf(got.item()) - want) > mpf(10) ** -30 else 0.0
    if case.result == "signed":
        return float(abs(mpf(got.item()) - want) / (eps * max(mpf(1), abs(want))))
    if case.result == "rotated":
        size = norm(want)
        return float(norm(minus([mpf(g) for g in got.tolist()], want)) / (eps * size)) if size else 0.0
    if case.result == "tangent":
        return tangent_error(case.model, args[case.at], got, want, c)
    out = radius(case.result_model, want, c)
    return displacement(case.result_model, got, want, c) / (eps * (1 + _reach(case, args, c) + float(mpmath.sinh(out))))


def radius(model: str, x: Vector, c: Any) -> float:
    """``sqrt(c)`` times the distance of a point to the origin."""
    n = mpmath.sqrt(c) * norm(x)
    if model == "lorentz":
        return float(mpmath.asinh(n))
    return float(mpmath.atanh(n) * (2 if model == "poincare" else 1))


def _reach(case: Case, args: Sequence[Any], c: Any) -> float:
    """The sum of the radii of the points and of the lengths of the tangents among the arguments."""
    total = 0.0
    for kind, a in zip(case.arguments, args):
        if kind == "point":
            total += radius(case.model, a, c)
        elif kind == "points":
            total += max(radius(case.model, p, c) for p in a)
        elif kind == "tangent":
            total += float(mpmath.sqrt(c) * tangent_norm(case.model, args[0], a, c))
    return total
