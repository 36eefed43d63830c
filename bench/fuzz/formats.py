"""Every file that ``icl`` reads: whole, cut, with bytes flipped, with values of foreign types in it.

A file is read, or refused by one of ``ALLOWED``, which the command line says in one line. What a file says as text is
read as that text.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml  # type: ignore[import-untyped]
from hypothesis import strategies as st
from PIL import Image

from fuzz import commands
from fuzz.isolation import Fault, only
from fuzz.workspace import MADE, workspace

ALLOWED = (ValueError, OSError, ImportError)
_TREES = {".json": "json", ".yaml": "yaml", ".jsonl": "jsonl"}
# What is put in place of a value, as it is written in the file.
_VALUES = (
    "null", "true", "0", "-1", "1", "2.5", "1e400", "NaN", "-Infinity", "99999999999999999999", '""', '"x"', '"007"',
    "[]", "{}", "[null]", "[[1], 2]", '{"a": 1}', '{"name": "hificl"}', '["x"]', '"2024-01-01"', '"../../etc/passwd"',
    "deep", "long",
)  # fmt: skip
_DEEP = {"deep": "[" * 3000 + "]" * 3000, "long": '"' + "x" * 5000 + '"'}


# --- readers ---------------------------------------------------------------------------------------------------------


def _read_records(path: Path) -> None:
    from hyperbolic.plot.pictures import load_image
    from icl.data import Records

    records = Records(path)
    for row in range(len(records)):
        for image in records[row].images:
            with contextlib.suppress(Image.DecompressionBombError):  # which its docstring promises
                load_image(image)


def _read_picture(path: Path) -> None:
    from hyperbolic.plot.pictures import load_image

    with contextlib.suppress(Image.DecompressionBombError):
        load_image(path)


def _read_bank(folder: Path) -> list[Any]:
    from icl.bank import AnchorBank, describe_bank, search_index

    bank = AnchorBank.open(folder)
    query = torch.ones(2, bank.meta.dim)
    hits = [bank.search(query, 3), bank.search(query, 3, where="id != 'demo-1'"), search_index(bank, query, 3)]
    rows = [bank.take(hit.rows.flatten()).to_pylist() for hit in hits]
    describe_bank(bank.folder, bank.meta, bank.dataset)
    assert bank.lift is None or bank.lift.c > 0
    return [*rows, *(hit.dist.tolist() for hit in hits), bank.gather(torch.arange(len(bank))).tolist()]


def _read_lift(folder: Path) -> None:
    from icl.bank import HyperbolicLift

    lift = HyperbolicLift.load(folder)
    lift(torch.eye(4))


def _read_adapter(folder: Path) -> None:
    from icl import testbed
    from icl.adapters import Adapters
    from icl.training import read_run

    read_run(folder)
    Adapters.from_pretrained(testbed.load()[0], folder)


def _resume(folder: Path) -> None:
    from icl.training import TrainingRun, read_run, train

    run = read_run(folder)
    if run is not None:
        train(TrainingRun.from_dict(run["run"]), folder)


def _read_results(path: Path) -> None:
    from icl.evaluation import Results, markdown_tables, terminal_tables

    results = Results(path)
    results.csv()
    markdown_tables(results.rows())
    terminal_tables(results.rows(), 80)


def _read_yaml(path: Path) -> None:
    from icl.training import TrainingRun, read_yaml

    run = TrainingRun.from_dict(read_yaml(path))
    assert run.label
    TrainingRun.from_dict(run.to_dict())


# The entry of the workspace and what reads it. Where the entry is a folder, any file in it may be the damaged one.
FORMATS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    **{f"rows.{kind}": (f"rows/rows.{kind}", _read_records) for kind in ("csv", "jsonl", "parquet", "arrow")},
    **{name: (f"pictures/{name}", _read_picture) for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tif")},
    "bank": ("bank", _read_bank),
    "lifted bank": ("lifted", _read_bank),
    "lift": ("lift", _read_lift),
    "adapter": ("adapter", _read_adapter),
    "checkpoint": ("stopped", _resume),
    "results": ("tested/results.json", _read_results),
    "run": ("run.yaml", _read_yaml),
}


# --- recipes ---------------------------------------------------------------------------------------------------------


def prepare(recipe: Any = None) -> None:
    """As for commands; for a recipe the file that it damages."""
    if recipe is None:
        return commands.prepare()
    if "format" in recipe:
        workspace(_root(recipe))


def _root(recipe: Mapping[str, Any]) -> str:
    return Path(FORMATS[recipe["format"]][0]).parts[0]


@cache
def _files(name: str) -> list[str]:
    """The files of a format as patterns, because some names are drawn anew whenever the workspace is made."""
    root = workspace() / FORMATS[name][0]
    paths = [root] if root.is_file() else [p for p in root.rglob("*") if p.is_file() and p.name != ".lock"]
    names = (str(path.relative_to(workspace())) for path in paths)
    return sorted({re.sub(r"[0-9a-f]{8}-[0-9a-f-]{20,}|[0-9a-f]{16,}", "*", name) for name in names})


def recipes() -> st.SearchStrategy[dict[str, Any]]:
    """Return the strategy that draws files and how they are spoiled."""
    workspace(*MADE)
    # a run that goes on takes a thousand times as long as anything else
    damaged = st.sampled_from([*FORMATS] + [name for name in FORMATS if name != "checkpoint"] * 5).flatmap(_damaged)
    return st.one_of(damaged, damaged, damaged, _texts())


@st.composite
def _damaged(draw: st.DrawFn, name: str) -> dict[str, Any]:
    file = draw(st.sampled_from(_files(name)))
    places = st.integers(0, 2**16)
    edits = [
        st.tuples(st.just("cut"), places),
        st.tuples(st.just("flip"), places, st.integers(1, 255)),
        st.tuples(st.just("insert"), places, st.text(st.characters(max_codepoint=255), min_size=1, max_size=4)),
        st.tuples(st.sampled_from(("delete", "folder"))),
    ]
    if Path(file).suffix in _TREES:
        edits += [st.tuples(st.just("set"), places, st.sampled_from(_VALUES)), st.tuples(st.just("drop"), places)] * 3
    edit = st.one_of(edits).map(list)
    return {"format": name, "file": file, "edits": draw(st.lists(edit, min_size=1, max_size=2))}


@st.composite
def _texts(draw: st.DrawFn) -> dict[str, Any]:
    """Rows of texts that look like something else."""
    odd = ("007", "3.50", "1e5", "NA", "null", "true", "2024-01-01", "12:30", "nan", "1_000", " x ", "9" * 20)
    characters = st.characters(exclude_categories=("Cs", "Cc"))
    text = st.sampled_from(odd) | st.text(characters, max_size=5)
    kind = draw(st.sampled_from(("csv", "jsonl", "parquet", "large parquet", "dictionary parquet")))
    answer = text | st.integers(-9, 9) | st.booleans() if kind == "jsonl" else text
    rows = draw(st.lists(st.tuples(text, text, answer), min_size=1, max_size=4, unique_by=lambda row: row[0]))
    return {"texts": kind, "rows": [list(row) for row in rows]}


# --- judgement -------------------------------------------------------------------------------------------------------


def judge(recipe: Mapping[str, Any]) -> None:
    """``Fault`` for an exception that nobody was promised, and for a text that is read as another."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        if "texts" in recipe:
            return _judge_texts(recipe, folder)
        entry, read = FORMATS[recipe["format"]]
        root = _root(recipe)
        source, copy = workspace(root) / root, folder / root
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
        try:
            damaged = sorted(folder.glob(recipe["file"]))[0]
        except IndexError:
            return  # a layout of the past
        for edit in recipe["edits"]:
            _edit(damaged, edit)
        try:
            with only(*ALLOWED):
                result = read(folder / entry)
        except ALLOWED:
            return
        # Vectors and indexes are copies of what the rows say, so that damage to them can be seen.
        copied = any(part in recipe["file"] for part in ("vectors/", ".usearch", "index.json"))
        if copied and result != _whole(recipe["format"]):
            raise Fault(f"{recipe['format']}: other results from a damaged {Path(recipe['file']).suffix}")


