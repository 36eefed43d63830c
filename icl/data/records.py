"""The rows of a data set: images, a question, an answer, and all answers that count as right."""

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
from icl.data import source
from icl.data.fields import is_file, plain

# Rows that are checked at a time.
_BATCH = 1 << 10
_ASKED = {"image", "images", "question"}
# Columns that are not for templates.
_NO_FIELDS = ("image", "images", "answer", "answers")


@dataclass(frozen=True)
class DataRecord:
    """A row of a data set."""

    id: str
    images: tuple[str | bytes, ...]
    question: str | None
    answer: str | None
    references: tuple[str, ...]
    fields: Mapping[str, str]
    """What a prompt's template may name: all texts but the answers. One that is missing is empty."""


class Records:
    """The rows of a data set, checked when it is opened; an image is not read before its row.

    Args:
        rows: a JSONL, JSON, Parquet, Arrow or CSV file, a folder of these (:func:`icl.data.read_batches`), a dataset of
            ``datasets`` or a folder that one was saved to, a table, or a mapping of columns. A folder that was saved
            is mapped into memory, other files are read into it.

    Columns, all optional: ``id``, else rows are numbered; ``image`` or ``images``, paths relative to the file, or
    files as bytes; ``question``; ``answer``; ``answers``, a list of all that are right, of which the most frequent is
    the answer unless there is one. All of them, and other columns of single values, which are fields for templates, are
    text as the file has it: "007" stays "007". A blank is nothing. ``ValueError`` names file, line and field.

    >>> rows = Records({"question": ["two plus two ?"], "answers": [["4", "four", "4"]]})
    >>> rows[0].id, rows[0].answer
    ('00000000', '4')
    """

    def __init__(self, rows: source.Source | datasets.Dataset):
        self._path = Path(rows) if isinstance(rows, str | Path) else None
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
                batches = [pa.Table.from_batches([batch]) for batch in source.read_batches(rows, _BATCH, prompts=True)]
            except ValueError as error:
                raise ValueError(f"Records: {error}") from error
            self._rows = pa.concat_tables(batches) if batches else pa.table({})
        if not len(self._rows):
            raise ValueError(f"Records: {self._path or 'records'}: there are no rows")
        self.ids: list[str] = []
        self.answers: list[str | None] = []
        self._check()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> DataRecord:
        if not 0 <= row < len(self):
            raise IndexError(f"row must be from 0 to {len(self) - 1}, got {row}")
        table = self._slice(row, 1)
        (values,) = table.to_pylist()
        fields = {field.name: values[field.name] or "" for field in table.schema if pa.types.is_string(field.type)}
        return DataRecord(
            self.ids[row],
            tuple(map(self._image, _images(values))),
            _text(values.get("question")),
            self.answers[row],
            _references(values),
            {"question": "", **{n: v for n, v in fields.items() if n not in _NO_FIELDS}, "id": self.ids[row]},
        )

    @property
    def columns(self) -> list[str]:
        return list(self._rows.column_names)

    def where(self, row: int) -> str:
        """File and line of a row, for messages."""
        return self._places[row] if self._places else f"{self._path or 'records'}, row {row}"

    @cached_property
    def _places(self) -> list[str]:
        read = self._path is not None and isinstance(self._rows, pa.Table)
        return list(source.places(self._path)) if read and self._path is not None else []

    def _slice(self, start: int, count: int) -> pa.Table:
        if isinstance(self._rows, pa.Table):
            return self._rows.slice(start, count)
        table = self._rows[start : start + count]
        for name, names in self._classes.items():  # numbers, -1 where there is none
            known = pc.index_in(table.column(name), pa.array(range(len(names))))
            table = table.set_column(table.schema.get_field_index(name), name, pc.take(pa.array(names), known))
        return pa.Table.from_batches([plain(part, prompts=True) for part in table.to_batches()])

    def _image(self, image: Any) -> Any:
        """A path, the bytes of a file, or what ``datasets`` stores, which is either."""
        if isinstance(image, Mapping):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str) and self._path is not None:
            return str((self._path if self._path.is_dir() else self._path.parent) / image)
        return image

    def _check(self) -> None:
        rows_of: dict[str, int] = {}
        for start in range(0, len(self), _BATCH):
            try:
                table = _without_bytes(self._slice(start, _BATCH))
            except ValueError as error:
                raise ValueError(f"Records: {self._path or 'records'}: {error}") from error
            for row, values in enumerate(table.to_pylist(), start):
                try:
                    self._check_row(values)
                    name = _text(values["id"]) if "id" in values else f"{row:08d}"
                    if name is None:
                        raise ValueError("id must be a text or a number, got nothing")
                    if rows_of.setdefault(name, row) != row:
                        raise ValueError(
                            f"id must be of one row only, got {name!r}, which {self.where(rows_of[name])} has"
                        )
                    references = _references(values)
                except ValueError as error:
                    raise ValueError(f"Records: {self.where(row)}: {error}") from None
                self.ids.append(name)
                most_frequent = Counter(references).most_common(1)[0][0] if references else None
                self.answers.append(_text(values.get("answer")) or most_frequent)

    def _check_row(self, values: Mapping[str, Any]) -> None:
        if values.get("image") is not None and values.get("images") is not None:
            raise ValueError("there must be image or images, got both")
        images = _images(values)
        for image in map(self._image, images):
            if not isinstance(image, str | bytes):
                raise ValueError(f"image must be a path or the bytes of a file, got {type(image).__name__}")
            if isinstance(image, str) and not os.path.isfile(image):  # Path.is_file raises for names that are too long
                raise ValueError(f"there is no image {image}")
        if not images and _text(values.get("question")) is None:
            names = [f"{name} must be written {name.lower()}" for name in values if name.lower() in _ASKED - {name}]
            hint = ", ".join(names) or f"the columns are {', '.join(values)}" + meant(values, _ASKED)
            raise ValueError(f"there must be an image or a question, got neither: {hint}")


def _images(values: Mapping[str, Any]) -> list[Any]:
    images = values.get("images")
    if images is None:
        images = [values.get("image")]
    if not isinstance(images, list):
        raise ValueError(f"images must be a list, got {images!r:.100}")
    return [image for image in images if image is not None and image != ""]


def _without_bytes(table: pa.Table) -> pa.Table:
    """Images that are in the table itself are not read to check it: an empty file stands for each."""
    for i, field in enumerate(table.schema):
        column = table.column(i)
        if field.name == "image" and is_file(field.type):
            table = table.set_column(
                i, "image", pa.array([b"" if there else None for there in column.is_valid().to_pylist()])
            )
        elif field.name == "images" and pa.types.is_list(field.type) and is_file(field.type.value_type):
            counts = pc.list_value_length(column).to_pylist()
            table = table.set_column(i, "images", pa.array([None if n is None else [b""] * n for n in counts]))
    return table


def _text(value: str | None) -> str | None:
    """A text, or ``None`` for a blank one."""
    return value if value and not value.isspace() else None


def _references(values: Mapping[str, Any]) -> tuple[str, ...]:
    answers, answer = values.get("answers"), _text(values.get("answer"))
    if answers is None:
        return () if answer is None else (answer,)
    if not isinstance(answers, list) or not all(each is not None and _text(each) for each in answers):
        raise ValueError(f"answers must be a list of texts, got {answers!r:.100}")
    return tuple(answers)
