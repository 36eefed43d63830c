"""Vector columns as memory-mapped tensors.

Lance keeps the rows; searching them takes the numbers as they lie in memory. So each fragment's vectors are also kept
as raw float32 in a file of their own, named after the fragment's data and deletion files. These never change, so the
copy never goes stale; where it is missing it is made again. A file's name ends in the checksum of its content, which
a reader compares once, before it first maps the file.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from icl.common.files import replacing

_BATCH = 1 << 14
_BLOCK = 1 << 24


def vector_array(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return a column of fixed-size lists as (N, width) float32; NaN in rows that have none."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    vectors: np.ndarray = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    if not column.null_count:
        return vectors
    padded = np.full((len(column), column.type.list_size), np.nan, dtype=np.float32)
    padded[np.asarray(column.is_valid())] = vectors
    return padded


def map_vectors(folder: Path, fragments: list[Any], column: str, width: int, intact: set[Path]) -> list[Tensor]:
    """Return the column of each fragment that has rows, memory-mapped (rows, width), in the order of the rows.

    Files whose content is not that of their checksum are made again. Those in ``intact`` were compared before; the
    others are added to it.
    """
    folder.mkdir(exist_ok=True)
    files = {path.name.rsplit(".", 2)[0]: path for path in folder.glob("*.f32")}
    vectors = []
    for fragment in fragments:
        rows = fragment.count_rows()
        if not rows:
            continue
        stem = f"{_fragment_name(fragment)}.{column}"
        path = files.get(stem)
        if path is None or (path not in intact and not _is_intact(path, rows * width * 4)):
            path = _write(folder, stem, fragment, column)
        intact.add(path)
        vectors.append(torch.from_file(str(path), shared=False, size=rows * width, dtype=torch.float32).view(-1, width))
    return vectors


def delete_unused(folder: Path, versions: list[Any]) -> None:
    """Delete the files of fragments that none of the versions has. Processes that have them mapped keep them."""
    used = {_fragment_name(fragment) for rows in versions for fragment in rows.get_fragments()}
    for path in folder.glob("*.f32*"):
        if path.name.lstrip(".").split(".")[0] not in used:
            path.unlink(missing_ok=True)


def crc32_of_file(path: Path, start: int = 0) -> int:
    """Return the CRC-32 of a file, which may go on from that of something else."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            start = zlib.crc32(block, start)
    return start


def _fragment_name(fragment: Any) -> str:
    data = Path(fragment.data_files()[0].path).stem
    deletions = fragment.deletion_file()
    return f"{data}-{Path(deletions).stem}" if deletions else data


def _is_intact(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size and path.name.split(".")[-2] == f"{crc32_of_file(path):08x}"
    except FileNotFoundError:  # Another process makes it again.
        return False


def _write(folder: Path, stem: str, fragment: Any, column: str) -> Path:
    """Write the file of a fragment's column in place of any other, and return its path."""
    checksum = 0
    replacement = replacing(folder / f"{stem}.f32", final_name=lambda: f"{stem}.{checksum:08x}.f32")
    with replacement as draft, draft.open("wb") as file:
        for batch in fragment.to_batches(columns=[column], batch_size=_BATCH):
            block = np.ascontiguousarray(vector_array(batch.column(0)), dtype="<f4").data
            checksum = zlib.crc32(block, checksum)
            file.write(block)
    path = folder / f"{stem}.{checksum:08x}.f32"
    for other in folder.glob(f"{stem}.*.f32"):
        if other != path:
            other.unlink(missing_ok=True)
    return path