@cache
def _whole(name: str) -> Any:
    entry, read = FORMATS[name]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        return read(Path(shutil.copytree(workspace(entry) / entry, Path(folder, entry))))


def _edit(file: Path, edit: Sequence[Any]) -> None:
    what, *arguments = edit
    if not file.is_file():
        return
    content = file.read_bytes()
    place = arguments[0] % (len(content) + 1) if arguments else 0
    if what in ("delete", "folder"):
        file.unlink()
        if what == "folder":
            file.mkdir()
    elif what == "cut":
        file.write_bytes(content[:place])
    elif what == "flip" and content:
        place %= len(content)
        file.write_bytes(content[:place] + bytes([content[place] ^ arguments[1]]) + content[place + 1 :])
    elif what == "insert":
        file.write_bytes(content[:place] + arguments[1].encode("latin-1") + content[place:])
    elif what in ("set", "drop"):
        _edit_tree(file, what, *arguments)


def _edit_tree(file: Path, what: str, place: int, value: str = "") -> None:
    """Replace or drop one of the values of a JSON or YAML file, or of a line of JSON."""
    form = _TREES[file.suffix]
    try:
        text = file.read_text()
        if form == "jsonl":
            tree: Any = [json.loads(line) for line in text.splitlines()]
        else:
            tree = json.loads(text) if form == "json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        return  # an edit before has made it something else
    nodes = list(_nodes(tree, form == "jsonl"))
    if not nodes:
        return
    parent, key = nodes[place % len(nodes)]
    if what == "drop":
        del parent[key]
    else:
        parent[key] = "@@@"
    written = "\n".join(map(json.dumps, tree)) if form == "jsonl" else json.dumps(tree)
    file.write_text(written.replace('"@@@"', _DEEP.get(value, value)))


