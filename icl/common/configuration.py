"""Settings from outside: dataclasses that check their values, and errors that name the field, what it got and wanted.

A class of settings is declared once, by :func:`configuration`. Its annotations say what each value may be and, by
``Doc``, what it is for: :func:`parse` checks what was read from a file, :func:`schema` describes the class as JSON
schema, and the command line makes its options of the same fields (:mod:`icl.cli.options`). Pydantic does the checking.
It takes a third of a second to import, and is imported when the first settings are made.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache, reduce, wraps
from operator import or_
from reprlib import Repr
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from annotated_doc import Doc

if TYPE_CHECKING:
    from pydantic import BaseModel
    from typing_extensions import dataclass_transform
else:
    # typing_extensions takes longer to import than all the rest of the command line.
    def dataclass_transform(**_):
        """Return a decorator that changes nothing: what it says is for type checkers."""
        return lambda decorator: decorator


T = TypeVar("T")


@dataclass(frozen=True)
class Bounds:
    """The numbers that an annotated one may be: from ``ge`` or above ``gt``, up to ``le``."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return {**handler(source), **{name: bound for name, bound in vars(self).items() if bound is not None}}

    def __str__(self) -> str:
        if self.le is None:
            return f"above {self.gt}" if self.ge is None else f"of {self.ge} or more"
        return (f"above {self.gt}" if self.ge is None else f"from {self.ge}") + f" up to {self.le}"


PositiveInt = Annotated[int, Bounds(ge=1)]
Count = Annotated[int, Bounds(ge=0)]
PositiveFloat = Annotated[float, Bounds(gt=0)]
Weight = Annotated[float, Bounds(ge=0)]
MAX_SEED = 2**32 - 1  # numpy's
Seed = Annotated[int, Bounds(ge=0, le=MAX_SEED)]

_NAMES: dict[Any, str] = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
_repr = Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 80


