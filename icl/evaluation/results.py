"""What was measured: a cell for each mode to answer a test set, kept in a file, and the rows that are made of them.

A test set is read once. A cell holds a digest of all that was chosen before it, weights and prompts; where another
choice is measured on the same test set for the same row and seed, both stay in the file, and the row says how many
were read. Choosing by the test set is thus possible, but not in silence.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeAlias

from filelock import FileLock, Timeout

from icl.common.files import read_json
from icl.evaluation.measurement import Measurement, MeasurementKey, RowKey, parsed
from icl.evaluation.metrics.intervals import mean_interval

FORMAT = 2
ZERO_SHOT, K_SHOT = "zero-shot", "k-shot"
"""Methods that are no adapters."""
# Writing takes far less, so a process that holds the lock for longer hangs.
_LOCK_SECONDS = 600
# Of the settings, the one in which rows of a table may differ.
_OWN = "training"

ResultRow: TypeAlias = dict[str, Any]


class Results:
    """The cells of a file, written after each, or of this process alone if there is none.

    Several processes may add to one file: each takes in what the others have written, and nothing is lost.
    ``ValueError`` for a file that is damaged, or of another version; it stays as it is.
    """

    def __init__(self, file: str | Path | None = None):
        self.file = None if file is None else Path(file)
        self.measurements: list[Measurement] = []
        self._state: tuple[int, ...] | None = None
        self._read()

    def find(self, key: MeasurementKey) -> Measurement | None:
        """The cell of this :attr:`Measurement.key`, if it was measured, by this process or another."""
        self._read()
        return next((cell for cell in self.measurements if cell.key == key), None)

    def add(self, cell: Measurement) -> Measurement:
        """Keep a cell as the last, in place of one with its key, and return it.

        Scores of the same answers by other metrics are kept with it.
        """
        with self._writing():
            before = self.find(cell.key)
            if before is not None and before.answers == cell.answers:
                cell = replace(cell, scores={**before.scores, **cell.scores})
            last = next((c for c in reversed(self.measurements) if c.row == cell.row), None)
            if cell != last:
                self.measurements = [c for c in self.measurements if c is not before] + [cell]
                content = {"format": FORMAT, "cells": [asdict(c) for c in self.measurements]}
                self._replace("", json.dumps(content, ensure_ascii=False) + "\n")
                self._state = self._status()
        return cell

    def check_writable(self) -> None:
        """Raise ``OSError`` or ``ValueError`` now if cells cannot be written, and not when they are measured."""
        with self._writing():
            self._read()

    def write(self, suffix: str, text: Callable[[], str]) -> None:
        """Write what is made of all cells beside them, such as results.csv, at once or not at all."""
        with self._writing():
            self._read()
            self._replace(suffix, text())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Processes take turns; the lock dies with its process."""
        if self.file is None:
            yield
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"Results: {error.filename} is a file, and a folder is to be there") from error
        try:
            with FileLock(self.file.with_name(f".{self.file.name}.lock"), timeout=_LOCK_SECONDS):
                yield
        except Timeout as error:
            raise ValueError(f"Results: another process holds {self.file} for {_LOCK_SECONDS} s") from error

    def _read(self) -> None:
        """Take in what other processes have written since."""
        state = self._status()
        if self.file is not None and state not in (None, self._state):
            cells = _load(self.file)
            keys = {cell.key for cell in cells}
            self.measurements = cells + [cell for cell in self.measurements if cell.key not in keys]
            self._state = state

    def _status(self) -> tuple[int, ...] | None:
        """What is another once the file was replaced; ``None`` without a file."""
        if self.file is None or not self.file.exists():
            return None
        status = self.file.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _replace(self, suffix: str, text: str) -> None:
        if self.file is None:
            return
        file = self.file.with_suffix(suffix) if suffix else self.file
        draft = file.with_name(file.name + ".tmp")
        try:
            # a surrogate without its other half, as JSON writes it
            with draft.open("w", encoding="utf-8", errors="backslashreplace") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            os.replace(draft, file)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise OSError(f"{file} cannot be written, and is as it was: {error}") from error

    def rows(self) -> list[ResultRow]:
        """The table: a dictionary for each model, task, method, number and choice of demonstrations, of the same keys.

        Scores are means over seeds, of which the last choice counts. Intervals, of 95 %, are for seeds (Student's)
        where there are two or more, else for examples (:attr:`MetricScore.interval`): ``interval_of`` says which.
        ``test_reads`` is how many choices were measured on the test set of a seed, at the most. Times in milliseconds
        are the ratio to zero-shot, measured in turns, times zero-shot's median in all rows of the model and task: the
        machine may have been slower when one row was measured than when another was. A row whose settings are not
        those that its model and task were last measured with is told by its note, and compared with none.
        """
        self._read()
        groups: dict[RowKey, list[Measurement]] = {}
        settings: dict[tuple[str, ...], dict[str, str]] = {}
        bases: dict[str, set[str]] = {}
        teachers: dict[tuple[Any, ...], str] = {}
        for cell in self.measurements:
            groups.setdefault(cell.row, []).append(cell)
            settings.setdefault(cell.row[:3], {}).update(cell.settings)
            bases.setdefault(cell.model, set()).add(cell.base)
            if cell.distances is not None:
                teachers[(*cell.row[:3], cell.seed)] = cell.distances.prompts
        metrics = list(dict.fromkeys(name for cell in self.measurements for name in cell.scores))
        tables: dict[tuple[str, ...], list[tuple[ResultRow, list[Measurement]]]] = {}
        for key in sorted(groups, key=lambda key: ({ZERO_SHOT: 0, K_SHOT: 1}.get(key[3], 2), key[4])):
            chosen = [_compared(cell, teachers.get((*key[:3], cell.seed))) for cell in _current(groups[key])]
            row = _summary(groups[key], chosen, metrics)
            if len(bases[row["model"]]) > 1:
                row["model"] += f" ({key[1][:6]})"  # other weights of the same name
            changed = [n for n, v in chosen[-1].settings.items() if n != _OWN and v != settings[key[:3]][n]]
            if changed:
                row["note"] = "; ".join(
                    filter(None, [row["note"], f"other {', '.join(changed)} than rows measured later"])
                )
            # what cannot be compared is a table by itself
            tables.setdefault((*key[:3], *(map(str, key) if changed else ())), []).append((row, chosen))
        first = {key[:3]: place for place, key in reversed(list(enumerate(groups)))}
        for table in tables.values():
            _add_times(table)
        ordered = sorted(tables, key=lambda key: (first[key[0], key[1], key[2]], len(key)))
        return [row for key in ordered for row, _ in tables[key]]

    def csv(self) -> str:
        """:meth:`rows`, one a line."""
        out = io.StringIO()
        rows = self.rows()
        if rows:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
        return out.getvalue()


