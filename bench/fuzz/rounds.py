"""One round: recipes of a surface are drawn and judged in this process, and what happens is written to a folder.

The folder is how the process that started this one knows what it died of: ``now.json`` is the recipe that runs,
``calls`` how many there were, and each line of ``faults.jsonl`` a fault with its recipe, the last of a kind the
smallest that was found.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from fuzz import SURFACES
from fuzz.isolation import Fault, isolated, unexpected

SECONDS = 20.0
"""For a call that is run in a process of its own; commands say their own."""
SHRINKING = 60.0


class RoundOverError(KeyboardInterrupt):
    """Ends hypothesis, which goes on after any other exception."""


def surface(name: str) -> ModuleType:
    """Import the module of a surface."""
    return importlib.import_module(f"fuzz.{name}" if name in SURFACES else name)


def judge(module: ModuleType, recipe: Mapping[str, Any], apart: bool) -> None:
    """``Fault`` if the recipe shows one; ``apart`` in a process of its own."""
    recipe = json.loads(json.dumps(recipe))  # as it will be read from the corpus
    if apart or getattr(module, "ISOLATED", False):
        module.prepare(recipe)
        isolated(lambda: module.judge(recipe), getattr(module, "LIMIT", SECONDS))
        return
    try:
        module.judge(recipe)
    except (Fault, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise unexpected(error) from error


def run(name: str, number: int, seconds: float, known: set[str], folder: Path, apart: int | None) -> None:
    """Judge recipes until the time is over or one fault, of a kind that is not yet ``known``, is as small as it gets.

    ``apart``: from which call on each has a process of its own.
    """
    module = surface(name)
    module.prepare()
    recipes = module.recipes()
    calls, target, end = 0, "", time.monotonic() + seconds
    now, faults = folder / "now.json", folder / "faults.jsonl"

    @seed(number)
    @settings(
        max_examples=10**9,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(recipes)
    def attempt(recipe: dict[str, Any]) -> None:
        nonlocal calls, target, end
        if time.monotonic() > end:
            raise RoundOverError
        now.write_text(json.dumps(recipe))
        calls += 1
        (folder / "calls").write_text(str(calls))
        try:
            judge(module, recipe, apart is not None and calls >= apart)
        except Fault as fault:
            if fault.kind in known or (target and fault.kind != target):
                return
            if not target:
                target, end = fault.kind, time.monotonic() + SHRINKING
            with faults.open("a") as file:
                file.write(json.dumps({"kind": fault.kind, "detail": fault.detail, "recipe": recipe}) + "\n")
            raise

    try:
        attempt()
    except (Fault, RoundOverError):
        pass
    except Exception:
        if not target:
            raise
    now.unlink(missing_ok=True)


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    run(**{**options, "known": set(options["known"]), "folder": Path(options["folder"])})
