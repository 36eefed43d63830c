"""Where demonstrations come from: files, folders of images, tables and tensors, read batch by batch."""

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
from icl.data.fields import LIST_COLUMNS, TEXT_COLUMNS, conformed, converted, plain, settled, text, texts

Source: TypeAlias = str | Path | pa.Table | pa.RecordBatchReader | Mapping[str, Any]
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "ipc", ".feather": "ipc"}


def read_batches(source: Source, batch_size: int, prompts: bool = False) -> Iterator[pa.RecordBatch]:
    """Read the rows of a path, a table, or columns, ``batch_size`` at a time.

    A path is a JSONL, JSON, Parquet, Arrow or CSV file, or a folder of these or of images. Files with a column
    ``image`` or ``images`` name images relative to themselves. A folder of images gives ``id``, the path in the folder,
    ``image`` and, for images in subfolders, ``label``. A mapping has one sequence or tensor a column. Rows without
    ``id`` are numbered.

    ``id``, ``image``, ``text``, ``question`` and ``answer`` are text, ``images`` and ``answers`` lists of texts, as the
    file has them; a CSV is all text. With ``prompts`` all other columns of single values are text too, and nested ones
    may be left out. All batches of a path have the same columns. ``ValueError`` names file, line and field.
    """
    if isinstance(source, Mapping):
        source = _table(source, prompts)
    if isinstance(source, pa.Table):
        batches = iter(source.to_batches(max_chunksize=batch_size))
    elif isinstance(source, pa.RecordBatchReader):
        batches = (part for batch in source for part in _split(batch, batch_size))
    elif isinstance(source, str | Path):
        batches = _files(Path(source), batch_size, prompts)
    else:
        raise TypeError(f"source must be a path, a table or a mapping of columns, got {type(source).__name__}")
    row = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        if not isinstance(source, str | Path):
            batch = plain(batch, prompts)
        if "id" not in batch.schema.names:
            numbers = pa.array([f"{i:08d}" for i in range(row, row + batch.num_rows)])
            batch = pa.RecordBatch.from_arrays([numbers, *batch.columns], names=["id", *batch.schema.names])
        row += batch.num_rows
        yield batch


def _split(batch: pa.RecordBatch, size: int) -> Iterator[pa.RecordBatch]:
    for i in range(0, batch.num_rows, size):
        yield batch.slice(i, size)


def _table(columns: Mapping[str, Any], prompts: bool) -> pa.Table:
    if wrong := [name for name in columns if not isinstance(name, str)]:
        raise ValueError(f"source: columns must have names that are texts, got {wrong[0]!r}")
    arrays = {name: _column(name, values, prompts) for name, values in columns.items()}
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(array)}" for name, array in arrays.items())
        raise ValueError(f"source: columns must be of one length, and {lengths}")
    return pa.table(arrays)


def _column(name: str, values: Any, prompts: bool) -> pa.Array:
    if isinstance(values, Tensor) and values.is_complex():
        raise ValueError(f"source: column {name} must be of real numbers, got {values.dtype}")
    if isinstance(values, Tensor):
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
            return pa.array([texts(value) for value in values], pa.list_(pa.string()))
        if name in TEXT_COLUMNS or prompts:
            return pa.array([text(value) for value in values], pa.string())
    except (TypeError, ValueError):
        pass  # of what Arrow may know: bytes, lists, vectors
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"source: column {name}: {error}") from error


def _files(path: Path, batch_size: int, prompts: bool) -> Iterator[pa.RecordBatch]:
    if not path.exists():
        hint = ": name a task of it, such as testbed:options" if str(path) == "testbed" else ""
        raise FileNotFoundError(f"source: there is nothing at {path}{hint}")
    files = table_files(path)
    if files:
        return _tables(files, batch_size, prompts)
    images = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES)
    if not images:
        raise ValueError(f"source: {path} holds neither images nor any of {', '.join(_FORMATS)}")
    return _images(path, images, batch_size)


def table_files(path: Path) -> list[Path]:
    """Return the files of rows at a path, in the order in which they are read. ``ValueError`` unless of one format."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in _FORMATS)
    formats = {_FORMATS.get(file.suffix.lower()) for file in files}
    if len(formats) > 1 or None in formats:
        kinds = sorted({file.suffix for file in files})
        raise ValueError(f"source: {path} must hold one of {', '.join(_FORMATS)}, got {', '.join(kinds)}")
    return files


def places(path: Path) -> Iterator[str]:
    """Where each row is: the file, and the line or the number of the row in it."""
    for file in table_files(path):
        if _is_text(file):
            yield from (f"{file}, {place}" for place, _ in text_files.rows(file))
        else:
            yield from (f"{file}, row {row}" for row in range(_dataset(file).count_rows()))


def _is_text(file: Path) -> bool:
    return _FORMATS[file.suffix.lower()] in ("json", "csv")


def _dataset(file: Path) -> ds.Dataset:
    return ds.dataset(file, format=_FORMATS[file.suffix.lower()])


def _tables(files: list[Path], size: int, prompts: bool) -> Iterator[pa.RecordBatch]:
    """The rows of files of one format, in the columns that they have together."""
    if _is_text(files[0]):
        columns = text_files.schema(files, size, prompts)
        for file in files:
            for batch in text_files.batches(file, size, columns):
                yield _beside(batch, file.parent)
        return
    columns = pa.schema([])
    for file in files:
        with _naming(file):
            kinds = _dataset(file).schema
            empty = pa.RecordBatch.from_arrays([pa.nulls(0, kind) for kind in kinds.types], schema=kinds)
            own = converted(empty, prompts).schema
            columns = pa.unify_schemas([columns, own], promote_options="permissive")
    columns = settled(columns)
    for file in files:
        with _naming(file):
            for batch in _dataset(file).to_batches(batch_size=size):
                yield _beside(conformed(converted(batch, prompts), columns), file.parent)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error


def _beside(batch: pa.RecordBatch, folder: Path) -> pa.RecordBatch:
    """Images named relative to the file that names them."""
    folder = folder.resolve()
    for i, field in enumerate(batch.schema):
        if field.name == "image" and pa.types.is_string(field.type):
            names = [name and str(folder / name) for name in batch.column(i).to_pylist()]
        elif field.name == "images" and field.type == pa.list_(pa.string()):
            names = [row and [name and str(folder / name) for name in row] for row in batch.column(i).to_pylist()]
        else:
            continue
        batch = batch.set_column(i, field, pa.array(names, field.type))
    return batch


def _images(folder: Path, images: list[Path], batch_size: int) -> Iterator[pa.RecordBatch]:
    labelled = any(image.parent != folder for image in images)
    for i in range(0, len(images), batch_size):
        part = images[i : i + batch_size]
        columns = {"id": [p.relative_to(folder).as_posix() for p in part], "image": [str(p.resolve()) for p in part]}
        if labelled:
            columns["label"] = [p.relative_to(folder).parent.as_posix() for p in part]
        yield pa.RecordBatch.from_pydict(columns)
