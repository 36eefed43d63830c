"""Vector columns as memory-mapped tensors.

Lance keeps the rows; searching them takes the numbers as they lie in memory. So each fragment's vectors are also kept
as raw float32 in a file of their own, named after the fragment's data and deletion files. These never change, so the
copy never goes stale; where it is missing it is made again. A file's name ends in the checksum of its content, which
a reader compares once, before it first maps the file.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from icl.bank.schema import BankError
from icl.data import VECTOR_COLUMNS

_BATCH = 1 << 14
_BLOCK = 1 << 24


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


def mapped(folder: Path, fragments: list[Any], column: str, width: int, intact: set[Path]) -> list[Tensor]:
    """The column of each of these fragments, in the order of its rows.

    Files whose content is not that of their checksum are made again. Those in ``intact`` were compared before; the
    others are added.
    """
    folder.mkdir(exist_ok=True)
    files = {path.name.rsplit(".", 2)[0]: path for path in folder.glob("*.f32")}
    parts = []
    for fragment in fragments:
        rows = fragment.count_rows()
        if not rows:
            continue
        stem = f"{_name(fragment)}.{column}"
        path = files.get(stem)
        if path is None or (path not in intact and not _is_intact(path, rows * width * 4)):
            path = _write(folder, stem, fragment, column, width)
        intact.add(path)
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


def known(names: list[str] | None, columns: list[str]) -> list[str]:
    """Return the names if a bank has these columns; by default those that are no vectors."""
    if names is None:
        return [name for name in columns if name not in VECTOR_COLUMNS]
    if unknown := [str(name) for name in names if name not in columns]:
        raise BankError(f"the bank has no column {', '.join(unknown)}: its columns are {', '.join(columns)}")
    return names


def checksum(path: Path, start: int = 0) -> int:
    """The CRC-32 of a file, which may go on from that of something else."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            start = zlib.crc32(block, start)
    return start


def _is_intact(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size and path.name.split(".")[-2] == f"{checksum(path):08x}"
    except FileNotFoundError:  # another process makes it again
        return False


def _write(folder: Path, stem: str, fragment: Any, column: str, width: int) -> Path:
    temporary = folder / f"{stem}.f32.{os.getpid()}"
    total = 0
    try:
        with temporary.open("wb") as file:
            for batch in fragment.to_batches(columns=[column], batch_size=_BATCH):
                block = np.ascontiguousarray(vectors(batch.column(0), width), dtype="<f4").data
                total = zlib.crc32(block, total)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"{stem}.{total:08x}.f32"
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    for other in folder.glob(f"{stem}.*.f32"):
        if other != path:
            other.unlink(missing_ok=True)
    return path
