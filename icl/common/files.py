"""Files that are whole: a reader, or a process after a crash, sees the old content or the new one, and nothing between.

Everything that icl keeps on disk beside its Lance datasets is written by :func:`replacing`, directly or through
:func:`write_text` and :func:`write_json`. What tells contents apart is :func:`digest` and :func:`digest_file`; who may
write is settled by :func:`locked`.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def digest(content: bytes | str) -> str:
    """Return 32 hexadecimal digits of SHA-256, which tell one content from another whatever it is called."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:32]


def digest_file(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
    return checksum.hexdigest()


@contextmanager
def replacing(file: Path, final_name: Callable[[], str] | None = None) -> Iterator[Path]:
    """Yield the path of a draft, which takes the place of ``file`` once it is written and on the disk.

    ``final_name`` returns the file's name where that depends on the content.

    The draft lies in the same folder under a name that no other writer has; it is deleted if writing fails.
    ``OSError`` names ``file``, which then is as it was.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield draft
        _flush(draft)
        os.replace(draft, file.with_name(final_name()) if final_name else file)
        _flush(file.parent)
    except OSError as error:
        raise OSError(f"{file} cannot be written, and is as it was: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows flushes names by itself, and opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(file: Path, text: str) -> None:
    """Write a text file as a whole or not at all. ``OSError`` as :func:`replacing`."""
    with replacing(file) as draft:
        # half of a surrogate pair, which no UTF-8 has, as JSON writes it
        draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_json(file: Path, values: Any, indent: int | None = 2) -> None:
    """Write a JSON file as a whole or not at all. ``OSError`` as :func:`replacing`."""
    write_text(file, json.dumps(values, indent=indent, ensure_ascii=False) + "\n")


def read_json(file: Path) -> Any:
    """Return what a JSON file holds. ``ValueError`` if it is no JSON, also if it is nested too deep to be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def same_format(given: Any, wanted: int) -> bool:
    """Return whether a file's format version is the one that is read; ``True`` equals 1 in Python and is none."""
    return type(given) is int and given == wanted


@contextmanager
def locked(file: Path, seconds: float, error: Exception) -> Iterator[None]:
    """Hold a lock file, which dies with its process. Raise ``error`` if another holds it for so many seconds."""
    from filelock import FileLock, Timeout

    lock = FileLock(file, timeout=seconds)
    try:
        lock.acquire()
    except Timeout as timeout:
        raise error from timeout
    try:
        yield
    finally:
        lock.release()
