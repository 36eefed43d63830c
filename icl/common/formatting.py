"""Values as text that people read."""

from __future__ import annotations

from typing import Any


def format_fact(value: Any) -> str:
    """Return a fact as one line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_fact(v)}" for key, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(format_fact, value))
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