@dataclass_transform(frozen_default=True)
def configuration(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose values are checked when it is made, before its ``__post_init__``.

    A list becomes a tuple where a tuple is annotated, and the text 5e-3 of YAML a number. ``ValueError`` for a value of
    another type, outside its bounds, or not finite.
    """
    own = getattr(cls, "__post_init__", None)
    own = getattr(own, "__wrapped__", own)

    def check(self: Any) -> None:
        if type(self).__post_init__ is check:  # a base class of the class that is made leaves it to that
            for name, value in _checked(f"{type(self).__name__}: ", type(self), vars(self)).items():
                object.__setattr__(self, name, value)
        if own is not None:
            own(self)

    cls.__post_init__ = check if own is None else wraps(own)(check)  # type: ignore[attr-defined]
    return dataclass(frozen=True)(cls)


def parse(where: str, kind: type[T], values: Any) -> T:
    """Return the settings of a class with these values, read from a file, where they are called ``where``.

    Values of fields that are settings themselves are parsed too. ``ValueError`` for a field that there is not, with the
    nearest name, for one that is missing, and for a value that is none of its type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must have fields, got {brief(values)}")
    check_names(where, kind, values)
    hints = get_type_hints(kind)
    nested = {
        name: parse(f"{where}.{name}", part, values[name])
        for name in values
        if (part := _settings_of(hints[name])) is not None and isinstance(values[name], Mapping)
    }
    return kind(**_checked(f"{where}.", kind, {**values, **nested}))


def check_names(where: str, kind: Any, values: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for fields that a dataclass has not, and for those that it needs and are missing."""
    known = {f.name: f for f in fields(kind)}
    for name in values:
        if name not in known:
            raise ValueError(f"{where}: there is no {brief(name)}{nearest(str(name), known)}")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{where}: {name} is missing")


def schema(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a class of settings, with what its fields are for."""
    from pydantic import TypeAdapter

    described = TypeAdapter(kind).json_schema()
    parts = {kind.__name__: described, **described.get("$defs", {})}
    for part in parts.values():
        if "description" in part:  # without the examples of a docstring, which are for readers of Python
            part["description"] = part["description"].partition(">>>")[0].strip()
    for settings in _nested(kind):
        for name, hint in get_type_hints(settings, include_extras=True).items():
            properties = parts[settings.__name__].get("properties", {})
            if name in properties and (text := documented(hint)):
                properties[name]["description"] = text
    return described


def _nested(kind: Any) -> Iterator[Any]:
    """Yield a class of settings, and those of its fields."""
    yield kind
    hints = get_type_hints(kind)
    for field in fields(kind):
        if (part := _settings_of(hints[field.name])) is not None:
            yield from _nested(part)


def documented(hint: Any) -> str | None:
    """Return what an annotation with ``Doc`` says that its value is for."""
    return next((part.documentation for part in get_args(hint)[1:] if isinstance(part, Doc)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about a name that is not known: the one that was meant, or all.

    >>> nearest("Image", ["image", "question"])
    '; did you mean image?'
    """
    near = get_close_matches(name.lower(), sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else f", only {', '.join(sorted(known))}"


def meant(names: Iterable[str], known: Iterable[str]) -> str:
    """Return the end of a message about columns: which of them nearly have a name that means something.

    >>> meant(["Image", "Question", "n"], ["image", "question"])
    '; did you mean image by Image and question by Question?'
    """
    near = {name: get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.8) for name in names}
    pairs = [f"{close[0]} by {name}" for name, close in near.items() if close and close[0] != name]
    return f"; did you mean {' and '.join(pairs)}?" if pairs else ""


def brief(value: Any) -> str:
    """Return the ``repr`` of a value for a message, cut where it is long or deep."""
    return _repr.repr(value)


@cache
def _model(kind: Any) -> type[BaseModel]:
    """Return the model of Pydantic that checks the fields of a dataclass."""
    from pydantic import ConfigDict, create_model

    rules = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=())
    hints = get_type_hints(kind, include_extras=True)
    parts: Any = {f.name: (_checkable(hints[f.name]), None) for f in fields(kind)}
    return create_model(kind.__name__, __config__=rules, **parts)


def _checkable(hint: Any) -> Any:
    """Return the annotation with an instance check in place of settings, which were checked when they were made."""
    from pydantic import InstanceOf

    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return cast("Any", InstanceOf)[hint]
    if origin is tuple:
        return tuple[_checkable(arguments[0]), ...]  # type: ignore[misc]
    if origin in (Union, types.UnionType):
        return reduce(or_, map(_checkable, arguments))
    return hint


def _checked(prefix: str, kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of fields as the class has them; messages begin with ``prefix`` and the field's name."""
    from pydantic import ValidationError

    hints = get_type_hints(kind, include_extras=True)
    try:
        checked = _model(kind)(**{name: _lenient(hints[name], value) for name, value in values.items()})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        words = _words(hints[name])
        close = nearest(values[name], words) if words and isinstance(values[name], str) else ""
        hint = close if close.startswith("; did") else ""
        raise ValueError(f"{prefix}{name} must be {_describe(hints[name])}, got {brief(values[name])}{hint}") from None
    return {name: getattr(checked, name) for name in values}


def _lenient(hint: Any, value: Any) -> Any:
    """Return a list as a tuple, and the text of a number as a number, where the annotation has these."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _lenient(arguments[0], value)
    if origin in (Union, types.UnionType):
        return value if value is None else _lenient(next(a for a in arguments if a is not type(None)), value)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_lenient(arguments[0], each) for each in value)
    if hint is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return math.nan
    return value


def _describe(hint: Any) -> str:
    """Return what a value of an annotation is, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join(
            filter(None, [_describe(arguments[0]), *(str(part) for part in arguments[1:] if isinstance(part, Bounds))])
        )
    if origin in (Union, types.UnionType):
        return " or ".join("nothing" if a is type(None) else _describe(a) for a in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return f"a list, each {_describe(arguments[0])}"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def _words(hint: Any) -> tuple[str, ...]:
    """Return the texts that an annotation chooses from, if it does."""
    if get_origin(hint) is Literal:
        return tuple(word for word in get_args(hint) if isinstance(word, str))
    return tuple(word for part in get_args(hint) for word in _words(part))


def _settings_of(hint: Any) -> Any:
    """Return the class of settings that an annotation names, alone or beside ``None``."""
    return next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)), None)
