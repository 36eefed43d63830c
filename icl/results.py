"""What was measured: a cell for each way to answer a test set, kept in a file, and the table that is made of them.

A test set is read once. A cell holds a digest of all that was chosen before it, weights and prompts; where another
choice is measured on the same test set for the same row and seed, both stay in the file, and the table says how many
were read. Choosing by the test set is thus possible, but not in silence.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table
from rich.text import Text

from icl.cost import Cost
from icl.intervals import interval, wilson

FORMAT = 1

Row = dict[str, Any]
Columns = dict[str, Callable[[Row], str]]


@dataclass(frozen=True)
class Score:
    """Of a metric on a test set."""

    value: float
    rows: tuple[float, ...] | None
    """By example, where ``value`` is their mean."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of 95 %, for the examples: Wilson's of answers that are right or wrong, else Student's."""
        if self.rows is None or len(self.rows) < 2:
            return None
        if set(self.rows) <= {0.0, 1.0}:
            return wilson(int(sum(self.rows)), len(self.rows))
        return interval(self.rows)


@dataclass(frozen=True)
class Distances:
    """Between a student and its teacher at the tokens of query and answer, averaged over tokens and layers.

    ``geodesic`` and ``l2`` are roots of mean squares, of decoder-layer outputs at the scale "unit" of
    :class:`icl.losses.StateLoss`, ``attention`` the Kullback-Leibler divergence of the attention among these tokens.
    """

    geodesic: float
    l2: float
    attention: float


@dataclass(frozen=True)
class Cell:
    """One way to answer one test set."""

    task: str
    method: str
    shots: int
    strategy: str | None
    """How demonstrations are chosen, if there are any."""
    seed: int
    test: str
    """Digest of the test set."""
    choice: str
    """Digest of all that could have been chosen otherwise."""
    ids: tuple[str, ...]
    answers: tuple[str, ...]
    scores: Mapping[str, Score]
    parameters: int
    train_seconds: float | None
    note: str | None
    """What the reader of a table has to know, such as that no dev set chose the epoch."""
    cost: Cost
    distances: Distances | None

    @property
    def row(self) -> tuple[str, str, int, str | None]:
        return self.task, self.method, self.shots, self.strategy


class Results:
    """The cells of a file, written after each, or of this process alone if there is none.

    ``ValueError`` for a file that is none of this version.
    """

    def __init__(self, file: str | Path | None = None):
        self.file = None if file is None else Path(file)
        self.cells: list[Cell] = []
        if self.file is not None and self.file.exists():
            try:
                found = json.loads(self.file.read_text(encoding="utf-8"))
                if found.get("format") != FORMAT:
                    raise ValueError(f"its format is {found.get('format')}, and this version reads {FORMAT}")
                self.cells = [_cell(values) for values in found["cells"]]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"Results: {self.file} cannot be read: {error}") from error

    def find(self, row: tuple[str, str, int, str | None], seed: int, test: str, choice: str) -> Cell | None:
        """The cell of just this, if it is finished."""
        wanted = (row, seed, test, choice)
        return next((c for c in self.cells if (c.row, c.seed, c.test, c.choice) == wanted), None)

    def add(self, cell: Cell) -> None:
        """In place of one that :meth:`find` finds, if there is one."""
        found = self.find(cell.row, cell.seed, cell.test, cell.choice)
        self.cells = [c for c in self.cells if c is not found] + [cell]
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            draft = self.file.with_name(self.file.name + ".tmp")
            content = {"format": FORMAT, "cells": [asdict(c) for c in self.cells]}
            draft.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(draft, self.file)

    def rows(self) -> list[Row]:
        """The table: a dictionary for each task, method, number and choice of demonstrations, with the same keys.

        Scores are means over seeds, of which the last choice counts. Intervals, of 95 %, are for seeds (Student's)
        where there are two or more, else for examples (:attr:`Score.interval`): ``interval_of`` says which.
        ``test_reads`` is how many choices were measured on the test set of a seed, at the most.
        """
        groups: dict[Any, list[Cell]] = {}
        for cell in self.cells:
            groups.setdefault(cell.row, []).append(cell)
        metrics = list(dict.fromkeys(name for cell in self.cells for name in cell.scores))
        rows = [_summary(cells, metrics) for cells in groups.values()]
        for row in rows:
            shown = [r for r in rows if r["task"] == row["task"] and r["method"] == SHOTS]
            most = max(shown, key=lambda r: r["shots"], default=None)
            for name in ("prefill", "decode"):
                theirs = most and most[f"{name}_of_zero_shot"]
                row[f"{name}_of_k_shot"] = row[f"{name}_of_zero_shot"] / theirs if theirs else None
        return rows

    def csv(self) -> str:
        """:meth:`rows`, one a line."""
        out = io.StringIO()
        rows = self.rows()
        if rows:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
        return out.getvalue()

    def markdown(self) -> str:
        """Two tables: what answers are worth, and what they cost."""
        tables = []
        for header, *lines in self._written():
            written = (header, ["---"] * len(header), *lines)
            tables.append("".join("| " + " | ".join(line) + " |\n" for line in written))
        return "\n".join(tables)

    def tables(self) -> list[Table]:
        """The same, for a terminal."""
        tables = []
        for header, *lines in self._written():
            table = Table(*header)
            for line in lines:
                table.add_row(*map(Text, line))
            tables.append(table)
        return tables

    def _written(self) -> list[list[list[str]]]:
        """Header and lines of both: the columns that say something, and no more digits than mean something."""
        rows = self.rows()
        metrics = [key for key in (rows[0] if rows else ()) if f"{key}_low" in rows[0]]
        own: Columns = {
            "task": lambda r: r["task"],
            "method": lambda r: r["method"],
            "shots": lambda r: f"{r['shots']} {r['strategy'] or ''}".strip(),
        }
        worth: Columns = {name: partial(_bounded, name) for name in metrics} | {
            "interval of": lambda r: r["interval_of"] or "",
            "seeds": lambda r: str(r["seeds"]),
            "n": lambda r: str(r["examples"]),
            "geodesic": lambda r: _short(r["geodesic"]),
            "l2": lambda r: _short(r["l2"]),
            "attention KL": lambda r: _short(r["attention_kl"]),
            "test read": lambda r: "once" if r["test_reads"] == 1 else f"for {r['test_reads']} choices",
            "note": lambda r: r["note"] or "",
        }
        paid: Columns = {
            "parameters": lambda r: f"{r['parameters']:,}" if r["parameters"] else "",
            "training s": lambda r: _short(r["train_seconds"]),
            "tokens": lambda r: _short(r["tokens"]),
        }
        for name in ("prefill", "decode"):
            paid |= {
                f"{name} ms": partial(_number, f"{name}_ms"),
                f"{name}/zero-shot": partial(_number, f"{name}_of_zero_shot"),
                f"{name}/k-shot": partial(_number, f"{name}_of_k_shot"),
            }
        paid |= {
            "GFLOP": lambda r: _short(r["prefill_flops"] / 1e9),
            "cache MB": lambda r: _short(r["cache_bytes"] / 1e6),
            "peak MB": lambda r: _short(r["peak_bytes"] and r["peak_bytes"] / 1e6),
        }
        tables = []
        for columns in (own | worth, own | paid):
            cells = {name: [write(row) for row in rows] for name, write in columns.items()}
            kept = [name for name, column in cells.items() if any(column)]
            lines = [[cells[name][i] for name in kept] for i in range(len(rows))]
            tables.append([kept, *lines])
        return tables


