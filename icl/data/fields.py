"""The columns of a dataset that have a meaning, and their values as text: nothing is guessed from how one looks."""

from __future__ import annotations

from datetime import date, time
from numbers import Number
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TEXT_COLUMNS = ("id", "image", "text", "question", "answer")
VECTOR_COLUMNS = ("point", "image_embedding", "text_embedding")
LIST_COLUMNS = ("images", "answers")
"""Lists of texts. An image may also be the bytes of a file, in formats that hold bytes."""


def to_text(value: Any) -> str | None:
    """Return a single value as text; ``None`` and NaN are nothing. ``TypeError`` for what is no single value.

    >>> to_text("007"), to_text(2), to_text(True), to_text(None)
    ('007', '2', 'true', None)
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if not isinstance(value, Number | date | time):
        raise TypeError(f"must be a text or a number, got {value!r:.100}")
    return str(value) if value == value else None


def to_texts(value: Any) -> list[str] | None:
    """Return a list of single values as texts; ``TypeError`` for what is none, or has nothing in it."""
    if value is None:
        return None
    error = TypeError(f'must be a list of texts, such as ["a", "b"], got {value!r:.100}')
    if not isinstance(value, list | tuple | np.ndarray):
        raise error
    try:
        texts = [to_text(each) for each in value]
    except TypeError:
        raise error from None
    if None in texts:
        raise error
    return [each for each in texts if each is not None]


def is_file(kind: pa.DataType) -> bool:
    """Return whether values are the bytes of files, or what ``datasets`` stores of images: their bytes or path."""
    checks = (pa.types.is_struct, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(check(kind) for check in checks)


def plain_type(kind: pa.DataType, null: pa.DataType | None = None) -> pa.DataType:
    """Return the type that stands for all that say the same: one of strings, one of lists, and no dictionaries.

    ``null`` takes the place of the type of what is null in every row.
    """
    if pa.types.is_null(kind):
        return null or kind
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type, null)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type, null)) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type, null), kind.list_size)
    if any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view)):
        return pa.list_(plain_type(kind.value_type, null))
    return kind


def settle_types(columns: pa.Schema) -> pa.Schema:
    """Return the columns, with text in place of what is null in every row."""
    return pa.schema([field.with_type(plain_type(field.type, null=pa.string())) for field in columns])


def conform_batch(batch: pa.RecordBatch, columns: pa.Schema) -> pa.RecordBatch:
    """Return the batch with these columns; those that it lacks are null."""
    arrays = [
        batch.column(field.name).cast(field.type)
        if field.name in batch.schema.names
        else pa.nulls(len(batch), field.type)
        for field in columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def convert_batch(batch: pa.RecordBatch, prompts: bool) -> pa.RecordBatch:
    """Return the batch with each column as what it is for; those that are null in every row stay so.

    With ``prompts`` every column of single values becomes text, as a prompt's template has it. Without, only
    ``TEXT_COLUMNS`` and ``LIST_COLUMNS`` do, and others keep numbers and dates, which filters compare.
    """
    batch.validate(full=True)  # reading a damaged file goes through, and what is done with it then crashes
    names = batch.schema.names
    if len(set(names)) < len(names):
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is the name of two columns")
    columns = [_convert_column(name, column, prompts) for name, column in zip(names, batch.columns)]
    return pa.RecordBatch.from_arrays(columns, names=names)


def _convert_column(name: str, column: pa.Array, prompts: bool) -> pa.Array:
    kind = plain_type(column.type)
    try:
        if pa.types.is_dictionary(column.type) and pa.types.is_string_view(column.type.value_type):
            column = pc.take(column.dictionary.cast(kind), column.indices)  # which pyarrow 26 cannot cast at once
        elif "list_view" in str(column.type):  # pyarrow 26 loses rows where it casts these
            column = pa.array(column.to_pylist(), kind)
        elif column.type != kind:
            column = column.cast(kind)
        if name in LIST_COLUMNS and pa.types.is_null(kind):
            return column.cast(pa.list_(pa.string()))
        if name in LIST_COLUMNS and pa.types.is_list(kind) and not (name == "images" and is_file(kind.value_type)):
            counts = pc.list_value_length(column).fill_null(0).to_numpy()
            offsets = pa.array(np.concatenate([[0], counts.cumsum()]), pa.int32())
            return pa.ListArray.from_arrays(offsets, _write_as_text(column.flatten()), mask=column.is_null())
        is_text = prompts and _has_one_writing(kind)
        if is_text or (name in TEXT_COLUMNS and not (name == "image" and is_file(kind))):
            return _write_as_text(column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{name} must be text, got {column.type}: {error}") from error
    return column


def _write_as_text(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_floating(kind):  # in numpy, each width has its own shortest digits
        return pa.array([to_text(value) for value in column.to_numpy(zero_copy_only=False)], pa.string())
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        return pa.array([to_text(value) for value in column.to_pylist()], pa.string())
    return column.cast(pa.string())


def _has_one_writing(kind: pa.DataType) -> bool:
    """Return whether values are single and are written in one way."""
    if pa.types.is_duration(kind) or pa.types.is_interval(kind):
        return False
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind))
