"""What the command line says: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text
from typer.core import TyperGroup

from icl.common.configuration import nearest

if TYPE_CHECKING:
    from icl.common.failures import RowFailure

OUT, ERR = Console(), Console(stderr=True)
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
MAX_SEED = 2**32 - 1  # numpy's
_LISTED = 5

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def finite(value: float | None) -> float | None:
    """Refuse what typer takes for a number too: nan and inf."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, got {value}")
    return value


def choices(kind: Any, text: str) -> Any:
    """An option of texts that can be repeated, each one of a ``Literal``'s, which typer has for single texts alone."""

    def check(given: list[str] | None) -> list[str] | None:
        for name in given or ():
            if name not in get_args(kind):
                raise typer.BadParameter(f"there is no {name!r}{nearest(name, get_args(kind))}")
        return given

    return typer.Option(help=f"{text} One of {', '.join(get_args(kind))}; can be repeated.", callback=check)


class Group(TyperGroup):
    """The one place where expected errors end: in a line on stderr and exit code 1; wrong usage has 2, and Ctrl-C 130.

    Expected is what the user can put right: what the packages refuse (``ValueError``), files and networks
    (``OSError``), packages that are missing, and too little memory. Other errors are faults of ours, and show where.
    """

    def invoke(self, ctx: Any) -> Any:
        log = logging.getLogger("icl")
        log.setLevel(logging.INFO)
        log.addHandler(handler := _Lines())
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _warn
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # who read stdout has had enough, which typer knows how to end
        except KeyboardInterrupt as error:
            say("stopped", "yellow")
            raise typer.Exit(INTERRUPTED) from error
        except (ValueError, OSError, ImportError) as error:
            say(_line(error), "red")
            raise typer.Exit(1) from error
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            say(f"there is not enough memory: {_line(error)}", "red")
            raise typer.Exit(1) from error
        finally:
            log.removeHandler(handler)


def _warn(message: Warning | str, *where: Any, **more: Any) -> None:
    """As a line for the user, without the place in the code that Python shows."""
    say(" ".join(str(message).split()), "yellow")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _is_out_of_memory(error: Exception) -> bool:
    # torch says so in the message alone where the memory is the CPU's
    words = "out of memory", "can't allocate memory", "not enough memory", "storage size calculation overflowed"
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)


class _Lines(logging.Handler):
    """What the packages log of themselves (:mod:`icl.common.hub` asking the network), on stderr as it comes."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), "")


def say(message: str, style: str) -> None:
    # as it is, in one line: no markup in what comes from data
    ERR.print(Text(message, style), soft_wrap=True)


def print_json(value: Any, indent: int | None = 2) -> None:
    print(json.dumps(value, indent=indent, ensure_ascii=False, default=str))


def print_result(value: Any, text: str, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        print(text)


class Failed:
    """Rows that failed: counted, the first of them listed, and all written as JSON lines where asked."""

    def __init__(self, file: IO[str] | None):
        self.file, self.count, self.first = file, 0, list["RowFailure"]()

    def __call__(self, failure: RowFailure) -> None:
        self.count += 1
        if self.count <= _LISTED:
            self.first.append(failure)
        if self.file is not None:
            self.file.write(json.dumps(asdict(failure), ensure_ascii=False) + "\n")

    @classmethod
    @contextlib.contextmanager
    def to(cls, path: Path | None) -> Iterator[Failed]:
        with contextlib.nullcontext() if path is None else path.open("w", encoding="utf-8") as file:
            failed = cls(file)
            try:
                yield failed
            finally:
                if failed.count:
                    say(f"{failed.count} rows failed and were left out:", "yellow")
                for failure in failed.first:
                    say(f"  row {failure.row}: {failure.what}: {failure.reason}", "yellow")
                if failed.count > _LISTED:
                    say(f"  and {failed.count - _LISTED} more" + ("" if file else ": --failures lists all"), "yellow")


class Bar(Progress):
    """Of one task, on stderr; where none can be drawn, a line for each tenth says ``what`` is being done."""

    def __init__(self, *columns: ProgressColumn, transient: bool = False):
        super().__init__(*columns, console=ERR, transient=transient, disable=not ERR.is_terminal)
        self._tenths = 0

    def update(self, task_id: TaskID, *args: Any, **fields: Any) -> None:
        super().update(task_id, *args, **fields)
        task = self.tasks[0]
        # what is done is a sum of parts, whose rounding must not cost the last tenth
        if self.disable and task.total and (tenths := int(task.percentage / 10 + 1e-6)) > self._tenths:
            self._tenths = tenths
            left = "" if task.time_remaining is None else f", {timedelta(seconds=int(task.time_remaining))} left"
            say(f"{10 * tenths} %, {task.fields['what'].strip()}{left}", "")


@contextlib.contextmanager
def progress(after: str) -> Iterator[Callable[[int], None]]:
    """A bar of rows done; an interruption says how to go on after it."""
    columns = SpinnerColumn(), TextColumn("{task.completed} rows"), BarColumn(), TimeElapsedColumn()
    try:
        with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as bar:
            task = bar.add_task("", total=None)
            yield lambda rows: bar.advance(task, rows)
    except KeyboardInterrupt as error:
        say(f"stopped: {after}", "yellow")
        raise typer.Exit(INTERRUPTED) from error
