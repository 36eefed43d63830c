"""What the command line says: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text
from typer.core import TyperGroup

from icl.embed import Failure

OUT, ERR = Console(), Console(stderr=True)
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_LISTED = 5

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Group(TyperGroup):
    """What the user can put right is told in one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # who read stdout has had enough, which typer knows how to end
        except (ValueError, OSError, ImportError) as error:
            say(" ".join(str(error).split()), "red")
            raise typer.Exit(1) from error


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
        self.file, self.count, self.first = file, 0, list[Failure]()

    def __call__(self, failure: Failure) -> None:
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
