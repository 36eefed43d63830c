"""CSV and JSON files as rows: nothing is guessed from how a value looks, and errors name file, line and field.

A CSV is all text; of its columns, those of lists and vectors are written as in JSON. A JSON file has one object a line,
or is one array of objects; its numbers keep the way they are written where they are taken as text. The readers of
pandas, pyarrow and ``datasets`` do neither: they take "007" for 7, and write 3.50 as 3.5.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from icl.data.fields import LIST_COLUMNS, TEXT_COLUMNS, VECTOR_COLUMNS, settle_types, to_text, to_texts

# Deeper values are refused: what reads and stores them calls itself for each level.
_DEPTH = 32
# What Arrow raises for values that a column cannot hold.
_UNFIT = (pa.ArrowException, ValueError, TypeError, OverflowError)

FileRow = tuple[str, dict[str, Any]]
"""Where a row is in its file, such as "line 3", and its values."""


class _WrittenFloat(float):
    """A number that is printed as it was written."""

    __slots__ = ("written",)
    written: str

    def __new__(cls, written: str) -> _WrittenFloat:
        number = super().__new__(cls, written)
        number.written = written
        return number

    def __str__(self) -> str:
        return self.written


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number in JSON: leave it out, or write null")


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return values


def _make_decoder(number: type[float]) -> json.JSONDecoder:
    return json.JSONDecoder(
        parse_float=number,
        parse_int=lambda written: number(written) if written == "-0" else int(written),  # an int has no sign of zero
        parse_constant=_refuse_constant,
        object_pairs_hook=_make_object,
    )


# The exact one takes ten times as long where there are many numbers, as in vectors.
_FAST, _EXACT = _make_decoder(float), _make_decoder(_WrittenFloat)


def read_rows(file: Path) -> Iterator[FileRow]:
    """Read the rows of a file one by one. ``ValueError`` names file and line."""
    return _read_csv(file, *_open_csv(file)) if _is_csv(file) else _read_json(file)


def read_schema(files: list[Path], size: int, prompts: bool) -> pa.Schema:
    """Return the columns of files and what they hold, from all their rows, read ``size`` at a time.

    With ``prompts``, as :func:`icl.data.fields.convert_batch` has it, columns of no use to prompts are left out.
    """
    types: dict[str, pa.DataType | None] = {}
    for file in files:
        if _is_csv(file):  # it may have no rows
            types |= {name: _fixed_type(name) or pa.string() for name in _open_csv(file)[1] if name}
        for chunk in _read_chunks(file, size):
            for name in dict.fromkeys(name for _, values in chunk for name in values):
                kind = _fixed_type(name) or _infer_type([values.get(name) for _, values in chunk], prompts)
                if any("\ud800" <= letter <= "\udfff" for letter in name):  # half of a surrogate pair
                    raise ValueError(f"{file}: the name {name!r} of a field is not Unicode")
                types[name] = _unify_types(types[name], kind) if name in types else kind
    if types and all(kind is None for kind in types.values()):
        raise ValueError(f"{files[0]}: a row must have single values, got only lists and objects: {', '.join(types)}")
    return settle_types(pa.schema([pa.field(name, kind) for name, kind in types.items() if kind is not None]))


def read_file(file: Path, size: int, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Read the rows, ``size`` at a time, as batches of these columns. ``ValueError`` names file, line and field."""
    for chunk in _read_chunks(file, size):
        yield pa.RecordBatch.from_arrays([_make_column(file, field, chunk) for field in columns], schema=columns)


def _read_chunks(file: Path, size: int) -> Iterator[list[FileRow]]:
    rows = read_rows(file)
    while chunk := list(islice(rows, size)):
        yield chunk


def _is_csv(file: Path) -> bool:
    return file.suffix.lower() == ".csv"


def _read_lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.isascii() or line.encode()
            except UnicodeEncodeError as error:
                where = f"{file}, line {number}, character {error.start + 1}"
                raise ValueError(f"{where}: files must be UTF-8, and this is not") from None
            yield line


