"""Checks of numbers that come from outside, with errors that name the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icl.bank.schema import BankError


def whole(name: str, value: Any, least: int) -> int:
    """Return a whole number that is at least ``least``. ``BankError`` for others, floats and booleans.

    >>> whole("k", 3, 1)
    3
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise BankError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise BankError(f"{name} must be at least {least}, got {value}")
    return int(value)


def finite(name: str, value: Any) -> float:
    """Return a finite number as a float. ``BankError`` for others."""
    if not math.isfinite(number := _number(value)):
        raise BankError(f"{name} must be a finite number, got {value!r}")
    return number


def positive(name: str, value: Any) -> float:
    """Return a positive finite number as a float. ``BankError`` for others."""
    if not 0 < (number := _number(value)) < math.inf:
        raise BankError(f"{name} must be a positive finite number, got {value!r}")
    return number


def _number(value: Any) -> float:
    """Return a float, NaN for what is no number."""
    try:
        return math.nan if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def row_numbers(rows: Tensor | Sequence[int], count: int) -> Tensor:
    """Return numbers of the ``count`` rows of a bank as int64. ``BankError`` for others, also negative ones.

    >>> row_numbers([2, 0], 3)
    tensor([2, 0])
    """
    try:
        numbers = torch.as_tensor(rows if isinstance(rows, Tensor | np.ndarray) else list(rows))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BankError(f"rows must be row numbers, got {rows!r}") from error
    if not numbers.numel():
        return numbers.long()
    if numbers.dtype == torch.bool or numbers.is_floating_point() or numbers.is_complex():
        raise BankError(f"rows must be row numbers, got {numbers.dtype}")
    least, most = int(numbers.min()), int(numbers.max())
    if least < 0 or most >= count:
        some = f"from 0 to {count - 1}" if count else "none, because the bank is empty"
        raise BankError(f"rows must be {some}, got {least} to {most}")
    return numbers.long()


def finite_points(query: Any, dim: int) -> Tensor:
    """Return query points (N, dim) in float32 on the CPU. ``BankError`` for another shape, NaN, infinities."""
    if not isinstance(query, Tensor) or query.is_complex() or query.dtype == torch.bool:
        got = query.dtype if isinstance(query, Tensor) else type(query).__name__
        raise BankError(f"search: query must be a tensor of points, got {got}")
    if query.dim() != 2 or query.shape[1] != dim:
        raise BankError(f"search: query must have shape (N, {dim}), got {tuple(query.shape)}")
    points = query.detach().to("cpu", torch.float32)
    bad = (~points.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise BankError(f"search: query must be finite in float32, and row {bad[0]} is not")
    return points
