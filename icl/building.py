"""The record of a build, so that only the same build goes on where it was cut short.

build.json holds the settings of a build, how many rows of its source were read when it last wrote, and the digest of
these. A build that is run again has to agree with all of them: otherwise rows of two builds would meet in one bank.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from icl.embed import Embedder
from icl.lift import HyperbolicLift
from icl.schema import BUILD, META, BankError, write_json


def settings(embedder: Embedder | None, lift: HyperbolicLift | None, c: float) -> dict[str, Any]:
    """Return what decides the points of rows beside the rows themselves, of types that JSON has."""
    return {
        "c": c,
        "model": None if embedder is None else embedder.name,
        "dtype": str(getattr(embedder, "dtype", None)),
        "lift": None if lift is None else _digest(lift),
    }


class Build:
    """A build in its folder: the rows that an earlier run has committed, and a digest of all rows read so far.

    ``BankError`` if the folder has a build or a bank that was begun with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], committed: pa.Array):
        self.path, self.settings, self.committed = folder / BUILD, settings, committed
        self.finished = (folder / META).exists()
        self.what = f"there is {'a bank' if self.finished else 'an unfinished build'} at {folder}"
        self.remedy = f"{'append to it' if self.finished else 'run that build again'}, or build into another folder"
        self.rows, self._digest = 0, hashlib.sha256()
        self.before = self._read() if self.finished or len(committed) else {"rows": 0}

    def _read(self) -> dict[str, Any]:
        """Return the record of an earlier run."""
        try:
            before = json.loads(self.path.read_text())
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
        was_confirmed = self.confirmed
        self._note(batch)
        if was_confirmed or not len(self.committed):
            return np.ones(batch.num_rows, dtype=bool)
        done = pc.is_in(batch.column("id").cast(pa.string()), value_set=self.committed)
        fresh: np.ndarray = ~done.to_numpy(zero_copy_only=False)
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
        digest = self._digest.hexdigest()
        write_json(self.path, {"settings": self.settings, "rows": self.rows, "digest": digest})

    def _note(self, batch: pa.RecordBatch) -> None:
        for field, column in zip(batch.schema, batch.columns):
            self._digest.update(f"{field.name} {field.type} {batch.num_rows}".encode())
            self._digest.update(_content(column))
        if "image" in batch.schema.names:
            for image in batch.column("image").to_pylist():
                if isinstance(image, str) and os.path.isfile(image):
                    self._digest.update(Path(image).read_bytes())
        was_confirmed = self.confirmed
        self.rows += batch.num_rows
        same = self.rows == self.before["rows"] and self._digest.hexdigest() == self.before["digest"]
        if self.confirmed and not was_confirmed and not same:
            raise BankError(f"{self.what}, of other rows: {self.remedy}")


def _content(column: pa.Array) -> bytes:
    """Return the values of a column as bytes, those of vectors fast. Arrow's own bytes depend on the rows around."""
    kind = column.type
    if pa.types.is_nested(kind) and hasattr(kind, "value_type") and pa.types.is_floating(kind.value_type):
        lengths: bytes = pc.list_value_length(column).fill_null(-1).to_numpy().tobytes()
        return lengths + bytes(column.flatten().to_numpy(zero_copy_only=False).tobytes())
    return repr(column.to_pylist()).encode()


def _digest(lift: HyperbolicLift) -> str:
    digest = hashlib.sha256(json.dumps(lift.config, sort_keys=True).encode())
    for name, values in sorted(lift.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.detach().double().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
