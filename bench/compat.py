"""Runs the tests with the oldest and the newest releases of other packages, and writes docs/compatibility.csv and .md.

Environments, each in a folder of out/compat:

floors           every package at the floor of its range in pyproject.toml
newest           every package at the newest release in its range
NAME==VERSION    one package at that release, the others as in constraints.txt where that release allows: transformers
                 at its floor, at releases that changed what we rely on, and at its newest; and any package whose newest
                 release is past our ceiling

What is done is not done again without --again, nor forgotten: a stopped run goes on where it was.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import lock
import torch
import typer
from harness.environments import ROOT, Counts, Environments, UnresolvableError, direct, floor, run_tests, total
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

DOCS = ROOT / "docs"
ALL, LOCKED = "all packages", "constraints.txt"
FLOORS, NEWEST = "floors", "newest"
# Between its floor and the newest: before and after the rename of `past_key_values` to `cache`.
RELEASES = {"transformers": ("5.23.0", "5.24.0")}
# What stands for a package whose part in the suite is small; of any other, the whole suite.
TESTS = {
    "transformers": (
        "attention adapters losses prompts training/teacher training/trainer training/checkpoints evaluation/evaluator "
        "evaluation/cost bank/embedder testbed/model testbed/pretrain"
    ),
    "peft": "methods/lora adapters/storage",
    "pylance": "bank/anchor_bank bank/lance_rows bank/approximate bank/ray_cluster bank/strategies cli/bank",
    "pyarrow": "bank/anchor_bank bank/ingest bank/ray_cluster bank/strategies data/records cli/bank",
    "usearch": "bank/approximate cli/bank",
    "ray": "bank/ray_cluster",
    "datasets": "data/records testbed/tasks training/trainer cli/train",
    "accelerate": "training/trainer training/checkpoints training/teacher evaluation/evaluator",
    "safetensors": "adapters/storage training/checkpoints bank/lift training/teacher",
    "filelock": "bank/anchor_bank",
    "pillow": "bank/embedder data/records prompts/collator bank/report testbed/images",
    "scikit-learn": "testbed/images",
    "scipy": "evaluation/intervals",
    "pyyaml": "training/run_configuration cli/train",
    "jinja2": "bank/report demo/page",
    "typer": "cli",
    "rich": "cli",
    "playwright": "demo/page_in_browser bank/report_in_browser",
    "geoopt": "manifolds",
    "matplotlib": "plot bank/report",
    "plotly": "plot demo/page",
    "triton": "triton",
    "faiss-cpu": "bench",
    "gmpy2": "values",
    "mkdocs": "docs",
    "mkdocs-material": "docs",
    "mkdocstrings": "docs",
    "torch-abi-audit": "native cuda",
    "pytest-benchmark": "bench",
    "pydantic": "common/configuration evaluation/results cli/train",
    "annotated-doc": "common/configuration cli/train",
    "import-linter": "architecture",
}
QUICK = (
    "tests/hyperbolic/test_manifolds.py",
    "tests/icl/attention/test_primitives.py",
    "tests/icl/adapters/methods/test_lora.py",
    "tests/icl/evaluation/test_intervals.py",
)


@dataclass(frozen=True)
class Row:
    """What the tests of a package say at one release; "all packages" has no release."""

    package: str
    version: str
    others: str
    tests: str
    passed: int
    failed: int
    skipped: int
    python: str
    torch: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What a later row of the same measurement replaces."""
        return self.package, self.version, self.others


def files_of(package: str) -> list[str]:
    """Paths from the root of the project; none stand for all."""
    names = TESTS.get(package, "").split()
    return [path for name in names for path in _tests_at(name)]


def _tests_at(name: str) -> list[str]:
    """Return the paths of a test, "bank/approximate" or "manifolds", or of all tests in a folder, "adapters"."""
    folder, _, stem = f"/{name}".rpartition("/")
    patterns = f"**/{name}/test_*.py", f"**{folder}/test_{stem}.py"
    paths = {path for pattern in patterns for path in (ROOT / "tests").glob(pattern)}
    if not paths:
        raise ValueError(f"there are no tests called {name!r} in {ROOT / 'tests'}")
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def planned(environments: Environments, ranges: Mapping[str, Requirement]) -> list[str]:
    """Return the names of the environments to try."""
    names = [FLOORS, NEWEST]
    for package, requirement in ranges.items():
        capped = any(part.operator in ("<", "<=") for part in requirement.specifier)
        if not capped:
            continue
        versions = set()
        if package in RELEASES:
            least, newest = floor(requirement), environments.newest(package, str(requirement.specifier))
            versions |= {least, newest, *RELEASES[package]}
        if not requirement.specifier.contains(latest := environments.newest(package)):
            versions.add(latest)
        names += [f"{package}=={version}" for version in sorted(versions, key=Version)]
    return names


