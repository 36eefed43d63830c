"""The one reader of rows: files, folders of images, tables and columns, batch by batch.

Tables and Parquet or Arrow files go through :mod:`icl.data.fields`, CSV and JSON through :mod:`icl.data.text_files`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from torch import Tensor

from icl.data import text_files
from icl.data.fields import LIST_COLUMNS, TEXT_COLUMNS, conform_batch, convert_batch, settle_types, to_text, to_texts

Source: TypeAlias = str | Path | pa.Table | pa.RecordBatchReader | Mapping[str, Any]
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "ipc", ".feather": "ipc"}


def read_batches(source: Source, batch_size: int, prompts: bool = False) -> Iterator[pa.RecordBatch]:
    """Read the rows of a path, a table, or columns.

    Args:
        source: a JSONL, JSON, Parquet, Arrow or CSV file, a folder of these or of images, a table, a stream of batches,
            or a mapping with one sequence or tensor a column. Files with a column ``image`` or ``images`` name images
            relative to themselves. A folder of images gives ``id``, the path in the folder, ``image`` and, for images
            in subfolders, ``label``. Rows without ``id`` are numbered.
        batch_size: the most rows of a batch. All batches of a path have the same columns.
        prompts: whether other columns of single values are text too, and nested ones may be left out. Else only
            ``id``, ``image``, ``text``, ``question`` and ``answer`` are text, and ``images`` and ``answers`` lists of
            texts. Text is as the file has it; a CSV is all text.

    Raises:
        ValueError: it names file, line and field.
        TypeError: the source is nothing of these.
    """
    if isinstance(source, str | Path):
        batches = _read_path(Path(source), batch_size, prompts)
    elif isinstance(source, pa.Table | Mapping):
        table = source if isinstance(source, pa.Table) else _make_table(source, prompts)
        parts = table.to_batches(max_chunksize=batch_size)
        batches = (make_plain(part, prompts) for part in parts if part.num_rows)
    elif isinstance(source, pa.RecordBatchReader):
        slices = (batch.slice(i, batch_size) for batch in source for i in range(0, batch.num_rows, batch_size))
        batches = (make_plain(part, prompts) for part in slices)
    else:
        raise TypeError(f"source must be a path, a table or a mapping of columns, got {type(source).__name__}")
    row = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        if "id" not in batch.schema.names:
            numbers = pa.array([f"{i:08d}" for i in range(row, row + batch.num_rows)])
            batch = pa.RecordBatch.from_arrays([numbers, *batch.columns], names=["id", *batch.schema.names])
        row += batch.num_rows
        yield batch


def make_plain(batch: pa.RecordBatch, prompts: bool) -> pa.RecordBatch:
    """Return a batch that comes alone as :func:`icl.data.fields.convert_batch`; what is null in each row is text."""
    batch = convert_batch(batch, prompts)
    return conform_batch(batch, settle_types(batch.schema))


def _make_table(columns: Mapping[str, Any], prompts: bool) -> pa.Table:
    if wrong := [name for name in columns if not isinstance(name, str)]:
        raise ValueError(f"source: columns must have names that are texts, got {wrong[0]!r}")
    arrays = {name: _make_column(name, values, prompts) for name, values in columns.items()}
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(array)}" for name, array in arrays.items())
        raise ValueError(f"source: columns must be of one length, and {lengths}")
    return pa.table(arrays)


def _make_column(name: str, values: Any, prompts: bool) -> pa.Array:
    if isinstance(values, Tensor):
        if values.is_complex():
            raise ValueError(f"source: column {name} must be of real numbers, got {values.dtype}")
        values = values.detach().cpu().float().numpy() if values.is_floating_point() else values.cpu().numpy()
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1]:
        flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise ValueError(
            f"source: column {name} must have shape (rows,) or (rows, width of 1 or more), got {values.shape}"
        )
    try:
        if name in LIST_COLUMNS:
            return pa.array([to_texts(value) for value in values], pa.list_(pa.string()))
        if name in TEXT_COLUMNS or prompts:
            return pa.array([to_text(value) for value in values], pa.string())
    except (TypeError, ValueError):
        pass  # of what Arrow may know: bytes, lists, vectors
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"source: column {name}: {error}") from error


def _read_path(path: Path, batch_size: int, prompts: bool) -> Iterator[pa.RecordBatch]:
    if not path.exists():
        hint = ": name a task of it, such as testbed:options" if str(path) == "testbed" else ""
        raise FileNotFoundError(f"source: there is nothing at {path}{hint}")
    if files := _list_tables(path):
        read_tables = _read_text_tables if _is_text(files[0]) else _read_arrow_tables
        for file, batch in read_tables(files, batch_size, prompts):
            yield _locate_images(batch, file.parent.resolve())
        return
    images = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES)
    if not images:
        raise ValueError(f"source: {path} holds neither images nor any of {', '.join(_FORMATS)}")
    labelled = any(image.parent != path for image in images)
    for i in range(0, len(images), batch_size):
        names = [image.relative_to(path) for image in images[i : i + batch_size]]
        columns = {"id": [name.as_posix() for name in names], "image": [str((path / name).resolve()) for name in names]}
        if labelled:
            columns["label"] = [name.parent.as_posix() for name in names]
        yield pa.RecordBatch.from_pydict(columns)


def _list_tables(path: Path) -> list[Path]:
    """Return the files of rows at a path, in the order in which they are read. ``ValueError`` unless of one format."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in _FORMATS)
    formats = {_FORMATS.get(file.suffix.lower()) for file in files}
    if len(formats) > 1 or None in formats:
        suffixes = sorted({file.suffix for file in files})
        raise ValueError(f"source: {path} must hold one of {', '.join(_FORMATS)}, got {', '.join(suffixes)}")
    return files


