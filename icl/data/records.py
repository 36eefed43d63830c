"""The rows of a dataset: images, a question, an answer, and all answers that count as right.

All rows are checked when a dataset is opened: what is wrong shows before a model is loaded. Images are not read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from icl.common.configuration import meant
from icl.data.fields import is_file
from icl.data.source import Source, list_places, make_plain, read_batches

# Rows that are checked at a time.
_BATCH = 1 << 10
_QUERY_COLUMNS = {"image", "images", "question"}
# Columns that are not for templates.
_NO_FIELDS = ("image", "images", "answer", "answers")


@dataclass(frozen=True)
class DataRecord:
    """A row of a dataset."""

    id: str
    images: tuple[str | bytes, ...]
    question: str | None
    answer: str | None
    references: tuple[str, ...]
    fields: Mapping[str, str]
    """The fields that a prompt's template may name: all texts but the answers. One that is missing is empty."""


class Records:
    """The rows of a dataset, checked when it is opened; an image is not read before its row.

    Args:
        rows: a JSONL, JSON, Parquet, Arrow or CSV file, a folder of these (:func:`icl.data.read_batches`), a dataset of
            ``datasets`` or a folder that one was saved to, a table, or a mapping of columns. A folder that was saved
            is mapped into memory, other files are read into it.

    Columns, all optional: ``id``, else rows are numbered; ``image`` or ``images``, paths relative to the file, or
    files as bytes; ``question``; ``answer``; ``answers``, a list of all that are right, of which the most frequent is
    the answer unless there is one. All of them, and other columns of single values, which are fields for templates, are
    text as the file has it: "007" stays "007". A blank is nothing.

    Raises:
        ValueError: a row is not right, or there are none. It names file, line and field.

    >>> rows = Records({"question": ["two plus two ?"], "answers": [["4", "four", "4"]]})
    >>> rows[0].id, rows[0].answer
    ('00000000', '4')
    """

    def __init__(self, rows: Source | datasets.Dataset):
        self._path = Path(rows) if isinstance(rows, str | Path) else None
        self._name = str(self._path or "records")
        self._rows: pa.Table | datasets.Dataset
        if self._path is not None:
            if (self._path / "dataset_dict.json").exists():
                splits = sorted(split.name for split in self._path.iterdir() if split.is_dir())
                raise ValueError(f"Records: {self._path} has splits, name one of them: {', '.join(splits)}")
            if (self._path / "state.json").exists():
                rows = datasets.load_from_disk(self._path)
        if isinstance(rows, datasets.Dataset):
            self._rows = rows.with_format("arrow")
            features = rows.features.items()
            self._classes = {name: kind.names for name, kind in features if isinstance(kind, datasets.ClassLabel)}
        else:
            try:
                batches = [pa.Table.from_batches([batch]) for batch in read_batches(rows, _BATCH, prompts=True)]
            except ValueError as error:
                raise ValueError(f"Records: {error}") from error
            self._rows = pa.concat_tables(batches) if batches else pa.table({})
        if not len(self._rows):
            raise ValueError(f"Records: {self._name}: there are no rows")
        self.ids: list[str] = []
        self.answers: list[str | None] = []
        self._check_rows()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> DataRecord:
        if not 0 <= row < len(self):
            raise IndexError(f"row must be from 0 to {len(self) - 1}, got {row}")
        table = self._slice(row, 1)
        (values,) = table.to_pylist()
        texts = {field.name: values[field.name] or "" for field in table.schema if pa.types.is_string(field.type)}
        fields = {"question": "", **{name: text for name, text in texts.items() if name not in _NO_FIELDS}}
        return DataRecord(
            self.ids[row],
            tuple(map(self._locate, _list_images(values))),
            _text_or_none(values.get("question")),
            self.answers[row],
            _list_references(values),
            {**fields, "id": self.ids[row]},
        )

    @property
    def columns(self) -> list[str]:
        """The names of all columns, also of those that have no meaning."""
        return list(self._rows.column_names)

    def where(self, row: int) -> str:
        """Return file and line of a row, for messages."""
        return self._places[row] if self._places else f"{self._name}, row {row}"

    @cached_property
    def _places(self) -> list[str]:
        return [] if self._path is None or isinstance(self._rows, datasets.Dataset) else list(list_places(self._path))

    def _slice(self, start: int, count: int) -> pa.Table:
        if isinstance(self._rows, pa.Table):
            return self._rows.slice(start, count)
        table = self._rows[start : start + count]
        for name, names in self._classes.items():  # numbers, -1 where there is none
            classes = pc.index_in(table.column(name), pa.array(range(len(names))))
            table = table.set_column(table.schema.get_field_index(name), name, pc.take(pa.array(names), classes))
        return pa.Table.from_batches([make_plain(part, prompts=True) for part in table.to_batches()])

    def _locate(self, image: Any) -> Any:
        """Return the path or the bytes of an image; ``datasets`` stores either, with the other."""
        if isinstance(image, Mapping):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str) and self._path is not None:
            return str((self._path if self._path.is_dir() else self._path.parent) / image)
        return image

    def _check_rows(self) -> None:
        """Check all rows, and take down their ids and answers."""
        rows_of: dict[str, int] = {}
        for start in range(0, len(self), _BATCH):
            try:
                table = _without_bytes(self._slice(start, _BATCH))
            except ValueError as error:
                raise ValueError(f"Records: {self._name}: {error}") from error
            for row, values in enumerate(table.to_pylist(), start):
                try:
                    self._check_query(values)
                    name = _text_or_none(values["id"]) if "id" in values else f"{row:08d}"
                    if name is None:
                        raise ValueError("id must be a text or a number, got nothing")
                    if rows_of.setdefault(name, row) != row:
                        first = self.where(rows_of[name])
                        raise ValueError(f"id must be of one row only, got {name!r}, which {first} has")
                    references = _list_references(values)
                except ValueError as error:
                    raise ValueError(f"Records: {self.where(row)}: {error}") from None
                self.ids.append(name)
                most_frequent = Counter(references).most_common(1)[0][0] if references else None
                self.answers.append(_text_or_none(values.get("answer")) or most_frequent)

    def _check_query(self, values: Mapping[str, Any]) -> None:
        """Raise ``ValueError`` unless a row has a question or images, and these are there."""
        if values.get("image") is not None and values.get("images") is not None:
            raise ValueError("there must be image or images, got both")
        images = _list_images(values)
        for image in map(self._locate, images):
            if not isinstance(image, str | bytes):
                raise ValueError(f"image must be a path or the bytes of a file, got {type(image).__name__}")
            if isinstance(image, str) and not os.path.isfile(image):  # Path.is_file raises for names that are too long
                raise ValueError(f"there is no image {image}")
        if not images and _text_or_none(values.get("question")) is None:
            wrong_case = [name for name in values if name.lower() in _QUERY_COLUMNS - {name}]
            hint = ", ".join(f"{name} must be written {name.lower()}" for name in wrong_case)
            hint = hint or f"the columns are {', '.join(values)}{meant(values, _QUERY_COLUMNS)}"
            raise ValueError(f"there must be an image or a question, got neither: {hint}")


