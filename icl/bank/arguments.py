"""Checks of arguments from outside: each returns the value as the bank uses it, or raises an error that names it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icl.bank.schema import BankError


def whole_number(name: str, value: Any, least: int) -> int:
    """Return a whole number that is at least ``least``. ``BankError`` for others, floats and booleans.

    >>> whole_number("k", 3, 1)
    3
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise BankError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise BankError(f"{name} must be at least {least}, got {value}")
    return int(value)


def finite_number(name: str, value: Any, positive: bool = False) -> float:
    """Return a finite number as a float, above 0 where it must be ``positive``. ``BankError`` for others."""
    try:
        number = math.nan if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or (positive and number <= 0):
        raise BankError(f"{name} must be a {'positive ' if positive else ''}finite number, got {value!r}")
    return number


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
        domain = f"from 0 to {count - 1}" if count else "none, because the bank is empty"
        raise BankError(f"rows must be {domain}, got {least} to {most}")
    return numbers.long()


def query_points(query: Any, dim: int) -> Tensor:
    """Return query points (N, dim) in float32 on the CPU. ``BankError`` for another shape, NaN, infinities."""
    if not isinstance(query, Tensor) or query.is_complex() or query.dtype == torch.bool:
        got = query.dtype if isinstance(query, Tensor) else type(query).__name__
        raise BankError(f"search: query must be a tensor of points, got {got}")
    if query.dim() != 2 or query.shape[1] != dim:
        raise BankError(f"search: query must have shape (N, {dim}), got {tuple(query.shape)}")
    points = query.detach().to("cpu", torch.float32)
    if len(infinite := (~points.isfinite().all(1)).nonzero()):
        raise BankError(f"search: query must be finite in float32, and row {infinite[0].item()} is not")
    return points
