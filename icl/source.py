"""Where demonstrations come from: files, folders of images, tables and tensors, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.json
from torch import Tensor

Source: TypeAlias = str | Path | pa.Table | pa.RecordBatchReader | Mapping[str, Any]
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".arrow": "ipc", ".feather": "ipc", ".csv": "csv"}


def read(source: Source, batch_size: int) -> Iterator[pa.RecordBatch]:
    """The rows of a JSONL, Parquet, Arrow or CSV file, of a folder of these or of images, of a table, or of columns.

    Files with a column ``image`` name images relative to themselves. A folder of images gives ``id``, the path in the
    folder, ``image`` and, for images in subfolders, ``label``. A mapping has one sequence or tensor a column. Rows
    without ``id`` are numbered.
    """
    if isinstance(source, Mapping):
        source = pa.table({name: _column(name, values) for name, values in source.items()})
    if isinstance(source, pa.Table):
        batches = iter(source.to_batches(max_chunksize=batch_size))
    elif isinstance(source, pa.RecordBatchReader):
        batches = (part for batch in source for part in _split(batch, batch_size))
    elif isinstance(source, str | Path):
        batches = _files(Path(source), batch_size)
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


def _split(batch: pa.RecordBatch, size: int) -> Iterator[pa.RecordBatch]:
    for i in range(0, batch.num_rows, size):
        yield batch.slice(i, size)


def _column(name: str, values: Any) -> pa.Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu().float().numpy() if values.is_floating_point() else values.cpu().numpy()
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise ValueError(f"source: column {name} must have shape (rows,) or (rows, width), got {values.shape}")
    return pa.array(values)


def _files(path: Path, batch_size: int) -> Iterator[pa.RecordBatch]:
    if not path.exists():
        raise FileNotFoundError(f"source: there is nothing at {path}")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in _FORMATS)
    if files:
        formats = {_FORMATS.get(file.suffix.lower()) for file in files}
        if len(formats) > 1 or None in formats:
            kinds = sorted({file.suffix for file in files})
            raise ValueError(f"source: {path} must hold one of {', '.join(_FORMATS)}, got {', '.join(kinds)}")
        return _tables(files, formats.pop() or "", batch_size)
    images = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES)
    if not images:
        raise ValueError(f"source: {path} holds neither images nor any of {', '.join(_FORMATS)}")
    return _images(path, images, batch_size)


def _tables(files: list[Path], form: str, batch_size: int) -> Iterator[pa.RecordBatch]:
    for file in files:
        if form == "json":  # the reader that pyarrow's datasets have for it loses a last line without an end
            with pa.json.open_json(file) as reader:
                batches = (part for batch in reader for part in _split(batch, batch_size))
                yield from (_beside(batch, file.parent) for batch in batches)
        else:
            batches = ds.dataset(file, format=form).to_batches(batch_size=batch_size)
            yield from (_beside(batch, file.parent) for batch in batches)


def _beside(batch: pa.RecordBatch, folder: Path) -> pa.RecordBatch:
    """Images named relative to the file that names them."""
    if "image" not in batch.schema.names or not pa.types.is_string(batch.schema.field("image").type):
        return batch
    folder = folder.resolve()
    images = [None if name is None else str(folder / name) for name in batch.column("image").to_pylist()]
    return batch.set_column(batch.schema.get_field_index("image"), "image", pa.array(images, pa.string()))


def _images(folder: Path, images: list[Path], batch_size: int) -> Iterator[pa.RecordBatch]:
    labelled = any(image.parent != folder for image in images)
    for i in range(0, len(images), batch_size):
        part = images[i : i + batch_size]
        columns = {"id": [p.relative_to(folder).as_posix() for p in part], "image": [str(p.resolve()) for p in part]}
        if labelled:
            columns["label"] = [p.relative_to(folder).parent.as_posix() for p in part]
        yield pa.RecordBatch.from_pydict(columns)
