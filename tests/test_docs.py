"""README and docs: every Python block and every command is run, those of one page one after the other.

So are commands in a sentence, each by itself; of those of ``icl``, which are only named there, that there is one with
these options.

What would take a large model, a download, a GPU or hours runs with something small in its place: ``SUBSTITUTES`` and
``COMMANDS`` say what. Nothing is left out.
"""

import doctest
import importlib.util
import inspect
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from harness import readme, table
from typer.testing import CliRunner

import hyperbolic
from hyperbolic import lorentz, models, pairwise, poincare
from icl import testbed
from icl.cli.app import app
from icl.testbed import accuracy, images, pretrain
from tests.icl.evaluation.test_published import WORDS, write_vqa
from tests.icl.models import tiny_model
from tests.icl.testbed.test_pretrain import SHORT
from tests.test_bench import tree

ROOT = Path(__file__).parent.parent
PAGES = {page.name: page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}

# In blocks, files and commands.
SUBSTITUTES = {
    r"HuggingFaceM4/idefics2-8b": "tiny-idefics2",  # the testbed's
    r"openai/clip-vit-base-patch32": "tiny-clip",
    r"samples: 1000": "samples: 16",
    r"--limit 1000": "--limit 4",
    r'((?:--)?shots:? |-k |k=|"k": )8': r"\g<1>2",
    r"epochs(: |=)5": r"epochs\g<1>1",
    r"bf16: true": "bf16: false",  # Trainer has it on GPUs
    r"bf16=True": "bf16=False",
    # bitsandbytes is not among what tests need
    r", BitsAndBytesConfig": "",
    r"BitsAndBytesConfig\(": "dict(",
    r"quantization_config=four_bits": "dtype=torch.float32",
    r"--method 8-shot --method HiFICL": "--method 8-shot",
}
# By how they begin; the rest of the line stands for the dots.
COMMANDS = {
    "make": f"make --dry-run -C {ROOT} ...",  # what these do, other tests and commands do
    "pip install '.[icl]'": f"{sys.executable} -m pip install -q --dry-run --no-deps --no-build-isolation {ROOT} ...",
    "torchrun --nproc-per-node 4": f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 1 ...",
    "python bench/performance.py": f"python {ROOT}/bench/performance.py ... --quick --out performance",
    "python bench/scaling.py": f"python {ROOT}/bench/scaling.py ... --rows 2000 --dim 8 --out scaling",
    "python bench/published.py": f"python {ROOT}/bench/published.py ...",
    "icl": "icl ...",
}
# Likewise, of those in a sentence.
IN_SENTENCES = {
    "make": COMMANDS["make"],
    "pytest bench": f"{sys.executable} -m pytest -q --collect-only {ROOT}/bench ...",
    "python bench/architecture.py": f"python {ROOT}/bench/architecture.py ... --check",
    "python bench/accuracy.py": f"{sys.executable} {ROOT}/bench/accuracy.py ... --quick --out accuracy",
    "python bench/compat.py": f"python {ROOT}/bench/compat.py ... --page --out compatibility",
    "python bench/latency.py": f"python {ROOT}/bench/latency.py ... --width 64 --layers 2 --tokens 8 --rounds 2",
    "python bench/methods.py": f"{sys.executable} {ROOT}/bench/methods.py ... --quick --docs . --readme README.md",
    "python bench/performance.py": f"python {ROOT}/bench/performance.py ... --quick --only overhead --out performance",
    "python bench/ranking.py": f"python {ROOT}/bench/ranking.py ... tree.json --quick --out ranking",
    "python bench/scaling.py": COMMANDS["python bench/scaling.py"],
    "python bench/wordnet.py": f"python {ROOT}/bench/wordnet.py ... tree.json --quick --out wordnet",
    "icl": "icl ... --help",
}
PROGRAMS = "icl|make|python|pip|torchrun|pytest|mkdocs"


