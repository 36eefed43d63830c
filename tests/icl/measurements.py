"""Invented measurements, and their tables as text."""

import io
from typing import Any

from rich.console import Console

from icl.evaluation.measurement import Cost, Measurement
from icl.evaluation.metrics.scoring import MetricScore
from icl.evaluation.result_tables import parse_columns, terminal_tables


def make_measurement(method: str, seed: int, *right: float, **more: Any) -> Measurement:
    """Return the measurement of examples that are right or wrong, with the prefill as a multiple of zero-shot's."""
    zero = more.pop("zero_ms", 2.0)
    cost = Cost(10, more.pop("prefill", 1.0) * zero, 1.0, zero, 1.0, 4_000_000, 1000, 2000, None)
    values: dict[str, Any] = {
        "model": "m", "base": "b", "task": "task", "settings": {},
        "shots": 0, "strategy": None, "test": "t", "choice": f"{method} {seed}", "ids": ("x",) * len(right),
        "parameters": 0, "train_seconds": None, "note": None, "cost": cost, "distances": None,
    }  # fmt: skip
    scores = {"exact": MetricScore(sum(right) / len(right), right)}
    values = {**values, "method": method, "seed": seed, "answers": ("",) * len(right), "scores": scores, **more}
    return Measurement(**values)


def print_tables(rows: Any, width: int, columns: str = "") -> str:
    """Return what a terminal of this width shows."""
    console = Console(width=width, file=io.StringIO())
    console.print(terminal_tables(rows, width, parse_columns(columns) if columns else ()))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]
