"""The record of a build, so that only the same build goes on where it was cut short.

build.json holds the settings of a build, how many rows of its source were read when it last wrote, and the digest of
these. A build that is run again has to agree with all of them: otherwise rows of two builds would meet in one bank.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icl.bank.embedding.embedder import Embedder
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.schema import BUILD_FILE, METADATA_FILE, BankError
from icl.common.files import digest, read_json, write_json


def build_settings(embedder: Embedder | None, lift: HyperbolicLift | None, c: float) -> dict[str, Any]:
    """Return what decides the points of rows beside the rows themselves, of types that JSON has."""
    parameters = {} if lift is None else {name: p.double().tolist() for name, p in sorted(lift.state_dict().items())}
    return {
        "c": c,
        "model": None if embedder is None else embedder.name,
        "dtype": str(getattr(embedder, "dtype", None)),
        "lift": None if lift is None else digest(json.dumps([lift.config, parameters])),
    }


class BuildRecord:
    """A build in its folder: how far an earlier run has come, and a digest of all rows read so far.

    Args:
        folder: of the bank.
        settings: those of :func:`build_settings`. ``BankError`` if the folder has a build with others.
        committed_ids: of the rows that an earlier run has committed.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], committed_ids: pa.Array):
        self.path, self.settings, self.committed_ids = folder / BUILD_FILE, settings, committed_ids
        self.finished = (folder / METADATA_FILE).exists()
        self._place = f"there is {'a bank' if self.finished else 'an unfinished build'} at {folder}"
        self._remedy = f"{'append to it' if self.finished else 'run that build again'}, or build into another folder"
        self.rows, self._contents = 0, defaultdict[str, Any](hashlib.sha256)
        self._earlier_rows, self._earlier_digest = self._read() if self.finished or len(committed_ids) else (0, "")

    def _read(self) -> tuple[int, str]:
        """Return the rows and the digest of an earlier run, which must have had the same settings."""
        try:
            record = read_json(self.path)
            earlier, rows, contents = record["settings"], record["rows"] + 0, record["digest"]
            differing = [name for name in self.settings if earlier[name] != self.settings[name]]
        except FileNotFoundError as error:
            message = f"{self._place}, without a record of how it was built: build into another folder"
            raise BankError(message) from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BankError(f"{self.path} is damaged ({error}): build into another folder") from error
        for name in differing:
            difference = f"with {name} {earlier[name]}, and not {self.settings[name]}"
            raise BankError(f"{self._place}, {difference}: {self._remedy}")
        return rows, contents

    def add(self, batch: pa.RecordBatch) -> np.ndarray:
        """Add the next rows of the source, and return which of them are not committed yet (N,), as booleans.

        Only rows that an earlier run has read can be committed. A later one of the same id is another row.
        """
        repeated = min(batch.num_rows, max(0, self._earlier_rows - self.rows))
        self._add_contents(batch.slice(0, repeated))
        if repeated and self.confirmed and self._digest() != self._earlier_digest:
            raise BankError(f"{self._place}, of other rows: {self._remedy}")
        self._add_contents(batch.slice(repeated))
        ids = batch.column("id").cast(pa.string())
        missing: np.ndarray = ~pc.is_in(ids, value_set=self.committed_ids).to_numpy(zero_copy_only=False)
        missing[repeated:] = True
        return missing

    @property
    def confirmed(self) -> bool:
        """True once all rows that an earlier run has read were read again, and were the same."""
        return bool(self.rows >= self._earlier_rows)

    def finish(self) -> None:
        """Write the record. ``BankError`` if the source ended before, or went on after, what an earlier run read."""
        if not self.confirmed or (self.finished and self.rows != self._earlier_rows):
            raise BankError(f"{self._place}, of other rows: {self._remedy}")
        self.write()

    def write(self) -> None:
        """Write the record of the rows that were read, which comes before they are committed."""
        write_json(self.path, {"settings": self.settings, "rows": self.rows, "digest": self._digest()})

    def _add_contents(self, batch: pa.RecordBatch) -> None:
        """Add rows to the digests of their columns, which are the same however the rows are divided into batches."""
        for field, column in zip(batch.schema, batch.columns):
            for part, content in _split_content(column):
                self._contents[f"{field.name}: {field.type} {part}"].update(content)
        if "image" in batch.schema.names:
            for image in batch.column("image").to_pylist():
                if isinstance(image, str) and os.path.isfile(image):
                    self._contents["content of images"].update(digest(Path(image).read_bytes()).encode())
        self.rows += batch.num_rows

    def _digest(self) -> str:
        return digest(json.dumps({name: content.hexdigest() for name, content in sorted(self._contents.items())}))


def _split_content(column: pa.Array) -> Iterator[tuple[str, bytes]]:
    """Yield the values of a column as bytes: of vectors, to be fast, their lengths and their items apart."""
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if is_list and pa.types.is_floating(kind.value_type) and not column.null_count:
        yield "lengths", pc.list_value_length(column).to_numpy().astype(np.int64).tobytes()
        yield "items", column.flatten().to_numpy(zero_copy_only=False).tobytes()
    else:
        yield "values", "".join(f"{value!r}\n" for value in column.to_pylist()).encode()