class Piece(NamedTuple):
    """Of a page: a "python" or "pycon" block, a "command", or the name of a "file" with its text."""

    kind: str
    text: str
    name: str = ""


def pieces(page: Path) -> list[Piece]:
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in re.finditer(r"^```(\w*)\n(.*?)^```|^    ([\w./][^\n]*)$", text, re.DOTALL | re.MULTILINE):
        kind, block, line = fence.groups()
        if line is not None:
            if any(line.startswith(f"{start.split()[0]} ") for start in COMMANDS):
                found.append(Piece("command", line))
        elif named := re.match(r"# (\S+\.\w+)\n", block):
            found.append(Piece("file", substituted(block), named[1]))
        elif kind in ("python", "pycon"):
            found.append(Piece(kind, substituted(block)))
        else:
            assert kind in ("json", ""), f"{page}: what is to be done with a block of {kind}?"
    return found


def substituted(text: str) -> str:
    for pattern, small in SUBSTITUTES.items():
        text = re.sub(pattern, small, text)
    return text


def sentences(page: Path) -> list[str]:
    """Commands that are quoted in one."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(rf"`((?:{PROGRAMS}) [^`]*)`", text)


SENTENCES = sorted({line for page in PAGES.values() for line in sentences(page)})
PIECES = {name: pieces(page) for name, page in PAGES.items()}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what pages name: models, rows and their images, published data."""
    folder = tmp_path_factory.mktemp("docs")
    model, processor = testbed.load()
    model.save_pretrained(folder / "tiny-idefics2")
    processor.save_pretrained(folder / "tiny-idefics2")
    tiny_model("clip", folder / "tiny-clip")
    (folder / "images").mkdir()
    for split, count in (("train", 24), ("dev", 4), ("test", 4)):
        source = images.load_digits(split)
        rows = []
        for i in range(count):
            at = i * (len(source) // count)
            word = WORDS[int(source.labels[at])]
            (folder / f"images/{split}-{i}.png").write_bytes(source.png(at))
            answers = [word, word, "lemon"]
            row = {"id": f"{split}-{i}", "image": f"images/{split}-{i}.png", "question": "", "answers": answers}
            rows.append(row)
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        demos = [
            {"id": r["id"], "image": r["image"], "text": f"a {c} square"} for r, c in zip(rows, ["red", "blue"] * 12)
        ]
        name = {"train": "demos", "dev": "queries", "test": "others"}[split]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, demos)))
    for i in (17, 18, 19):
        (folder / f"images/{i}.png").write_bytes(images.load_digits("dev").png(i))
    write_vqa(folder, "vqav2", {"train": 20, "val": 6})
    (folder / "coco").mkdir()
    for part in ("train2014", "val2014"):
        (folder / "images" / part).rename(folder / "coco" / part)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The testbed's training and figures, in seconds instead of minutes."""
    monkeypatch.setattr(pretrain, "PHASES", SHORT)
    monkeypatch.setattr(accuracy, "SHOTS", (0, 1))
    monkeypatch.setattr(accuracy, "TASKS", {"parity": testbed.TASKS["parity"]})