def list_places(path: Path) -> Iterator[str]:
    """Yield where each row is: the file, and the line or the number of the row in it."""
    for file in _list_tables(path):
        if _is_text(file):
            yield from (f"{file}, {place}" for place, _ in text_files.read_rows(file))
        else:
            yield from (f"{file}, row {row}" for row in range(_open_arrow(file).count_rows()))


def _is_text(file: Path) -> bool:
    return _FORMATS[file.suffix.lower()] in ("json", "csv")


def _read_text_tables(files: list[Path], size: int, prompts: bool) -> Iterator[tuple[Path, pa.RecordBatch]]:
    columns = text_files.read_schema(files, size, prompts)
    return ((file, batch) for file in files for batch in text_files.read_file(file, size, columns))


def _read_arrow_tables(files: list[Path], size: int, prompts: bool) -> Iterator[tuple[Path, pa.RecordBatch]]:
    """Read Parquet or Arrow files, in the columns that they have together."""
    columns = pa.schema([])
    for file in files:
        with _naming(file):
            schema = _open_arrow(file).schema
            empty = pa.RecordBatch.from_arrays([pa.nulls(0, kind) for kind in schema.types], schema=schema)
            own = convert_batch(empty, prompts).schema
            columns = pa.unify_schemas([columns, own], promote_options="permissive")
    columns = settle_types(columns)
    for file in files:
        with _naming(file):
            for batch in _open_arrow(file).to_batches(batch_size=size):
                yield file, conform_batch(convert_batch(batch, prompts), columns)


def _open_arrow(file: Path) -> ds.Dataset:
    return ds.dataset(file, format=_FORMATS[file.suffix.lower()])


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Name the file in what Arrow raises."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error


def _locate_images(batch: pa.RecordBatch, folder: Path) -> pa.RecordBatch:
    """Return a batch with the whole paths of images, which are named relative to their file's folder."""
    for i, field in enumerate(batch.schema):
        if field.name == "image" and pa.types.is_string(field.type):
            paths = [name and str(folder / name) for name in batch.column(i).to_pylist()]
        elif field.name == "images" and field.type == pa.list_(pa.string()):
            paths = [row and [name and str(folder / name) for name in row] for row in batch.column(i).to_pylist()]
        else:
            continue
        batch = batch.set_column(i, field, pa.array(paths, field.type))
    return batch
