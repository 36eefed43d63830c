"""The rows of a data set: images, a question, an answer, and all answers that count as right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from icl import source

# Rows that are checked at a time.
_BATCH = 1 << 10
# Columns that are not for templates.
_NO_FIELDS = ("image", "images", "answer", "answers")


@dataclass(frozen=True)
class Record:
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
        rows: a JSONL, Parquet, Arrow or CSV file, a folder of these (:func:`icl.source.read`), a data set of
            ``datasets`` or a folder that one was saved to, a table, or a mapping of columns. A folder that was saved
            is mapped into memory, other files are read into it.

    Columns, all optional: ``id``, else rows are numbered; ``image`` or ``images``, paths relative to the file, or
    files as bytes; ``question``; ``answer``; ``answers``, a list of all that are right, of which the most frequent is
    the answer unless there is one. Other columns of texts and numbers are fields for templates. ``ValueError`` names
    file and row.

    >>> rows = Records({"question": ["two plus two ?"], "answers": [["4", "four", "4"]]})
    >>> rows[0].id, rows[0].answer
    ('00000000', '4')
    """

    def __init__(self, rows: source.Source | datasets.Dataset):
        self._name, self._folder = "records", Path()
        self._rows: pa.Table | datasets.Dataset
        if isinstance(rows, str | Path):
            path = Path(rows)
            self._name, self._folder = str(rows), path if path.is_dir() else path.parent
            if (path / "dataset_dict.json").exists():
                splits = sorted(split.name for split in path.iterdir() if split.is_dir())
                raise ValueError(f"Records: {path} has splits, name one of them: {', '.join(splits)}")
            if (path / "state.json").exists():
                rows = datasets.load_from_disk(path)
        if isinstance(rows, datasets.Dataset):
            self._rows = rows.with_format("arrow")
        else:
            try:
                batches = [pa.Table.from_batches([batch]) for batch in source.read(rows, _BATCH)]
                if not batches:
                    raise ValueError(f"Records: {self._name}: there are no rows")
                self._rows = pa.concat_tables(batches, promote_options="permissive")
            except pa.ArrowInvalid as error:
                raise ValueError(f"Records: {self._name}: {error}") from error
        self.ids: list[str] = []
        self.answers: list[str | None] = []
        self._check()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Record:
        if not 0 <= row < len(self):
            raise IndexError(f"row must be from 0 to {len(self) - 1}, got {row}")
        (values,) = self._slice(row, 1).to_pylist()
        fields = {"question": "", **values, "id": self.ids[row]}
        images = values.get("images") if values.get("images") is not None else [values.get("image")]
        return Record(
            self.ids[row],
            tuple(self._image(image) for image in images or () if image is not None),
            _text(values.get("question")),
            self.answers[row],
            _references(values),
            {n: _text(v) or "" for n, v in fields.items() if n not in _NO_FIELDS and (v is None or _is_text(v))},
        )

    def where(self, row: int) -> str:
        """File and row, for messages."""
        return f"{self._name}, row {row}"

    def _slice(self, start: int, count: int) -> pa.Table:
        table = isinstance(self._rows, pa.Table)
        return self._rows.slice(start, count) if table else self._rows[start : start + count]

    def _image(self, image: Any) -> str | bytes:
        """A path, the bytes of a file, or what ``datasets`` stores, which is either."""
        if isinstance(image, Mapping):
            image = image.get("bytes") or image.get("path")
        return str(self._folder / image) if isinstance(image, str) else image

    def _check(self) -> None:
        seen: dict[str, int] = {}
        for start in range(0, len(self), _BATCH):
            for row, values in enumerate(_without_bytes(self._slice(start, _BATCH)).to_pylist(), start):
                try:
                    self._check_row(values)
                    name = f"{row:08d}" if "id" not in values else _text(values["id"])
                    if not name:
                        raise ValueError("id must be a text or a number")
                    if seen.setdefault(name, row) != row:
                        raise ValueError(f"id must be of one row only, got {name!r}, which row {seen[name]} has")
                    references = _references(values)
                    self.ids.append(name)
                    self.answers.append(Counter(references).most_common(1)[0][0] if references else None)
                    if (answer := _text(values.get("answer"))) is not None:
                        self.answers[-1] = answer
                except ValueError as error:
                    raise ValueError(f"Records: {self.where(row)}: {error}") from None

    def _check_row(self, values: Mapping[str, Any]) -> None:
        for name in ("question", "answer"):
            if values.get(name) is not None and not _is_text(values[name]):
                raise ValueError(f"{name} must be a text or nothing, got {values[name]!r:.100}")
        image, images = values.get("image"), values.get("images")
        if image is not None and images is not None:
            raise ValueError("there must be image or images, got both")
        if not isinstance(images, list | None):
            raise ValueError(f"images must be a list, got {type(images).__name__}")
        shown = [image] if image is not None else images or []
        for each in map(self._image, shown):
            if not isinstance(each, str | bytes):
                raise ValueError(f"an image must be a path or the bytes of a file, got {type(each).__name__}")
            if isinstance(each, str) and not Path(each).is_file():
                raise ValueError(f"there is no image {each}")
        if not shown and _text(values.get("question")) is None:
            raise ValueError("there must be an image or a question, got neither")


def _without_bytes(table: pa.Table) -> pa.Table:
    """Images that are in the table itself are not read to check it: an empty file stands for each."""
    for i, field in enumerate(table.schema):
        column = table.column(i)
        if field.name == "image" and _is_file(field.type):
            table = table.set_column(
                i, "image", pa.array([b"" if there else None for there in column.is_valid().to_pylist()])
            )
        elif field.name == "images" and pa.types.is_list(field.type) and _is_file(field.type.value_type):
            counts = pc.list_value_length(column).to_pylist()
            table = table.set_column(i, "images", pa.array([None if n is None else [b""] * n for n in counts]))
    return table


def _is_file(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _text(value: Any) -> str | None:
    """A text, or ``None`` for nothing, which in CSV is a blank. Readers take a column of digits for numbers."""
    if value is None or not str(value).strip():
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _references(values: Mapping[str, Any]) -> tuple[str, ...]:
    answers, answer = values.get("answers"), _text(values.get("answer"))
    if answers is None:
        return () if answer is None else (answer,)
    texts = [_text(each) if _is_text(each) else None for each in answers] if isinstance(answers, list) else [None]
    if None in texts:
        raise ValueError(f"answers must be a list of texts, got {answers!r:.100}")
    return tuple(text for text in texts if text is not None)