ZERO, SHOTS = "zero-shot", "k-shot"
"""Methods that are no adapters."""


def _summary(cells: Sequence[Cell], metrics: Sequence[str]) -> Row:
    """The row of a table."""
    last = {cell.seed: cell for cell in cells}
    reads: dict[tuple[int, str], set[str]] = {}
    for cell in cells:
        reads.setdefault((cell.seed, cell.test), set()).add(cell.choice)
    chosen = list(last.values())
    first = chosen[0]
    row: Row = dict(zip(("task", "method", "shots", "strategy"), first.row))
    bounded = False
    for name in metrics:
        scores = [cell.scores[name] for cell in chosen if name in cell.scores]
        values = [score.value for score in scores]
        bounds = interval(values) if len(values) > 1 else scores[0].interval if scores else None
        bounded |= bounds is not None
        row[name] = fmean(values) if values else None
        row[f"{name}_low"], row[f"{name}_high"] = bounds or (None, None)
    row["interval_of"] = ("seeds" if len(chosen) > 1 else "examples") if bounded else None
    row["seeds"], row["examples"] = len(chosen), round(fmean(len(cell.answers) for cell in chosen))
    row["parameters"] = first.parameters
    row["train_seconds"] = _mean(cell.train_seconds for cell in chosen)
    for field in fields(Cost):
        name = field.name.replace("ratio", "of_zero_shot")
        row[name] = _mean(getattr(cell.cost, field.name) for cell in chosen)
    for name in ("geodesic", "l2", "attention"):
        found = _mean(None if cell.distances is None else getattr(cell.distances, name) for cell in chosen)
        row["attention_kl" if name == "attention" else name] = found
    row["test_reads"] = max(map(len, reads.values()))
    row["note"] = "; ".join(dict.fromkeys(cell.note for cell in chosen if cell.note)) or None
    return row


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _bounded(name: str, row: Row) -> str:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if value is None:
        return ""
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _number(name: str, row: Row) -> str:
    return _short(row[name])


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _cell(values: dict[str, Any]) -> Cell:
    scores = {
        name: Score(score["value"], None if score["rows"] is None else tuple(score["rows"]))
        for name, score in values["scores"].items()
    }
    distances = values["distances"] and Distances(**values["distances"])
    read = {"ids": tuple(values["ids"]), "answers": tuple(values["answers"]), "cost": Cost(**values["cost"])}
    return Cell(**{**values, **read, "scores": scores, "distances": distances})