def _nodes(tree: Any, lines: bool = False) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _nodes(value)


def _judge_texts(recipe: Mapping[str, Any], folder: Path) -> None:
    from icl.data import Records

    names, rows = ("id", "question", "answer"), recipe["rows"]
    kind = recipe["texts"]
    file = folder / f"rows.{kind.split()[-1]}"
    if kind == "csv":
        with file.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([names, *rows])
    elif kind == "jsonl":
        lines = (json.dumps(dict(zip(names, row)), ensure_ascii=False) + "\n" for row in rows)
        file.write_text("".join(lines), encoding="utf-8")
    else:
        types = {"large": pa.large_string(), "dictionary": pa.dictionary(pa.int32(), pa.string())}
        form = types.get(kind.split()[0], pa.string())
        columns = {name: pa.array(column, pa.string()).cast(form) for name, column in zip(names, zip(*rows))}
        pq.write_table(pa.table(columns), file)
    try:
        with only(*ALLOWED):
            records = Records(file)
            read = [[r.id, r.question, r.answer] for r in map(records.__getitem__, range(len(records)))]
    except ALLOWED:
        if all(isinstance(cell, str) and cell.strip() for row in rows for cell in row):
            raise Fault(f"texts: rows of texts are refused from {file.suffix}", json.dumps(rows)) from None
        return
    expected = [[_expected(cell) for cell in row] for row in rows]
    if read != expected:
        raise Fault(f"texts: other texts are read from {file.suffix}", f"{read}\nwant {expected}")


def _expected(cell: Any) -> str | None:
    if isinstance(cell, bool):
        return str(cell).lower()
    return str(cell) if str(cell).strip() else None
