"""The types of the options that commands share, and two checks that typer lacks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from icl.common.configuration import nearest

MAX_SEED = 2**32 - 1  # numpy's


def check_finite(value: float | None) -> float | None:
    """Return the number, and refuse what typer takes for one too: nan and inf."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, got {value}")
    return value


def repeated_choice(kind: Any, text: str) -> Any:
    """Return an option of several texts of a ``Literal`` type, which typer only has for single ones."""

    def check(names: list[str] | None) -> list[str] | None:
        for name in names or ():
            if name not in get_args(kind):
                raise typer.BadParameter(f"there is no {name!r}{nearest(name, get_args(kind))}")
        return names

    return typer.Option(help=f"{text} One of {', '.join(get_args(kind))}; can be repeated.", callback=check)


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
K = Annotated[int, typer.Option("-k", min=1, help="How many.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of all that is random.")]

BankFolder = Annotated[Path, typer.Argument(metavar="BANK", help="Folder of the bank.")]
Device = Annotated[str | None, typer.Option(help="Where to embed; default: a GPU if there is one.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images or texts embedded at a time.")]
FailureFile = Annotated[Path | None, typer.Option(help="File for the rows that failed, as JSON lines.")]
DepthWeight = Annotated[float, typer.Option(callback=check_finite, help="Weight of the depth in -dist + weight depth.")]
EmbeddingModel = Annotated[
    str | None, typer.Option(help="CLIP-like model, by name or path; default: the one of the bank.")
]

LanguageModel = Annotated[str | None, typer.Option(help="Path or name of a vision-language model, or testbed.")]
Pool = Annotated[str | None, typer.Option(help="Rows that demonstrations are taken from.")]
PoolBank = Annotated[str | None, typer.Option(help="Bank of the pool, for strategies other than random.")]
Prompt = Annotated[str | None, typer.Option(help='How a row is asked about: "{question} Short answer:".')]
System = Annotated[str | None, typer.Option(help="A message before all others.")]