def _list_images(values: Mapping[str, Any]) -> list[Any]:
    images = values.get("images")
    if images is None:
        images = [values.get("image")]
    if not isinstance(images, list):
        raise ValueError(f"images must be a list, got {images!r:.100}")
    return [image for image in images if image is not None and image != ""]


def _without_bytes(table: pa.Table) -> pa.Table:
    """Return a table to check, in which an empty file stands for each image that is in the table itself."""
    for i, field in enumerate(table.schema):
        column = table.column(i)
        if field.name == "image" and is_file(field.type):
            images = pc.if_else(column.is_valid(), pa.scalar(b""), pa.scalar(None, pa.binary()))
            table = table.set_column(i, "image", images)
        elif field.name == "images" and pa.types.is_list(field.type) and is_file(field.type.value_type):
            counts = pc.list_value_length(column).to_pylist()
            table = table.set_column(i, "images", pa.array([None if n is None else [b""] * n for n in counts]))
    return table


def _text_or_none(value: str | None) -> str | None:
    """Return a text, or ``None`` for a blank one."""
    return value if value and not value.isspace() else None


def _list_references(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return all answers that count as right, without a list of them the one answer."""
    answers, answer = values.get("answers"), _text_or_none(values.get("answer"))
    if answers is None:
        return () if answer is None else (answer,)
    if not isinstance(answers, list) or not all(each is not None and _text_or_none(each) for each in answers):
        raise ValueError(f"answers must be a list of texts, got {answers!r:.100}")
    return tuple(answers)
