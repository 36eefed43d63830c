"""The command line, found by introspection: the examples of its help, with odd values in them.

A command ends with 0, 1 or 2, or 130 after Ctrl-C, in time, and never in a traceback.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import re
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import typer
from hypothesis import strategies as st

from fuzz.isolation import Fault, place
from fuzz.workspace import MADE, workspace

ISOLATED = True
# Ctrl-C is pressed after so many seconds; a minute later it is a hang.
PATIENCE, LIMIT = 20, 80
CODES = (0, 1, 2, 130)
_FILES = (
    "rows/rows.jsonl", "rows/rows.csv", "rows/rows.parquet", "rows/images", "rows/images/0.png", "pictures",
    "pictures/a.tif", "demos.jsonl", "more.jsonl", "queries.jsonl", "embeddings.parquet", "bank", "lifted", "lift",
    "adapter", "stopped", "tested", "run.yaml", "empty", "junk.bin", "none.jsonl", "nosuch", "clip", "whole.npy",
    "texts.npy", "complex.npy", "big.npy", "wide.npy", "flat.npy", "one.npy", "no.npy", "nan.npy", "times.npy",
    "records.npy", "objects.npy", "queries.npy", ".", "..", "/", "/dev/null", "/proc/self/mem", "~", "",
)  # fmt: skip
_TEXTS = (
    "", " ", "x", "-1", "0", "1", "2", "3", "1.5", "nan", "inf", "-inf", "1e400", "1e12", "1_0", "٣", "9" * 20,
    "true", "None", "testbed", "testbed:", "testbed:options", "testbed:nosuch", "testbed:options/nosuch", "base",
    "hificl", "hyper_icl", "task_vector", "hierarchy_bias", "lora", "{question}", "{", "{nosuch}", "{0}",
    "{question.__class__}", "anchor=1", "anchor=nan", "anchor", "=", "ce=1,ce=2", "id = 'demo-1'", "\"task\" = 'vqa'",
    "task =", "1=1", "'", "demo-1", "it's", "[red]", "[/]", "\n", "a\tb", "\udcff", "é\u202e", "x" * 300, "x" * 5000,
    "--", "-k", "--help", "random", "rices", "hyperbolic", "exact", "vqa", "cider", "chair_s", "label", "text",
    "point", "depth",
)  # fmt: skip
# Added to examples, so that they take seconds.
_FAST = {
    "train": ["--data", "rows/rows.jsonl", "--dev", "rows/rows.jsonl", "--shots", "1", "--epochs", "1"],
    "eval": ["--data", "rows/rows.jsonl", "--model", "testbed"],
}
# These take minutes where nothing is wrong, and are stopped by Ctrl-C.
_SLOW = ("demo", "testbed pretrain", "testbed eval")


@cache
def commands() -> dict[str, Any]:
    """Every command of the tree, by its words."""
    from icl.cli.app import app

    found: dict[str, Any] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        children = getattr(command, "commands", None)
        if children is None:
            found[" ".join(words)] = command
        for name, child in (children or {}).items():
            walk(child, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


def prepare(recipe: Any = None) -> None:
    """Import what commands do, so that each fork need not, and use nothing of it; for a recipe make what it names."""
    import icl

    if recipe is not None:
        workspace(*_named(recipe["argv"]))
        return

    warnings.filterwarnings("ignore", "lance is not fork-safe")  # it is, until it is used
    for module in pkgutil.walk_packages(icl.__path__, "icl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def recipes() -> st.SearchStrategy[dict[str, Any]]:
    """Return the strategy that draws commands."""
    workspace(*MADE)
    quick = [name for name in commands() if name not in _SLOW]
    return st.sampled_from([*quick * 8, *_SLOW]).flatmap(_lines)


@st.composite
def _lines(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """The example of a command with words replaced, added and left out."""
    command = commands()[name]
    example = re.search(r"Example: icl (.*)", command.epilog or "")
    words = example[1].split()[len(name.split()) :] if example else []
    words = [*words, *_FAST.get(name, ())]
    letters = st.characters(exclude_characters="\0")
    odd = st.sampled_from(_FILES) | st.sampled_from(_TEXTS) | st.text(letters, max_size=4)
    options = [p for p in command.params if p.param_type_name == "option"]
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2, 2, 3)))):
        kind = draw(st.sampled_from(("add", "add", "replace", "replace", "drop")))
        values = [i for i, word in enumerate(words) if not word.startswith("-")]
        if kind == "replace" and values:
            words[draw(st.sampled_from(values))] = draw(odd)
        elif kind == "drop" and words:
            del words[draw(st.integers(0, len(words) - 1))]
        elif options:
            option = draw(st.sampled_from(options))
            words += [option.opts[0], *([] if option.is_flag else [draw(odd)])]
    return {"argv": [*name.split(), *words]}


def judge(recipe: Mapping[str, Any]) -> None:
    """``Fault`` for a traceback, another exit code, or no end. To be run in a process of its own."""
    argv = recipe["argv"]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        os.chdir(name)
        wanted = _named(argv)
        left_out = shutil.ignore_patterns(*(MADE.keys() - wanted))
        shutil.copytree(workspace(*wanted), name, dirs_exist_ok=True, ignore=left_out)
        with _captured(Path(name, "said")) as file:
            code = _run(argv)
        text = file.read_text(errors="replace")
    command = " ".join(argv[:2]) if " ".join(argv[:2]) in commands() else argv[0]
    if "Traceback (most recent call last)" in text:
        last = re.findall(r"^(\w[\w.]*)(?::|$)", text.rpartition("Traceback (most recent call last)")[2], re.MULTILINE)
        raise Fault(f"{command}: {last[-1] if last else 'an exception'}{place(text)}", text[-5000:])
    if code not in CODES:
        raise Fault(f"{command}: exit code {code}", text[-2000:])
    if code == 1 and not text.strip():
        raise Fault(f"{command}: fails without a word")


def _named(argv: list[str]) -> set[str]:
    return {Path(word).parts[0] for word in argv if word.strip(".")}


def _run(argv: list[str]) -> int:
    from icl.cli.app import app

    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(PATIENCE)
    try:
        sys.argv = ["icl", *argv]
        app(prog_name="icl")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        signal.alarm(0)
    return 0


@contextlib.contextmanager
def _captured(file: Path) -> Iterator[Path]:
    """Both streams into a file, on the level of the operating system."""
    kept = os.dup(1), os.dup(2)
    stream = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    for target in (1, 2):
        os.dup2(stream, target)
    try:
        yield file
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for target, old in zip((1, 2), kept):
            os.dup2(old, target)