@pytest.mark.parametrize("name", [name for name, found in PIECES.items() if found])
def test_page(name: str, named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    monkeypatch.chdir(shutil.copytree(named, tmp_path / "here"))
    namespace: dict[str, object] = {"__name__": "documentation"}
    torch.manual_seed(0)
    for piece in PIECES[name]:
        if piece.kind == "file":
            Path(piece.name).write_text(piece.text)
        elif piece.kind == "python":
            exec(compile(piece.text, name, "exec"), namespace)
        elif piece.kind == "pycon":
            test = doctest.DocTestParser().get_doctest(piece.text, namespace, name, name, 0)
            report: list[str] = []
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            runner.run(test, out=report.append, clear_globs=False)
            namespace.update(test.globs)
            assert not report, "".join(report)
        else:
            command(piece.text, COMMANDS)


@pytest.mark.parametrize("line", SENTENCES)
def test_sentence(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "tree.json")
    command(line, IN_SENTENCES)


def command(line: str, commands: Mapping[str, str]) -> None:
    start = next(start for start in commands if f"{line} ".startswith(f"{start} "))
    rest = shlex.split(substituted(line)[len(start) :], comments=True)
    words = [word for each in shlex.split(commands[start]) for word in (rest if each == "..." else [each])]
    if words[0] == "icl":
        result = CliRunner().invoke(app, words[1:], env={"COLUMNS": "200", "TERM": "dumb"})
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
    elif words[0] == "python":  # in this process, where all is imported already
        threads, code = torch.get_num_threads(), None
        with mock.patch.object(sys, "argv", words[1:]):
            try:
                runpy.run_path(words[1], run_name="__main__")
            except SystemExit as end:
                code = end.code
        assert not code, line
        torch.set_num_threads(threads)
    else:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MAKEFLAGS": ""}
        ran = subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment)
        assert ran.returncode == 0, f"{line}\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}"


def test_all_commands_are_seen() -> None:
    """What looks like a command is one that is run: in no block of another kind, and by no unknown program."""
    for name, page in PAGES.items():
        text = page.read_text(encoding="utf-8")
        seen = [piece.text for piece in PIECES[name] if piece.kind == "command"]
        looks = re.findall(rf"^    ((?:{PROGRAMS}|\$) .*)$", text, re.MULTILINE)
        assert looks == seen, name


def test_substitutes_are_of_use() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES.values())
    for pattern in SUBSTITUTES:
        assert re.search(pattern, text), f"{pattern} is in no page"
    for start in COMMANDS:
        assert re.search(rf"^    {re.escape(start)}( |$)", text, re.MULTILINE), f"no page has a command {start}"
    for start in IN_SENTENCES:
        assert any(f"{line} ".startswith(f"{start} ") for line in SENTENCES), f"no sentence has a command {start}"


def test_every_function_is_in_geometry() -> None:
    text = PAGES["geometry.md"].read_text(encoding="utf-8")
    for module in (lorentz, poincare, models, pairwise):
        assert f"::: {module.__name__}\n" in text
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                assert f"`{name}`" in text, f"{module.__name__}.{name}"
    for name in ("checks", "kernels"):
        assert f"::: hyperbolic.{name}\n" in text
        assert hasattr(hyperbolic, name)


def test_speed_table_is_that_of_the_measurements() -> None:
    rows = table.read(ROOT / "docs" / "performance.csv")
    wanted = list(readme.speed(rows, "python bench/performance.py"))
    block = "\n".join(("<!-- speed: generated, do not edit -->", *wanted, "<!-- end of speed -->"))
    assert block in PAGES["README.md"].read_text(encoding="utf-8")
    ours = next(row for row in rows if row["case"] == "spread" and row["implementation"] == "hyperbolic")
    assert f"| {float(ours['ratio']):.3g} |" in wanted[3]


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: extra docs")
def test_site(tmp_path: Path) -> None:
    """All links and anchors lead somewhere, and docstrings are read without a warning."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    ran = subprocess.run(
        build, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert ran.returncode == 0, ran.stderr
    for page in (ROOT / "docs").glob("*.md"):
        assert (tmp_path / "site" / page.with_suffix(".html").name).stat().st_size > 5000
    html = (tmp_path / "site" / "geometry.html").read_text(encoding="utf-8")
    assert html.count('id="hyperbolic.lorentz.dist"') == 1
    assert "Error at most 1 ULP in float32" in html
    assert ":func:" not in html
    assert "<blockquote>" not in html  # which an example would be
    # no page asks the network for anything
    assert not re.search(r'<(?:script|link)[^>]+(?:src|href)="https?://(?!squidfunk)', html)


def test_links_of_the_readme() -> None:
    text = PAGES["README.md"].read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (ROOT / target).exists(), target
