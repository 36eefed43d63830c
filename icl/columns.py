"""Vector columns as memory-mapped tensors.

Lance keeps the rows; searching them takes the numbers as they lie in memory. So each fragment's vectors are also kept
as raw float32 in a file of their own, named after the fragment's data and deletion files. These never change, so the
copy never goes stale; where it is missing it is made again. A reader maps it and touches only what it compares.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

_BATCH = 1 << 14


def vectors(array: pa.Array | pa.ChunkedArray, width: int) -> np.ndarray:
    """The rows of a fixed-size list column, (N, width) float32; NaN for rows that have none."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if array.null_count:
        filled = np.full((len(array), width), np.nan, dtype=np.float32)
        present = np.asarray(array.is_valid())
        filled[present] = array.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        return filled
    flat: np.ndarray = array.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, width)


def mapped(folder: Path, fragments: list[Any], column: str, width: int) -> list[Tensor]:
    """The column of each of these fragments, in the order of its rows."""
    folder.mkdir(exist_ok=True)
    parts = []
    for fragment in fragments:
        rows = fragment.count_rows()
        if not rows:
            continue
        path = folder / f"{_name(fragment)}.{column}.f32"
        if not path.exists() or path.stat().st_size != rows * width * 4:
            _write(path, fragment, column, width)
        parts.append(torch.from_file(str(path), shared=False, size=rows * width, dtype=torch.float32).view(-1, width))
    return parts


def forget(folder: Path, versions: list[Any]) -> None:
    """Removes the files of fragments that none of these versions has. Who has them mapped keeps them."""
    kept = {_name(fragment) for dataset in versions for fragment in dataset.get_fragments()}
    for path in folder.glob("*.f32*"):
        if path.name.split(".")[0] not in kept:
            path.unlink(missing_ok=True)


def _name(fragment: Any) -> str:
    data = Path(fragment.data_files()[0].path).stem
    deleted = fragment.deletion_file()
    return f"{data}-{Path(deleted).stem}" if deleted else data


def _write(path: Path, fragment: Any, column: str, width: int) -> None:
    temporary = path.with_suffix(f".f32.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            for batch in fragment.to_batches(columns=[column], batch_size=_BATCH):
                file.write(np.ascontiguousarray(vectors(batch.column(0), width), dtype="<f4").data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
