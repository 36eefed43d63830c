"""The rows of a bank in Lance: how they are opened, read, locked and kept unique.

Lance raises many kinds of errors on damage, some of them outside of ``Exception``. Here all become a ``BankError``
that says what happened and what to do.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import cast

import lance
import pyarrow as pa
import pyarrow.compute as pc

from icl.bank.schema import BUILD_FILE, METADATA_FILE, ROWS_FOLDER, BankError, BankMetadata, vector_type
from icl.common.files import locked

_LOCK_SECONDS = 600


def prepare_folder(folder: str | Path) -> Path:
    """Return the folder, made if need be, if it has nothing but a bank, or a build that was cut short."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise BankError(f"{folder} is a file: build into a folder")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    # A build that had nothing to commit yet leaves a lock and its record alone.
    others = [name for name in names if name != ".lock" and not name.startswith((BUILD_FILE, f".{BUILD_FILE}"))]
    if others and not names & {ROWS_FOLDER, METADATA_FILE}:
        raise BankError(f"{folder} is not empty and no bank: build into another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def has_commits(folder: Path) -> bool:
    """Return whether any rows were committed, readable or not."""
    return any((folder / ROWS_FOLDER).glob("_versions/*"))


def open_committed(folder: Path) -> lance.LanceDataset | None:
    """Return the rows that a build has committed. Where it was cut short before that, remove its files."""
    if has_commits(folder):
        return open_rows(folder)
    shutil.rmtree(folder / ROWS_FOLDER, ignore_errors=True)
    return None


def open_bank(folder: Path, version: int | None = None) -> tuple[BankMetadata, lance.LanceDataset]:
    """Return the metadata and the rows of a bank, in its latest version or another.

    ``BankError`` if one of them cannot be read, or they do not match.
    """
    meta = BankMetadata.read(folder)
    rows = open_rows(folder, version)
    needed = {"id", "point", "depth", "digest", *meta.widths}
    if not needed <= set(rows.schema.names) or rows.schema.field("point").type != vector_type(meta.dim):
        raise BankError(f"the rows of {folder} do not match its bank.json: restore it, or build the bank again")
    return meta, rows


def open_rows(folder: Path, version: int | None = None) -> lance.LanceDataset:
    """Return the rows, in their latest version or another. ``BankError`` if they cannot be read."""
    uri = folder / ROWS_FOLDER

    def explain(error: BaseException) -> BankError:
        if version is not None and uri.exists():
            return BankError(f"{folder} has no version {version}: AnchorBank.open(...).versions() lists them")
        return _explain_damage(folder, error)

    with _explaining(explain):
        rows = lance.dataset(str(uri), version=version)
        rows.schema  # noqa: B018  # Some damage shows only here.
        return rows


def list_versions(folder: Path) -> list[tuple[int, datetime]]:
    """Return all versions that can be opened, and when they were made, in UTC."""
    rows = open_rows(folder)
    with _explaining(partial(_explain_damage, folder)):
        versions = rows.versions()
    # Lance gives local times without a zone.
    return [(int(v["version"]), cast(datetime, v["timestamp"]).astimezone(timezone.utc)) for v in versions]


def version_at(folder: Path, when: datetime) -> int:
    """Return the last version made until then. A time without a zone is local."""
    try:
        moment = when.astimezone(timezone.utc)
    except (AttributeError, ValueError, OverflowError) as error:
        raise BankError(f"when must be a datetime from year 2 to 9998, got {when!r}") from error
    earlier = [version for version, time in list_versions(folder) if time <= moment]
    if not earlier:
        raise BankError(f"{folder} has no version as old as {when}")
    return max(earlier)


def reading(folder: Path, version: int, action: str | None = None) -> AbstractContextManager[None]:
    """Return a block in which errors of Lance say that the version is gone, or that the ``action`` failed."""

    def explain(error: BaseException) -> BankError:
        if version not in (number for number, _ in list_versions(folder)):
            return BankError(
                f"version {version} of {folder} is gone, another process has compacted the bank: open it again"
            )
        return _explain_damage(folder, error) if action is None else BankError(f"{action}: {_describe(error)}")

    return _explaining(explain)


@contextlib.contextmanager
def _explaining(explain: Callable[[BaseException], BankError]) -> Iterator[None]:
    """Raise what ``explain`` returns in place of the errors of Lance."""
    try:
        yield
    except BankError:
        raise
    except BaseException as error:
        # Where Lance's own code fails, it raises a BaseException of a module that cannot be imported.
        if isinstance(error, OSError | ValueError | OverflowError | RuntimeError) or (
            type(error).__name__ == "PanicException"
        ):
            raise explain(error) from error
        raise


def _explain_damage(folder: Path, error: BaseException) -> BankError:
    return BankError(f"the rows of {folder} cannot be read ({_describe(error)}): restore it, or build the bank again")


def _describe(error: BaseException) -> str:
    """Return a message of Lance without the line of its source code."""
    return re.sub(r",? *[^ ]*[.]rs:[0-9:]*", "", str(error))


def writing(folder: Path) -> AbstractContextManager[None]:
    """Return a block in which no other process writes. ``BankError`` if one has been writing for too long."""
    reason = f"another process has been writing to {folder} for {_LOCK_SECONDS} s: try again later"
    return locked(folder / ".lock", _LOCK_SECONDS, BankError(reason))


def read_ids(rows: lance.LanceDataset) -> pa.Array:
    """Return the ids of all rows."""
    return rows.to_table(columns=["id"]).column("id").combine_chunks()


def refuse_duplicates(ids: pa.ChunkedArray, earlier_ids: pa.Array) -> None:
    """Raise a ``BankError`` for ids that stand twice among ``ids``, or are among those of the bank."""
    counts = pc.value_counts(ids)
    twice = [v["values"].as_py() for v in counts if v["counts"].as_py() > 1] if len(counts) < len(ids) else []
    duplicates = twice or ids.filter(pc.is_in(ids, value_set=earlier_ids)).to_pylist()
    if duplicates:
        place = "more than once in the rows" if twice else "in the bank already"
        more = f" and {len(duplicates) - 5} more" if len(duplicates) > 5 else ""
        raise BankError(
            f"ids must be unique, got {place}: {', '.join(duplicates[:5])}{more}. "
            "Nothing was added; rename or delete them first"
        )
