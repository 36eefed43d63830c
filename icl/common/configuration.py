"""JSON files, and dataclasses from what was read of one, unchecked till then; errors name the field and the nearest."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from reprlib import Repr
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_repr = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 80


def build(where: str, kind: type[T], values: Any) -> T:
    """Return the dataclass with these values. ``where`` is their name in the file, for messages.

    ``ValueError`` for a field that is not known, is missing, or is of another type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must have fields, got {brief(values)}")
    check_names(where, kind, values)
    hints = get_type_hints(kind)
    return kind(**{name: convert(f"{where}.{name}", hints[name], value) for name, value in values.items()})


def check_names(where: str, kind: Any, values: Mapping[str, Any]) -> None:
    """``ValueError`` for fields that the dataclass has not, and for those that it needs and are missing."""
    known = {f.name: f for f in fields(kind)}
    for name in values:
        if name not in known:
            raise ValueError(f"{where}: there is no {brief(name)}{nearest(str(name), known)}")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{where}: {name} is missing")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: the one that was meant, or all.

    >>> nearest("Image", ["image", "question"])
    '; did you mean image?'
    """
    near = get_close_matches(name.lower(), sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else f", only {', '.join(sorted(known))}"


def meant(names: Iterable[str], known: Iterable[str]) -> str:
    """The end of a message about columns: which of them nearly have a name that means something.

    >>> meant(["Image", "Question", "n"], ["image", "question"])
    '; did you mean image by Image and question by Question?'
    """
    near = {name: get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.8) for name in names}
    pairs = [f"{close[0]} by {name}" for name, close in near.items() if close and close[0] != name]
    return f"; did you mean {' and '.join(pairs)}?" if pairs else ""


def convert(name: str, kind: Any, value: Any) -> Any:
    """Return the value as a field of this type has it: a list as a tuple, the text 5e-3 of YAML as a number.

    ``ValueError`` if it is of another type, or a number that is not finite.
    """
    origin, kinds = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in kinds:
            return None
        (rest,) = [k for k in kinds if k is not type(None)]
        return convert(name, rest, value)
    if origin is Literal:
        if value in kinds:
            return value
        raise ValueError(f"{name} must be one of {', '.join(map(str, kinds))}, got {brief(value)}")
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(convert(name, kinds[0], each) for each in value)
        raise ValueError(f"{name} must be a list, got {brief(value)}")
    if kind is float and isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
        raise ValueError(f"{name} must be a finite number, got {brief(value)}")
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    raise ValueError(f"{name} must be of type {kind.__name__}, got {brief(value)}")


def brief(value: Any) -> str:
    """The ``repr`` of a value in a message, cut where it is long or deep."""
    return _repr.repr(value)
