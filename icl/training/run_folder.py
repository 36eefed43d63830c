"""The folder of a run: its record in run.json, one process at a time, and whether it still is what was asked for.

A folder is never written over: what is there already either is the same run, which goes on or is finished, or an error.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icl.adapters import CONFIG_FILE, WEIGHTS_FILE
from icl.common.configuration import brief
from icl.common.files import digest_file, locked, read_json, same_format, write_json
from icl.training.checkpoints import CHECKSUMS_FILE, list_checkpoints
from icl.training.run_configuration import TrainingRun

RUN_FILE = "run.json"
CHECKPOINTS = "checkpoints"
LOCK_FILE = ".lock"
FORMAT = 1
_OPTIONAL: dict[str, Any] = {"digests": {}, "files": {}, "parameters": 0}
_WANTED: dict[str, tuple[type, ...]] = {
    "run": (dict,), "finished": (bool,), "seconds": (int, float), "digests": (dict,), "files": (dict,),
    "parameters": (int,),
}  # fmt: skip


def read_run(folder: str | Path) -> dict[str, Any] | None:
    """Return what run.json says of the adapter in a folder, or ``None`` if :func:`icl.training.train` did not make it.

    ``ValueError`` names the file if it is damaged.
    """
    file = Path(folder) / RUN_FILE
    if not file.exists():
        return None
    try:
        record = read_json(file)
        if not isinstance(record, dict) or not same_format(record.get("format"), FORMAT):
            raise ValueError(f"it must be of format {FORMAT}, the one that this version reads")
        for name, kind in _WANTED.items():
            if type(record.get(name, _OPTIONAL.get(name))) not in kind:
                raise ValueError(f"{name} is missing, or of another type: {brief(record.get(name))}")
        TrainingRun.from_dict(record["run"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    return record


def write_run(record: Mapping[str, Any], folder: Path) -> None:
    """Write run.json as a whole or not at all."""
    write_json(folder / RUN_FILE, record)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from training into a folder, which is made if need be; the lock dies with its process.

    Checkpoints that were never begun, and a folder that was made in vain, are taken away at the end. ``ValueError`` if
    another process is at work there.
    """
    is_new, checkpoints = not folder.exists(), folder / CHECKPOINTS
    checkpoints.mkdir(parents=True, exist_ok=True)
    busy = ValueError(f"{folder}: another process is training into it: wait for it, or name another folder")
    with locked(checkpoints / LOCK_FILE, 0, busy):
        try:
            yield
        finally:
            if not list_checkpoints(checkpoints):
                (checkpoints / LOCK_FILE).unlink(missing_ok=True)
                _remove_if_empty(checkpoints)
            if is_new:
                _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a run that is finished, and nothing else that may lie beside them."""
    for checkpoint in list_checkpoints(folder / CHECKPOINTS):
        shutil.rmtree(checkpoint, ignore_errors=True)


def find_record(run: TrainingRun, digests: Mapping[str, str | None], folder: Path) -> dict[str, Any] | None:
    """Return the record of a run that is finished in a folder or can go on there, or ``None`` if nothing is there.

    Raises:
        ValueError: what is there would be lost or mixed. It is another run, the same of other data or another model, an
            adapter that is not the one that was learned, or an adapter or checkpoints that nothing is known of.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out must be a folder, and {folder} is a file")
    record = read_run(folder)
    checkpoints = list_checkpoints(folder / CHECKPOINTS)
    adapter = digest_adapter(folder)
    if record is None:
        if adapter:
            raise ValueError(
                f"{folder} holds an adapter ({', '.join(adapter)}) without {RUN_FILE}: name another folder"
            )
        if checkpoints:
            raise ValueError(f"{folder / CHECKPOINTS} holds checkpoints of something else: name another folder")
        return None
    if not record["finished"] and not any((path / CHECKSUMS_FILE).exists() for path in checkpoints):
        return None  # it came to nothing, whatever it was
    if differences := sorted(_compare(record["run"], run.to_dict())):
        raise ValueError(f"{folder} holds another run, which differs in {', '.join(differences)}: name another folder")
    check_unchanged(record, run, digests, folder)
    if record["finished"] and (files := record.get("files")) and files != adapter:
        raise ValueError(
            f"{folder}: {' or '.join(files)} is missing or not what was learned: put it back, or name another folder"
        )
    return record


def check_unchanged(
    record: Mapping[str, Any], run: TrainingRun, digests: Mapping[str, str | None], folder: Path
) -> None:
    """Raise ``ValueError`` if data or the model are not those that a run was begun with."""
    before = record.get("digests", {})
    sources = {
        "train": run.data.train,
        "dev": run.data.dev,
        "pool": run.data.pool,
        "demonstrations": f"what bank {run.data.bank} chooses",
        "model": f"model {run.model}",
    }
    if changed := [str(sources[name]) for name, own in digests.items() if own and before.get(name, own) != own]:
        what = "an adapter that was learned from" if record["finished"] else "a run that was begun with"
        raise ValueError(
            f"{folder} holds {what} other data: {', '.join(changed)} changed since. Name another folder, or delete "
            "this one"
        )


def _compare(a: Any, b: Any, name: str = "") -> Iterator[str]:
    """Yield the names of the fields in which two nested dictionaries differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {*a, *b}:
            yield from _compare(a.get(key), b.get(key), f"{name}.{key}" if name else key)
    elif a != b:
        yield name


def digest_adapter(folder: Path) -> dict[str, str]:
    """Return the checksums of the files of the adapter in a folder, as far as they are there."""
    return {name: digest_file(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE) if (folder / name).exists()}
