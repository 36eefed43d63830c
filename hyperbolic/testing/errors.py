"""How far a tensor is from an mpmath value, in the units of ``docs/numerics.md``."""

from __future__ import annotations

from typing import Any

import mpmath
import torch
from mpmath import mpf
from torch import Tensor

from hyperbolic.testing import oracle
from hyperbolic.testing.oracle.vectors import Vector, dot, minus, norm, plus


def ulp(value: Any, dtype: torch.dtype) -> Any:
    """The unit in the last place of ``value`` in ``dtype``: the spacing of its binade."""
    info = torch.finfo(dtype)
    exponent = mpmath.frexp(value)[1] if value else -(10**6)
    smallest = mpmath.frexp(mpf(info.smallest_normal))[1]
    return mpf(info.eps) * mpf(2) ** (max(int(exponent), int(smallest)) - 1)


def ulp_error(got: Tensor, want: Any) -> float:
    """Largest error of a tensor's elements in ULP.

    ``want`` has the nesting of ``got.tolist()``; NaN is infinitely far.
    """
    if isinstance(want, list):
        return max((ulp_error(g, w) for g, w in zip(got, want)), default=0.0)
    value = got.item()
    if not torch.isfinite(got):
        return float("inf")
    return float(abs(mpf(value) - want) / ulp(want, got.dtype))


def displacement(model: str, got: Tensor, want: Vector, c: Any) -> float:
    """Hyperbolic distance from a point to where it should be, times sqrt(c)."""
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    x = oracle.exact(got)
    # By chords: acosh of 1 + tiny and the Mobius difference of close points would need more digits than the oracle has.
    difference = minus(x, want)
    if model == "poincare":
        alpha, beta = (1 - c * dot(p, p) for p in (x, want))
        if alpha <= 0:
            return float("inf")
        q = c * dot(difference, difference) / (alpha * beta)
    else:
        height = dot(difference, plus(x, want)) / (oracle.lorentz.time(x, c) + oracle.lorentz.time(want, c))
        q = c * (dot(difference, difference) - height**2) / 4
    return float(2 * mpmath.asinh(mpmath.sqrt(abs(q))))


def tangent_norm(model: str, x: Vector, v: Vector, c: Any) -> Any:
    """Return the exact Riemannian norm of the tangent ``v`` at ``x``."""
    return oracle.poincare.norm_at(x, v, c) if model == "poincare" else oracle.lorentz.norm_at(x, v, c)


def covector_norm(model: str, x: Vector, g: Vector, c: Any) -> Any:
    """The dual norm, in which the gradient of a distance has norm 1."""
    if model == "poincare":
        return norm(g) / oracle.poincare.conformal_factor(x, c)
    return mpmath.sqrt(dot(g, g) + c * dot(x, g) ** 2)


def tangent_error(model: str, x: Vector, got: Tensor, want: Vector, c: Any) -> float:
    """Riemannian norm of the error relative to the vector's own, in eps, beyond what rounding alone must cost.

    At radius r a stored tangent cannot be better than ``eps cosh(r)/2`` where its coordinates are that large: that
    half ULP a coordinate is subtracted, so a correctly rounded vector has error 0.
    """
    error, half = _error(got, want)
    # The metric shrinks the radial part and nothing else, so |e| bounds what rounding costs.
    factor = oracle.poincare.conformal_factor(x, c) if model == "poincare" else 1
    return _excess(got, tangent_norm(model, x, error, c), factor * norm(half), tangent_norm(model, x, want, c))


def covector_error(model: str, x: Vector, got: Tensor, want: Vector, c: Any) -> float:
    """:func:`tangent_error` for gradients, in the dual norm, which stretches the radial part by cosh(r)."""
    error, half = _error(got, want)
    if model == "poincare":
        floor = norm(half) / oracle.poincare.conformal_factor(x, c)
    else:
        radial = mpmath.fsum(abs(a) * h for a, h in zip(x, half))
        floor = mpmath.sqrt(dot(half, half) + c * radial**2)
    return _excess(got, covector_norm(model, x, error, c), floor, covector_norm(model, x, want, c))


def _error(got: Tensor, want: Vector) -> tuple[Vector, Vector]:
    if not bool(torch.isfinite(got).all()):
        return [mpf("inf")] * len(want), [mpf(0)] * len(want)
    return minus(oracle.exact(got), want), [ulp(w, got.dtype) / 2 for w in want]


def _excess(got: Tensor, error: Any, floor: Any, size: Any) -> float:
    if not mpmath.isfinite(error):
        return float("inf")
    excess = max(mpf(0), error - floor)
    if not excess:
        return 0.0
    return float(excess / (torch.finfo(got.dtype).eps * size)) if size else float("inf")