def _open_csv(file: Path) -> tuple[Any, list[str]]:
    """Return a reader of a CSV after its header, and the header."""
    reader = csv.reader(_read_lines(file), strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise ValueError(f"{file}, line 1: {error}") from error
    if twice := [name for i, name in enumerate(header) if name and name in header[:i]]:
        raise ValueError(f"{file}, line 1: {twice[0]!r} is the name of two columns")
    return reader, header


def _read_csv(file: Path, reader: Any, header: list[str]) -> Iterator[FileRow]:
    as_json = [name for name in header if name in (*LIST_COLUMNS, *VECTOR_COLUMNS)]
    start = reader.line_num + 1
    try:
        for cells in reader:
            if cells:  # not an empty line
                if len(cells) != len(header):
                    raise csv.Error(f"there must be {len(header)} cells, as in the header, got {len(cells)}")
                values: dict[str, Any] = {name: cell or None for name, cell in zip(header, cells)}
                values.pop("", None)  # pandas writes its index so
                yield f"line {start}", values | {name: _parse_cell(values[name]) for name in as_json}
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{file}, line {start}: {error}") from error


def _parse_cell(cell: str | None) -> Any:
    """Return a list or a vector; or the text itself where it is neither, for the error to show it."""
    try:
        return cell and _parse(cell, _EXACT)
    except ValueError:
        return cell


def _read_json(file: Path) -> Iterator[FileRow]:
    lines, may_be_array = _read_lines(file), file.suffix.lower() == ".json"
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        is_array = may_be_array and line.lstrip().startswith("[")
        try:
            value = _parse(line + "".join(lines), _EXACT) if is_array else _parse_line(line.rstrip())
        except json.JSONDecodeError as error:
            where = f"line {number + error.lineno - 1}, column {error.colno}"
            raise ValueError(f"{file}, {where}: {error.msg}") from error
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
        rows = {f"item {i}": item for i, item in enumerate(value, 1)} if is_array else {f"line {number}": value}
        for place, row in rows.items():
            if not isinstance(row, dict):
                raise ValueError(f"{file}, {place}: a row must be an object, got {row!r:.100}")
            yield place, row


def _parse(written: str, decoder: json.JSONDecoder) -> Any:
    """Decode a text. ``ValueError`` if it is no JSON, or nested too deep."""
    value = None
    try:
        value = decoder.decode(written)
        # As many brackets are needed, and are found faster than the depth.
        too_deep = written.count("[") + written.count("{") > _DEPTH and _is_deeper(value, _DEPTH)
    except RecursionError:
        too_deep = True
    if too_deep:
        raise ValueError(f"a value must be nested at most {_DEPTH} deep")
    return value


def _parse_line(written: str) -> Any:
    """Decode a line, whose numbers keep how they are written where they may be taken as text."""
    value = _parse(written, _FAST)
    if isinstance(value, dict):
        lists = [value[name] for name in LIST_COLUMNS if isinstance(value.get(name), list)]
        if float in map(type, chain(value.values(), *lists)):
            return _parse(written, _EXACT)
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        nested = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [child for children in nested for child in children]
    return any(isinstance(each, dict | list) for each in level)


def _fixed_type(name: str) -> pa.DataType | None:
    """Return the type of a column that has a meaning, ``None`` for others."""
    if name in TEXT_COLUMNS:
        return pa.string()
    if name in LIST_COLUMNS:
        return pa.list_(pa.string())
    return pa.list_(pa.float32()) if name in VECTOR_COLUMNS else None


def _infer_type(values: list[Any], prompts: bool) -> pa.DataType | None:
    """Return the type that holds values: text if they are of several kinds, ``None`` if the column is left out."""
    if prompts:
        return None if any(isinstance(value, dict | list) for value in values) else pa.string()
    try:
        return pa.array(values).type
    except _UNFIT:
        return pa.string()


def _unify_types(one: pa.DataType | None, other: pa.DataType | None) -> pa.DataType | None:
    if one is None or other is None:
        return None
    schemas = [pa.schema([pa.field("", kind)]) for kind in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def _make_column(file: Path, field: pa.Field, chunk: list[FileRow]) -> pa.Array:
    try:
        return _make_array(field, [values.get(field.name) for _, values in chunk])
    except _UNFIT:
        for place, values in chunk:
            try:
                _make_array(field, [values.get(field.name)])
            except _UNFIT as error:
                raise ValueError(f"{file}, {place}: {field.name} {error}") from error
        raise


def _make_array(field: pa.Field, values: list[Any]) -> pa.Array:
    if field.name in LIST_COLUMNS:
        return pa.array([to_texts(value) for value in values], field.type)
    if field.name in VECTOR_COLUMNS and any(value is not None and not isinstance(value, list) for value in values):
        raise TypeError(f"must be a list of numbers, such as [0.5, 1.0], got {values[0]!r:.100}")
    if not pa.types.is_string(field.type):
        return pa.array(values, field.type)
    if field.name not in TEXT_COLUMNS:  # values of several kinds are kept as they are written
        values = [json.dumps(value) if isinstance(value, dict | list) else value for value in values]
    return pa.array([to_text(value) for value in values], field.type)
