"""Rows to make a bank of: all that :func:`icl.data.read_batches` reads, and the rows of another bank."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from icl.bank.schema import METADATA_FILE, BankMetadata
from icl.data import Source, read_batches


def read_rows(source: Source, batch_size: int) -> Iterator[pa.RecordBatch]:
    """Read rows as :func:`icl.data.read_batches`; those of a bank come without their points, to be lifted again."""
    if isinstance(source, str | Path) and (Path(source) / METADATA_FILE).exists():
        return _read_bank(Path(source), batch_size)
    return read_batches(source, batch_size)


def _read_bank(folder: Path, batch_size: int) -> Iterator[pa.RecordBatch]:
    from icl.bank.lance_rows import open_rows  # slow to import, and needed here alone

    BankMetadata.read(folder)
    rows = open_rows(folder, None)
    names = [name for name in rows.schema.names if name not in ("point", "depth", "digest")]
    yield from rows.to_batches(columns=names, batch_size=batch_size)
