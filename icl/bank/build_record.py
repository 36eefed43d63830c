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


def settings(embedder: Embedder | None, lift: HyperbolicLift | None, c: float) -> dict[str, Any]:
    """Return what decides the points of rows beside the rows themselves, of types that JSON has."""
    return {
        "c": c,
        "model": None if embedder is None else embedder.name,
        "dtype": str(getattr(embedder, "dtype", None)),
        "lift": None if lift is None else _digest_of(lift),
    }


class BuildRecord:
    """A build in its folder: the rows that an earlier run has committed, and a digest of all rows read so far.

    ``BankError`` if the folder has a build or a bank that was begun with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], committed: pa.Array):
        self.path, self.settings, self.committed = folder / BUILD_FILE, settings, committed
        self.finished = (folder / METADATA_FILE).exists()
        self.what = f"there is {'a bank' if self.finished else 'an unfinished build'} at {folder}"
        self.remedy = f"{'append to it' if self.finished else 'run that build again'}, or build into another folder"
        self.rows, self._contents = 0, defaultdict[str, Any](hashlib.sha256)
        self.before = self._read() if self.finished or len(committed) else {"rows": 0}

    def _read(self) -> dict[str, Any]:
        """Return the record of an earlier run."""
        try:
            before = read_json(self.path)
            theirs, rows, _ = before["settings"], before["rows"] + 0, before["digest"]
            differing = [name for name in self.settings if theirs[name] != self.settings[name]]
        except FileNotFoundError as error:
            raise BankError(f"{self.what}, without a record of how it was built: build into another folder") from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BankError(f"{self.path} is damaged ({error}): build into another folder") from error
        if differing:
            name = differing[0]
            how = f"with {name} {theirs[name]}, and not {self.settings[name]}"
            raise BankError(f"{self.what}, {how}: {self.remedy}")
        return {"rows": rows, "digest": before["digest"]}

    def fresh(self, batch: pa.RecordBatch) -> np.ndarray:
        """Note the next rows of the source, and return which of them are still to be done (N,), as booleans.

        Only rows that an earlier run has read can be done. A later one of the same id is another row.
        """
        again = min(batch.num_rows, max(0, self.before["rows"] - self.rows))
        self._note(batch.slice(0, again))
        if again and self.confirmed and self._digest() != self.before["digest"]:
            raise BankError(f"{self.what}, of other rows: {self.remedy}")
        self._note(batch.slice(again))
        ids = batch.column("id").cast(pa.string())
        fresh: np.ndarray = ~pc.is_in(ids, value_set=self.committed).to_numpy(zero_copy_only=False)
        fresh[again:] = True
        return fresh

    @property
    def confirmed(self) -> bool:
        """Whether all rows that an earlier run has read were read again, and were the same."""
        return bool(self.rows >= self.before["rows"])

    def finish(self) -> None:
        """Refuse a source that ended before, or goes on after, what the record has."""
        if not self.confirmed or (self.finished and self.rows != self.before["rows"]):
            raise BankError(f"{self.what}, of other rows: {self.remedy}")
        self.write()

    def write(self) -> None:
        """Record the rows that were read, before they are committed."""
        write_json(self.path, {"settings": self.settings, "rows": self.rows, "digest": self._digest()})

    def _note(self, batch: pa.RecordBatch) -> None:
        """Add rows to the digests of their columns, which are the same however the rows are divided into batches."""
        for field, column in zip(batch.schema, batch.columns):
            for part, values in _contents(column):
                self._contents[f"{field.name}: {field.type} {part}"].update(values)
        if "image" in batch.schema.names:
            for image in batch.column("image").to_pylist():
                if isinstance(image, str) and os.path.isfile(image):
                    self._contents["content of images"].update(digest(Path(image).read_bytes()).encode())
        self.rows += batch.num_rows

    def _digest(self) -> str:
        return digest(json.dumps({name: content.hexdigest() for name, content in sorted(self._contents.items())}))


def _contents(column: pa.Array) -> Iterator[tuple[str, bytes]]:
    """Yield the values of a column as bytes, of one part or, to be fast with vectors, two."""
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if is_list and pa.types.is_floating(kind.value_type) and not column.null_count:
        yield "lengths", pc.list_value_length(column).to_numpy().astype(np.int64).tobytes()
        yield "items", column.flatten().to_numpy(zero_copy_only=False).tobytes()
    else:
        yield "values", "".join(f"{value!r}\n" for value in column.to_pylist()).encode()


def _digest_of(lift: HyperbolicLift) -> str:
    parameters = {name: values.double().tolist() for name, values in sorted(lift.state_dict().items())}
    return digest(json.dumps([lift.config, parameters]))
