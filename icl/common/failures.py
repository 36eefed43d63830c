"""Rows of data that cannot be used: one class for all that read rows, whether they go on without them or stop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RowFailure:
    """A row that cannot be used: its number, what it is called, and the reason."""

    row: int
    what: str
    reason: str
