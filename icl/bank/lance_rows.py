"""The rows of a bank in Lance: how they are opened, locked and kept unique."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import cast

import lance
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from icl.bank.schema import BUILD_FILE, METADATA_FILE, ROWS_FOLDER, BankError, BankMetadata, vector_type

_LOCK_SECONDS = 600


def to_build(folder: str | Path) -> Path:
    """Return the folder, made if need be, if it has nothing but a bank, or a build that was cut short."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise BankError(f"{folder} is a file: build into a folder")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    # a lock, or the record of a build, is all that a build leaves that had nothing to commit yet
    if not names & {ROWS_FOLDER, METADATA_FILE} and any(
        name != ".lock" and not name.startswith(BUILD_FILE) for name in names
    ):
        raise BankError(f"{folder} is not empty and no bank: build into another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def has_rows(folder: Path) -> bool:
    """Return whether anything was committed, readable or not."""
    return any((folder / ROWS_FOLDER).glob("_versions/*"))


def committed_rows(folder: Path) -> lance.LanceDataset | None:
    """Return what a build that was cut short has committed. Without a first commit, its files are removed."""
    if has_rows(folder):
        return open_rows(folder, None)
    shutil.rmtree(folder / ROWS_FOLDER, ignore_errors=True)
    return None


def open_bank(folder: Path, version: int | None = None) -> tuple[BankMetadata, lance.LanceDataset]:
    """Return what a bank is and its rows, in its latest version or another. ``BankError`` if they do not match."""
    meta = BankMetadata.read(folder)
    rows = open_rows(folder, version)
    wanted = {"id", "point", "depth", "digest", *meta.widths}
    if not wanted <= set(rows.schema.names) or rows.schema.field("point").type != vector_type(meta.dim):
        raise BankError(f"the rows of {folder} do not match its bank.json: restore it, or build the bank again")
    return meta, rows


def open_rows(folder: Path, version: int | None) -> lance.LanceDataset:
    if version is not None:
        from icl.bank.arguments import whole  # which imports torch

        version = whole("version", version, 1)
    uri = folder / ROWS_FOLDER
    try:
        with _without_panic():
            rows = lance.dataset(str(uri), version=version)
            rows.schema  # noqa: B018  # where some damage shows first
            return rows
    except (OSError, ValueError, OverflowError, RuntimeError) as error:
        if version is not None and uri.exists():
            raise BankError(f"{folder} has no version {version}: AnchorBank.open(...).versions() lists them") from error
        raise _damaged(folder, error) from error


def versions(folder: Path) -> list[tuple[int, datetime]]:
    """Return all versions that can be opened, with when they were made, in UTC."""
    rows = open_rows(folder, None)
    try:
        with _without_panic():
            made = rows.versions()
    except (OSError, ValueError, RuntimeError) as error:
        raise _damaged(folder, error) from error
    # the storage gives local times without a zone
    return [(int(v["version"]), cast(datetime, v["timestamp"]).astimezone(timezone.utc)) for v in made]


def version_at(folder: Path, when: datetime) -> int:
    """Return the last version made until then. A time without a zone is local."""
    try:
        moment = when.astimezone(timezone.utc)
    except (AttributeError, ValueError, OverflowError) as error:
        raise BankError(f"when must be a datetime from year 2 to 9998, got {when!r}") from error
    before = [version for version, made in versions(folder) if made <= moment]
    if not before:
        raise BankError(f"{folder} has no version as old as {when}")
    return max(before)


@contextlib.contextmanager
def reading(folder: Path, version: int, what: str | None = None) -> Iterator[None]:
    """Explain what the storage raises: the version is gone, or ``what`` cannot be done, by default reading the rows."""
    try:
        with _without_panic():
            yield
    except BankError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        if version not in (number for number, _ in versions(folder)):
            raise BankError(
                f"version {version} of {folder} is gone, another process has compacted the bank: open it again"
            ) from error
        if what is None:
            raise _damaged(folder, error) from error
        raise BankError(f"{what}: {_without_place(error)}") from error


@contextlib.contextmanager
def _without_panic() -> Iterator[None]:
    """Raise as a RuntimeError where the storage's own code fails on damage, which it tells by a BaseException."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of a module that cannot be imported
            raise RuntimeError(str(error)) from error
        raise


def _damaged(folder: Path, error: Exception) -> BankError:
    reason = _without_place(error)
    return BankError(f"the rows of {folder} cannot be read ({reason}): restore it, or build the bank again")


def _without_place(error: Exception) -> str:
    """Return a message of the storage without the line of its source code."""
    return re.sub(r",? *[^ ]*[.]rs:[0-9:]*", "", str(error))


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
