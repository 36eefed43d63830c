"""Checkpoints of a training: checksums, written last, tell which of them are whole."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from icl.common.files import digest_file, read_json, write_json

CHECKSUMS_FILE = "checksums.json"
STATE_FILE = "trainer_state.json"
# Trainer says nothing where one of these is missing, and goes on with other numbers.
TO_GO_ON = ("optimizer.pt", "scheduler.pt", STATE_FILE)
_PREFIX = "checkpoint-"


def seal(folder: str | Path) -> None:
    """Write the checksums of all files of a checkpoint that is complete."""
    folder = Path(folder)
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS_FILE)
    write_json(folder / CHECKSUMS_FILE, {path.name: digest_file(path) for path in files})


def find_fault(folder: str | Path, needed: Sequence[str] = TO_GO_ON) -> str | None:
    """Return what is wrong with a checkpoint, or ``None`` if it is whole.

    It is whole if all its files have the checksums that were written after them, and those ``needed`` are among them:
    by default what a training takes to go on.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    try:
        checksums = read_json(folder / CHECKSUMS_FILE)
    except FileNotFoundError:
        return f"its saving was cut short: there is no {CHECKSUMS_FILE}"
    except (OSError, ValueError) as error:
        return f"{CHECKSUMS_FILE} cannot be read: {error}"
    if not isinstance(checksums, dict):
        return f"{CHECKSUMS_FILE} is damaged"
    for name in dict.fromkeys([*needed, *checksums]):
        try:
            if digest_file(folder / name) != checksums.get(name):
                return f"{name} is damaged"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error}"
    return None


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints in a folder, whole or not, the newest first."""
    steps = {path: path.name.removeprefix(_PREFIX) for path in Path(folder).glob(f"{_PREFIX}*")}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: -int(steps[path]))


def find_newest_whole(folder: str | Path) -> tuple[Path | None, dict[Path, str]]:
    """Return the newest checkpoint that a training can go on from, and why not from those after it.

    The checkpoint that was the best until then must be whole too: it is what a training may end with.
    """
    faults: dict[Path, str] = {}
    for checkpoint in list_checkpoints(folder):
        reason = find_fault(checkpoint)
        if reason is None and (best := find_best(checkpoint)) not in (None, checkpoint) and (fault := find_fault(best)):
            reason = f"the best until then, {best.name}, is not whole: {fault}"
        if reason is None:
            return checkpoint, faults
        faults[checkpoint] = reason
    return None, faults


def find_best(checkpoint: Path) -> Path | None:
    """Return the checkpoint beside a whole one that was the best when it was saved, if any was."""
    step = read_json(checkpoint / STATE_FILE)["best_global_step"]
    return None if step is None else checkpoint.with_name(f"{_PREFIX}{step}")


def prune(folder: str | Path) -> None:
    """Delete all checkpoints but the newest two that are whole, and the best of each.

    Two, so that there is another to go on from if one is damaged.
    """
    newest = list(islice((path for path in list_checkpoints(folder) if find_fault(path) is None), 2))
    needed = {*newest, *map(find_best, newest)}
    for checkpoint in list_checkpoints(folder):
        if checkpoint not in needed:
            shutil.rmtree(checkpoint, ignore_errors=True)
