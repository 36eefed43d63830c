"""Options that commands share, and options made of classes of settings (:mod:`icl.common.configuration`).

A command that takes settings has an option for each of their fields: type, bounds, choices and help come from the
class, so the command line, YAML and Python meet the same checks.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from icl.common.configuration import MAX_SEED, Bounds, documented, nearest


def check_finite(value: float | None) -> float | None:
    """Return the number, and refuse what typer takes for one too: nan and inf."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, got {value}")
    return value


def repeated_choice(kind: Any, text: str, *flags: str) -> Any:
    """Return an option of several texts of a ``Literal`` type, which typer only has for single ones."""

    def check(names: list[str] | None) -> list[str] | None:
        for name in names or ():
            if name not in get_args(kind):
                raise typer.BadParameter(f"there is no {name!r}{nearest(name, get_args(kind))}")
        return names

    return typer.Option(*flags, help=f"{text} One of {', '.join(get_args(kind))}; can be repeated.", callback=check)


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


def take_settings(
    names: Mapping[str, str], required: bool, **sections: type
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of classes of settings.

    The command gets them as ``settings``: by the section's name the values that were given, by field.

    Args:
        names: of options, by fields, where an option is not called as its field is.
        required: whether fields without a default must be given; they need not where a file may have them.
        sections: classes of settings, each by the name under which the command finds its values.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for name, p in inspect.signature(command, eval_str=True).parameters.items() if name != "settings"]
        options = {
            f"{section}_{f.name}": _make_option(f, hint, names.get(f.name, f"--{f.name.replace('_', '-')}"), required)
            for section, kind in sections.items()
            for f, hint in zip(fields(kind), _field_hints(kind))
        }

        def run(**values: Any) -> None:
            settings = {
                section: {
                    f.name: tuple(value) if isinstance(value, list) else value
                    for f in fields(kind)
                    if (value := values.pop(f"{section}_{f.name}")) not in (None, [])
                }
                for section, kind in sections.items()
            }
            command(**values, settings=settings)

        made = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        ]
        leading = [p for p in made if p.default is inspect.Parameter.empty]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        parameters = [*leading, *parameters, *(p for p in made if p not in leading)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _field_hints(kind: type) -> list[Any]:
    hints = get_type_hints(kind, include_extras=True)
    return [hints[f.name] for f in fields(kind)]


def _make_option(field: Field[Any], hint: Any, flag: str, required: bool) -> tuple[Any, Any]:
    """Return the annotation and the default of a field's option; nothing is the default of a field that has one."""
    kind, metadata = _unfold(hint)
    text = documented(hint) or ""
    extra: dict[str, Any] = {}
    for bound in metadata:
        if isinstance(bound, Bounds):
            extra |= {"min": bound.ge, "max": bound.le}
    if kind is float:
        extra = {"callback": check_finite}
    default = (field.default or ("",))[0] if isinstance(field.default, tuple) else field.default
    if default not in (None, MISSING, False, "", 0) and "default:" not in text:
        text = (
            f"{text.rstrip('.')}; default: {default:g}."
            if isinstance(default, float)
            else f"{text.rstrip('.')}; default: {default}."
        )
    if get_origin(kind) is list and get_origin(get_args(kind)[0]) is Literal:
        return Annotated[list[str] | None, repeated_choice(get_args(kind)[0], text, flag)], None
    if get_origin(kind) is list:
        text = f"{text.rstrip('.')}; can be repeated."
    option = typer.Option(f"{flag}/--no-{flag[2:]}" if kind is bool else flag, help=text, **extra)
    if field.default is MISSING and required:
        return Annotated[kind, option], inspect.Parameter.empty
    return Annotated[kind | None, option], None


def _unfold(hint: Any) -> tuple[Any, list[Any]]:
    """Return the type of an option for an annotation, a list for a tuple, and all metadata inside."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        kind, metadata = _unfold(arguments[0])
        return kind, [*metadata, *arguments[1:]]
    if origin in (Union, types.UnionType):
        return _unfold(next(part for part in arguments if part is not type(None)))
    if origin is tuple:
        kind, metadata = _unfold(arguments[0])
        return list[kind], metadata  # type: ignore[valid-type]
    return hint, []
