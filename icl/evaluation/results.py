"""The file of what was measured, which several processes may add to.

A test set is read once. A measurement holds a digest of all that was decided before it, weights and prompts; where
another choice is measured on the same test set for the same row and seed, both stay in the file, and the row says how
many were read. Choosing by the test set is thus possible, but not in silence. Rows are made in ``result_rows``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from icl.common.files import locked, read_json, same_format, write_json, write_text
from icl.evaluation.measurement import Measurement, MeasurementKey
from icl.evaluation.result_rows import ResultRow, csv_table, result_rows

FORMAT = 2
# Writing takes far less, so a process that holds the lock for longer hangs.
_LOCK_SECONDS = 600


class Results:
    """The measurements of a file, written after each, or of this process alone if there is none.

    Several processes may add to one file: each takes in what the others have written, and nothing is lost.
    ``ValueError`` for a file that is damaged, or of another version; it stays as it is.
    """

    def __init__(self, file: str | Path | None = None):
        self.file = None if file is None else Path(file)
        self.measurements: list[Measurement] = []
        self._state: tuple[int, ...] | None = None
        self._read()

    def find(self, key: MeasurementKey) -> Measurement | None:
        """Return the measurement of this key, by this process or another, or ``None``."""
        self._read()
        return next((measurement for measurement in self.measurements if measurement.key == key), None)

    def add(self, measurement: Measurement) -> Measurement:
        """Keep a measurement as the last, in place of one with its key, and return it.

        Scores of the same answers by other metrics are kept with it.
        """
        with self._locked():
            before = self.find(measurement.key)
            if before is not None and before.answers == measurement.answers:
                measurement = replace(measurement, scores={**before.scores, **measurement.scores})
            last = next((m for m in reversed(self.measurements) if m.row == measurement.row), None)
            if measurement != last:
                self.measurements = [m for m in self.measurements if m is not before] + [measurement]
                if self.file is not None:
                    content = {"format": FORMAT, "cells": [asdict(m) for m in self.measurements]}
                    write_json(self.file, content, indent=None)
                self._state = self._file_state()
        return measurement

    def check_writable(self) -> None:
        """Raise ``OSError`` or ``ValueError`` now if the file cannot be written, and not when something is measured."""
        with self._locked():
            self._read()

    def write(self, suffix: str, text: Callable[[], str]) -> None:
        """Write what is made of all measurements beside them, such as results.csv, as a whole or not at all."""
        with self._locked():
            self._read()
            if self.file is not None:
                write_text(self.file.with_suffix(suffix), text())

    def rows(self) -> list[ResultRow]:
        """Return the table of all measurements (:func:`icl.evaluation.result_rows.result_rows`)."""
        self._read()
        return result_rows(self.measurements)

    def csv(self) -> str:
        """Return :meth:`rows` as CSV, one a line."""
        return csv_table(self.rows())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self.file is None:
            yield
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"Results: {error.filename} is a file, and a folder is to be there") from error
        busy = ValueError(f"Results: another process holds {self.file} for {_LOCK_SECONDS} s")
        with locked(self.file.with_name(f".{self.file.name}.lock"), _LOCK_SECONDS, busy):
            yield

    def _read(self) -> None:
        """Take in what other processes have written since."""
        state = self._file_state()
        if self.file is not None and state not in (None, self._state):
            measurements = _load_measurements(self.file)
            keys = {measurement.key for measurement in measurements}
            self.measurements = measurements + [m for m in self.measurements if m.key not in keys]
            self._state = state

    def _file_state(self) -> tuple[int, ...] | None:
        """Return what changes once the file is replaced; ``None`` without a file."""
        if self.file is None or not self.file.exists():
            return None
        status = self.file.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size


def _load_measurements(file: Path) -> list[Measurement]:
    reason: object
    try:
        content = read_json(file)
        version = content.get("format") if isinstance(content, dict) else None
        if version == 1:
            raise ValueError("an earlier version wrote it, whose results cannot be told from stale ones")
        if not same_format(version, FORMAT):
            raise ValueError(f"its format is {version}, and this version reads {FORMAT}")
        return TypeAdapter(list[Measurement]).validate_python(content["cells"])
    except ValidationError as error:
        fault = error.errors()[0]
        reason = f"{'.'.join(map(str, ('cells', *fault['loc'])))}: {fault['msg']}"
        cause: Exception = error
    except (ValueError, KeyError) as error:
        reason = cause = error
    raise ValueError(f"Results: {file} cannot be read: {reason}. Move it away, or name another folder") from cause
