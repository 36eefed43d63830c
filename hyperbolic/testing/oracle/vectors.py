"""Vectors as lists of mpmath numbers, and derivatives by differences at high precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath
from mpmath import mp, mpf
from torch import Tensor

Vector = list[Any]

DPS = 180
"""Decimal digits that the oracles work with. Enough for textbook formulas, which cancel, up to radius 60."""


def exact(x: Tensor | float | Sequence[Any]) -> Any:
    """A tensor, number or nested list as mpmath numbers, without rounding."""
    if isinstance(x, Tensor):
        x = x.tolist()
    if isinstance(x, (list, tuple)):
        return [exact(e) for e in x]
    return mpf(x)


def dot(x: Vector, y: Vector) -> Any:
    """Return the inner product."""
    return mpmath.fdot(x, y)


def norm(x: Vector) -> Any:
    """Return the Euclidean norm."""
    return mpmath.sqrt(dot(x, x))


def scaled(k: Any, x: Vector) -> Vector:
    """Return ``k`` times ``x``."""
    return [k * e for e in x]


def plus(x: Vector, y: Vector) -> Vector:
    """Return the sum."""
    return [a + b for a, b in zip(x, y)]


def minus(x: Vector, y: Vector) -> Vector:
    """Return the difference."""
    return [a - b for a, b in zip(x, y)]


def sinhc(t: Any) -> Any:
    """Return ``sinh(t)/t``, 1 at 0."""
    return mpmath.sinh(t) / t if t else mpf(1)


def _inner(out: Any, cotangent: Any) -> Any:
    return dot(out, cotangent) if isinstance(out, list) else out * cotangent


def vjp(f: Callable[..., Any], args: Sequence[Any], cotangent: Any) -> list[Any]:
    """The gradient of ``cotangent . f(*args)`` in every argument, by central differences.

    A step of 10^(-DPS/3) leaves an error of 10^(-2 DPS/3) times the third derivative: far below what any format
    resolves.
    """
    step = mpf(10) ** (-(mp.dps // 3))

    def slope(i: int, path: tuple[int, ...], value: Any) -> Any:
        if isinstance(value, list):
            return [slope(i, (*path, j), v) for j, v in enumerate(value)]

        def moved(h: Any) -> Any:
            return _inner(f(*args[:i], _replace(args[i], path, value + h), *args[i + 1 :]), cotangent)

        return (moved(step) - moved(-step)) / (2 * step)

    return [slope(i, (), a) for i, a in enumerate(args)]


def _replace(value: Any, path: tuple[int, ...], new: Any) -> Any:
    if not path:
        return new
    return [_replace(v, path[1:], new) if j == path[0] else v for j, v in enumerate(value)]
