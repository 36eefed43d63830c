"""The rows of a bank in Lance: how they are opened, locked and kept unique."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from icl.schema import BankError

_LOCK_SECONDS = 600


def to_build(folder: str | Path) -> Path:
    """The folder, made if need be, if a bank can be built there, or a build that was cut short go on."""
    folder = Path(folder)
    if (folder / "bank.json").exists():
        raise BankError(f"there is a bank at {folder}: append to it, or build into another folder")
    # a lock alone is what a build leaves that had nothing to commit yet
    foreign = folder.exists() and any(path.name != ".lock" for path in folder.iterdir())
    if foreign and not (folder / "anchors.lance").exists():
        raise BankError(f"{folder} is not empty and no bank: build into another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_rows(folder: Path, version: int | None) -> lance.LanceDataset:
    uri = folder / "anchors.lance"
    try:
        return lance.dataset(str(uri), version=version)
    except (OSError, ValueError) as error:
        if version is not None and uri.exists():
            raise BankError(f"{folder} has no version {version}: AnchorBank.open(...).versions() lists them") from error
        raise BankError(
            f"the rows of {folder} cannot be read ({error}): restore it, or build the bank again"
        ) from error


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Writers take turns. The lock dies with its process."""
    try:
        with FileLock(folder / ".lock", timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise BankError(
            f"another process has been writing to {folder} for {_LOCK_SECONDS} s: try again later"
        ) from error


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise BankError(f"{what}: {error}") from error


def ids(dataset: lance.LanceDataset) -> pa.Array:
    return dataset.to_table(columns=["id"]).column("id").combine_chunks()


def refuse_duplicates(table: pa.Table, taken: pa.Array) -> None:
    ids = table.column("id")
    counts = pc.value_counts(ids)
    twice = [v["values"].as_py() for v in counts if v["counts"].as_py() > 1] if len(counts) < len(ids) else []
    known = ids.filter(pc.is_in(ids, value_set=taken)).to_pylist()
    if twice or known:
        names, how = (twice, "more than once in the rows") if twice else (known, "in the bank already")
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise BankError(f"ids must be unique, got {how}: {shown}. Nothing was added; rename or delete them first")
