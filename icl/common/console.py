"""The output of the command line: results on stdout; notes, progress and errors on stderr.

:class:`ErrorLineGroup` is where expected errors end, :class:`FailureLog` counts rows that could not be used, and
:class:`ProgressBar` shows how far a command is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from icl.common.formatting import format_fact

if TYPE_CHECKING:
    from icl.common.failures import RowFailure

OUT, ERR = Console(), Console(stderr=True)
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_LISTED = 5
# What torch's errors say in the message alone where the memory is the CPU's.
_OUT_OF_MEMORY = "out of memory", "can't allocate memory", "not enough memory", "storage size calculation overflowed"


class ErrorLineGroup(TyperGroup):
    """The one place where expected errors end: in a line on stderr and exit code 1; wrong usage has 2, and Ctrl-C 130.

    Expected is what the user can put right: what the packages refuse (``ValueError``), files and networks
    (``OSError``), packages that are missing, and too little memory. Other errors are faults of ours, and show where.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command, with what the packages log and warn of as lines on stderr."""
        log = logging.getLogger("icl")
        log.setLevel(logging.INFO)
        log.addHandler(handler := _LineHandler())
        try:
            with interruptible(), warnings.catch_warnings():
                warnings.showwarning = lambda message, *where, **more: say(_join_lines(message), "yellow")
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # who read stdout has had enough, which typer knows how to end
        except (ValueError, OSError, ImportError) as error:
            say(_join_lines(error), "red")
            raise typer.Exit(1) from error
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not any(words in str(error) for words in _OUT_OF_MEMORY):
                raise
            say(f"there is not enough memory: {_join_lines(error)}", "red")
            raise typer.Exit(1) from error
        finally:
            log.removeHandler(handler)


class _LineHandler(logging.Handler):
    """Print the packages' own log (:mod:`icl.common.hub` asking the network) on stderr as it comes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        say(record.getMessage())


def _join_lines(message: object) -> str:
    return " ".join(str(message).split()) or type(message).__name__


def say(message: str, style: str = "") -> None:
    """Print a message on stderr as it is, in one line: there is no markup in what comes from data."""
    ERR.print(Text(message, style), soft_wrap=True)


def print_json(value: Any, indent: int | None = 2) -> None:
    """Print a value as JSON on stdout, what JSON has no type for as text."""
    print(json.dumps(value, indent=indent, ensure_ascii=False, default=str))


def print_result(value: Any, text: str, as_json: bool) -> None:
    """Print a result on stdout: the value as JSON, or what a reader is told of it."""
    if as_json:
        print_json(value)
    else:
        print(text)


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print facts on stdout by name: as JSON, or as a table of names and format_fact values."""
    if as_json:
        return print_json(facts)
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name, Text(format_fact(value)))
    OUT.print(table)


@contextlib.contextmanager
def interruptible(hint: str | None = None) -> Iterator[None]:
    """Let Ctrl-C end the program in one line, which says how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        say("stopped" if hint is None else f"stopped: {hint}", "yellow")
        raise typer.Exit(_INTERRUPTED) from error


class FailureLog:
    """Rows that failed: counted, the first of them listed, and all written as JSON lines where asked."""

    def __init__(self, file: IO[str] | None):
        self.file, self.count, self.first = file, 0, list["RowFailure"]()

    def __call__(self, failure: RowFailure) -> None:
        """Take a row in."""
        self.count += 1
        if self.count <= _LISTED:
            self.first.append(failure)
        if self.file is not None:
            self.file.write(json.dumps(asdict(failure), ensure_ascii=False) + "\n")

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path | None) -> Iterator[FailureLog]:
        """Yield a log that writes to a file, or to none, and lists its first failures at the end."""
        with contextlib.nullcontext() if path is None else path.open("w", encoding="utf-8") as file:
            log = cls(file)
            try:
                yield log
            finally:
                if log.count:
                    say(f"{log.count} rows failed and were left out:", "yellow")
                for failure in log.first:
                    say(f"  row {failure.row}: {failure.what}: {failure.reason}", "yellow")
                if log.count > _LISTED:
                    say(f"  and {log.count - _LISTED} more" + ("" if file else ": --failures lists all"), "yellow")


class ProgressBar(Progress):
    """The progress of one task on stderr; where no bar can be drawn, a line for each tenth names its ``activity``."""

    def __init__(self, *columns: ProgressColumn, transient: bool = False):
        super().__init__(*columns, console=ERR, transient=transient, disable=not ERR.is_terminal)
        self._tenths = 0

    def update(self, task_id: TaskID, *args: Any, **fields: Any) -> None:
        """Set the task's fields, as :meth:`rich.progress.Progress.update` does."""
        super().update(task_id, *args, **fields)
        task = self.tasks[0]
        # what is done is a sum of parts, whose rounding must not cost the last tenth
        if self.disable and task.total and (tenths := int(task.percentage / 10 + 1e-6)) > self._tenths:
            self._tenths = tenths
            remaining = task.time_remaining
            left = "" if remaining is None else f", {timedelta(seconds=int(remaining))} left"
            say(f"{10 * tenths} %, {task.fields['activity'].strip()}{left}")


@contextlib.contextmanager
def row_progress(hint: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances a bar by rows done; an interruption says how to go on after it."""
    columns = SpinnerColumn(), TextColumn("{task.completed} rows"), BarColumn(), TimeElapsedColumn()
    with interruptible(hint), Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda rows: bar.advance(task, rows)