def versions_of(name: str, environments: Environments, ranges: Mapping[str, Requirement]) -> dict[str, str]:
    """Return the releases that an environment has, by package."""
    others = {package: requirement for package, requirement in ranges.items() if package != "torch"}
    if name == FLOORS:
        free = others.keys() - pinned_by_torch()
        return environments.resolve(f"{extras(r)}=={floor(r)}" for package, r in others.items() if package in free)
    if name == NEWEST:
        return environments.resolve(f"{extras(r)}{r.specifier}" for r in others.values())
    package = name.partition("==")[0]
    if package not in others:
        raise typer.BadParameter(f"no extra asks for {package}; there are {', '.join(others)}")
    wanted = [name, *(f"{extras(r)}{r.specifier}" for other, r in others.items() if other != package)]
    return environments.resolve(wanted, locked())


def pinned_by_torch() -> set[str]:
    """Return the packages of which torch accepts one release alone: its builds for GPUs bring the Triton they fit."""
    wanted = [Requirement(text) for text in metadata.requires("torch") or ()]
    return {canonicalize_name(r.name) for r in wanted if any(part.operator == "==" for part in r.specifier)}


def extras(requirement: Requirement) -> str:
    """Return a requirement's name with its extras."""
    return requirement.name + (f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else "")


def locked() -> dict[str, str]:
    """What constraints.txt says for this machine."""
    found: dict[str, str] = {}
    machine = {name: str(value) for name, value in default_environment().items()}
    for line in lock.LOCK.read_text().splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(machine):
            found[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return found


def rows_of(name: str, versions: Mapping[str, str], ranges: Iterable[str], found: Mapping[str, Counts]) -> list[Row]:
    """One row a package that this environment is about, by those of its files that ran."""

    def row(package: str, version: str, others: str) -> Row:
        files = files_of(package)
        tests = " ".join(Path(file).stem for file in files) or "all"
        parts = [found.get(file, Counts(0, 1, 0)) for file in files] or list(found.values())
        python = "{}.{}.{}".format(*sys.version_info)
        counts = total(parts)
        figures = counts.passed, counts.failed, counts.skipped
        return Row(package, version, others, tests, *figures, python, torch.__version__)

    if name in (FLOORS, NEWEST):
        rows = [row(package, versions[package], name) for package in ranges if package in versions]
        return [row(ALL, "", name), *rows]
    package = name.partition("==")[0]
    return [row(package, versions[package], LOCKED)]


def try_out(name: str, environments: Environments, tests: Sequence[str], quick: bool, progress: Progress) -> list[Row]:
    """Make an environment and run its tests; the rows are kept in its folder."""
    ranges = direct("test")
    package = name.partition("==")[0]
    bar = progress.add_task(name, total=1.0, now="resolving")
    began = time.monotonic()
    try:
        versions = versions_of(name, environments, ranges)
        progress.update(bar, now="installing")
        folder = environments.folder / name
        python = environments.make(name, versions)
        progress.update(bar, now="testing")
        files = tests or (QUICK if quick else files_of(package))
        found = run_tests(python, files, folder, lambda part: progress.update(bar, completed=part))
    except UnresolvableError as error:
        progress.update(bar, completed=1.0, now="[red]no such set of releases")
        progress.console.print(f"{name}: {error}", style="red", markup=False)
        raise
    counted = total(found.values()) if found else Counts(0, 1, 0)
    if quick or tests or not found:
        figures = counted.passed, counted.failed, counted.skipped
        rows = [Row(ALL if name in (FLOORS, NEWEST) else package, "", name, "", *figures, "", "")]
    else:
        rows = rows_of(name, versions, ranges, found)
        (folder / "rows.json").write_text(json.dumps([asdict(row) for row in rows]))
    state = "[red]failed" if any(row.failed for row in rows) or not found else "[green]passed"
    progress.update(bar, completed=1.0, now=f"{state}[/] {time.monotonic() - began:.0f} s, {folder / 'log.txt'}")
    return rows


# --- the page ------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[Row]:
    """Read the rows of earlier measurements."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    numbers = ("passed", "failed", "skipped")
    columns: list[dict[str, Any]] = [{**row, **{name: int(row[name]) for name in numbers}} for row in table]
    return [Row(**row) for row in columns]


def write(rows: Sequence[Row], out: Path) -> None:
    """Write compatibility.csv and compatibility.md."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "compatibility.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    (out / "compatibility.md").write_text(page(rows, documented()))


PAGE = """\
# Compatibility

Which releases of other packages the tests pass with: all packages at the floors of their ranges, all at the newest
releases inside them, and single ones at a release of interest with the others as in `constraints.txt`. A package whose
internals we touch has a ceiling, and what has come out since is tried outside the range.

Made by `python bench/compat.py` (`make compat`){machine}.

{table}

Not tried with the ranges of today: {untried}.

Torch is the one of the Makefile. Its floor, 2.10, is that of the stable ABI that the kernels are built for: a test
reads from the library that it needs nothing newer. torchvision and num2words, the extra `video`, are not tried: PyPI's
torchvision does not import beside the build of torch for CPUs that the tests run on.
"""


def documented() -> dict[str, Requirement]:
    """The ranges on the page: the same wherever it is written."""
    return direct("test", python_version="3.11", platform_system="Linux")


def page(rows: Sequence[Row], ranges: Mapping[str, Requirement]) -> str:
    """Return the text of compatibility.md."""

    def place(row: Row) -> tuple[bool, str, Version, str]:
        return row.package != ALL, row.package, Version(row.version or "0"), row.others

    table = ["| package | our range | release | others | tests | passed | failed | skipped |", "| --- " * 8 + "|"]
    for row in sorted(rows, key=place):
        requirement = ranges.get(row.package)
        told = (
            row.package,
            span(requirement) if requirement else "",
            row.version if inside(row, ranges) else f"{row.version}, outside",
            row.others,
            row.tests if row.tests == "all" else ", ".join(f"`{name}`" for name in row.tests.split()),
            str(row.passed),
            f"**{row.failed}**" if row.failed else "0",
            str(row.skipped),
        )
        table.append(f"| {' | '.join(told)} |")
    machines = sorted({f"Python {row.python} and torch {row.torch}" for row in rows})
    return PAGE.format(
        machine=f" with {', '.join(machines)}" if machines else "",
        table="\n".join(table),
        untried=", ".join(untried(rows, ranges)) or "nothing",
    )


def inside(row: Row, ranges: Mapping[str, Requirement]) -> bool:
    """Whether a row's release is inside our range."""
    return row.package not in ranges or not row.version or ranges[row.package].specifier.contains(row.version)


def span(requirement: Requirement) -> str:
    """Return a range as text."""
    return ", ".join(sorted(map(str, requirement.specifier), reverse=True))


def untried(rows: Iterable[Row], ranges: Mapping[str, Requirement]) -> list[str]:
    """Floors and newest releases of packages, as named in pyproject.toml today, that no row is about."""
    tried = {(row.package, row.others) for row in rows if row.others == NEWEST}
    floors = {(row.package, Version(row.version)) for row in rows if row.version}
    found = []
    for package, requirement in sorted(ranges.items()):
        if package == "torch":
            continue
        if (package, Version(floor(requirement))) not in floors:
            found.append(f"{package} {floor(requirement)}")
        if (package, NEWEST) not in tried:
            found.append(f"the newest {package}")
    return found


def main(
    only: Annotated[list[str] | None, typer.Option(help="Only this environment, such as usearch==2.21.0.")] = None,
    tests: Annotated[list[str] | None, typer.Option(help="Run these files or folders; nothing is written.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Run also what is done.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A few tests in each; nothing is written.")] = False,
    page_only: Annotated[bool, typer.Option("--page", help="Run nothing, write the page from its CSV again.")] = False,
    folder: Annotated[Path, typer.Option(help="Where environments are made.")] = ROOT / "out" / "compat",
    out: Annotated[Path, typer.Option(help="Folder of compatibility.csv and .md.")] = DOCS,
) -> None:
    """Run the tests with the oldest and the newest releases of other packages, and write docs/compatibility.md.

    Takes an hour or more on two cores. Exit with 1 if a test fails inside our ranges.

    Example: python bench/compat.py

    Example: python bench/compat.py --only transformers==5.23.0 --only floors --again

    Example: python bench/compat.py --only pylance==1.0.0 --tests tests/icl/bank/test_anchor_bank.py
    """
    if page_only:
        return write(read(out / "compatibility.csv"), out)
    console = Console(width=160)
    ranges = direct("test")
    environments = Environments(folder)
    names = only or planned(environments, ranges)
    rows = {row.key: row for row in read(out / "compatibility.csv")} if only else {}
    bad: list[str] = []
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[now]}")
    with Progress(*columns, console=console) as progress:
        overall = progress.add_task("environments", total=len(names), now="")
        for name in names:
            done = folder / name / "rows.json"
            if done.exists() and not (again or quick or tests):
                found = [Row(**row) for row in json.loads(done.read_text())]
                progress.console.print(f"{name}: done before, see --again")
            else:
                try:
                    found = try_out(name, environments, tests or (), quick, progress)
                except UnresolvableError:
                    found = []
                    bad.append(name)
            rows |= {row.key: row for row in found}
            for row in found:
                if row.failed and inside(row, ranges):
                    bad.append(" ".join(filter(None, (row.package, row.version, f"with {row.others}"))))
            if not quick and not tests:
                write(list(rows.values()), out)
            progress.advance(overall)
    console.print(*(f"failed: {name}" for name in bad), sep="\n")
    raise typer.Exit(1 if bad else 0)


if __name__ == "__main__":
    typer.run(main)