def _current(cells: Sequence[Measurement]) -> list[Measurement]:
    """The cells that a row is a mean of: one a seed, with the settings and metrics that were measured last.

    Seeds that decide nothing, by which the same prompts were answered with the same weights, are one.
    """
    last = cells[-1]
    same = [c for c in cells if c.settings == last.settings and set(last.scores) <= set(c.scores)]
    by_seed = {cell.seed: cell for cell in same}
    return list({(cell.test, cell.choice): cell for cell in by_seed.values()}.values())


def _compared(cell: Measurement, prompts: str | None) -> Measurement:
    """The cell, without distances from another teacher than the one that was compared with last."""
    return cell if cell.distances is None or cell.distances.prompts == prompts else replace(cell, distances=None)


def _summary(cells: Sequence[Measurement], chosen: Sequence[Measurement], metrics: Sequence[str]) -> ResultRow:
    """The row of a table, but for times."""
    reads: dict[tuple[int, str], set[str]] = {}
    for cell in cells:
        reads.setdefault((cell.seed, cell.test), set()).add(cell.choice)
    last = chosen[-1]
    row: ResultRow = {name: getattr(last, name) for name in ("model", "base", "task", "method", "shots", "strategy")}
    bounded = False
    for name in metrics:
        scores = [cell.scores[name] for cell in chosen if name in cell.scores]
        if len(scores) < len(chosen):
            scores = []
        values = [score.value for score in scores]
        bounds = mean_interval(values) if len(values) > 1 else scores[0].interval if scores else None
        bounded |= bounds is not None
        row[name] = fmean(values) if values else None
        row[f"{name}_low"], row[f"{name}_high"] = bounds or (None, None)
    row["interval_of"] = ("seeds" if len(chosen) > 1 else "examples") if bounded else None
    row["seeds"], row["examples"] = len(chosen), round(fmean(len(cell.answers) for cell in chosen))
    row["parameters"] = last.parameters
    row["train_seconds"] = _mean(cell.train_seconds for cell in chosen)
    row |= dict.fromkeys(f"{kind}_{of}" for kind in ("prefill", "decode") for of in ("ms", "of_zero_shot", "of_k_shot"))
    for name in ("tokens", "prefill_flops", "decode_flops", "cache_bytes", "peak_bytes"):
        row[name] = _mean(getattr(cell.cost, name) for cell in chosen)
    for name in ("geodesic", "l2", "attention"):
        value = _mean(None if cell.distances is None else getattr(cell.distances, name) for cell in chosen)
        row["attention_kl" if name == "attention" else name] = value
    row["test_reads"] = max(map(len, reads.values()))
    row["note"] = "; ".join(dict.fromkeys(cell.note for cell in chosen if cell.note)) or None
    return row


def _add_times(table: Sequence[tuple[ResultRow, Sequence[Measurement]]]) -> None:
    """Times of rows that are compared with each other, from ratios, so that no row contradicts another."""
    costs = [cell.cost for _, cells in table for cell in cells]
    most = max((row for row, _ in table if row["method"] == K_SHOT), key=lambda row: row["shots"], default=None)
    for kind in ("prefill", "decode"):
        zero_ms = median(getattr(cost, f"zero_{kind}_ms") for cost in costs)
        for row, cells in table:
            ratio = _mean(getattr(cell.cost, f"{kind}_ratio") for cell in cells)
            row[f"{kind}_of_zero_shot"] = ratio
            row[f"{kind}_ms"] = None if ratio is None else ratio * zero_ms
        k_shot = most and most[f"{kind}_of_zero_shot"]
        for row, _ in table:
            ratio = row[f"{kind}_of_zero_shot"]
            row[f"{kind}_of_k_shot"] = ratio / k_shot if ratio and k_shot else None


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _load(file: Path) -> list[Measurement]:
    try:
        content = read_json(file)
        version = content.get("format") if isinstance(content, dict) else None
        if version == 1:
            raise ValueError("an earlier version wrote it, whose results cannot be told from stale ones")
        if version != FORMAT:
            raise ValueError(f"its format is {version}, and this version reads {FORMAT}")
        return [parsed(Measurement, cell, f"cells[{i}]") for i, cell in enumerate(content["cells"])]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"Results: {file} cannot be read: {error}. Move it away, or name another folder") from error
