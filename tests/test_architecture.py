"""The house is as docs/architecture.md draws it: arrows one way, small folders and files, one name for one thing."""

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import architecture
import pytest

ROOT = Path(__file__).parent.parent
WINGS = sorted(path.parent for path in (ROOT / "icl").glob("*/__init__.py"))


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)})


def test_picture_is_current() -> None:
    arrows = architecture.read_wings()
    assert architecture.PICTURE.read_text(encoding="utf-8") == architecture.draw(arrows), (
        "run python bench/architecture.py"
    )


def test_every_path_on_the_page_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:icl|hyperbolic|csrc|tests|bench|docs)/[^`\s]*)`", page)
    assert len(paths) > 20
    assert [path for path in paths if "NAME" not in path and not (ROOT / path).exists()] == []


def test_chain_of_imports_is_short() -> None:
    chain = architecture.longest_chain(architecture.read_wings())
    assert len(chain) - 1 <= 7, " -> ".join(chain)


def test_import_of_a_wing_above_is_refused(tmp_path: Path) -> None:
    """The contracts hold for the code as it is, and not once a lower wing imports a higher one, or its inside."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("hyperbolic", "icl"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    whole = lint_imports(tmp_path)
    assert whole.returncode == 0, whole.stdout
    for statement, contract in (
        ("from icl.evaluation import Results", "Arrows between wings go one way"),
        ("from icl.data.records import Record", "What is inside icl.data is its own"),
    ):
        file = tmp_path / "icl" / "bank" / "schema.py"
        before = file.read_text()
        file.write_text(f"{before}\n\n{statement}  # noqa\n")
        broken = lint_imports(tmp_path)
        file.write_text(before)
        assert broken.returncode == 1
        assert f"{contract} BROKEN" in broken.stdout
    (tmp_path / "hyperbolic" / "version.py").write_text('import icl\n__version__ = "0"\n')
    assert "The geometry knows nothing of in-context learning BROKEN" in lint_imports(tmp_path).stdout


def test_folders_and_files_are_small() -> None:
    inside = {path.name for path in (ROOT / "icl").iterdir()} - {"__pycache__"}
    assert inside - {path.name for path in WINGS} == {"__init__.py", "py.typed"}
    assert len(WINGS) <= 12
    for folder in (ROOT / "icl").rglob("*"):
        if folder.is_dir() and folder.name != "__pycache__":
            assert len([path for path in folder.iterdir() if path.is_file()]) <= 12, folder
    for file in (ROOT / "icl").rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 350, file


@pytest.mark.parametrize("package", ["hyperbolic", "icl"])
def test_public_classes_have_names_of_their_own(package: str) -> None:
    names = Counter(
        node.name
        for file in (ROOT / package).rglob("*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name: count for name, count in names.items() if count > 1} == {}


@pytest.mark.parametrize("wing", WINGS, ids=lambda path: path.name)
def test_wing_says_what_it_is_for(wing: Path) -> None:
    """Its docstring is a sentence, and its picture's first words are of it."""
    text = ast.get_docstring(ast.parse((wing / "__init__.py").read_text(encoding="utf-8")))
    assert text is not None
    assert text.endswith(".")
    assert architecture.purpose(wing.name)
