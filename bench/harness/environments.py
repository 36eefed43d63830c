"""Python environments that differ from .venv in the releases of some packages, and what the tests say in one.

An environment holds only what differs; all else, torch and the built kernels with it, is .venv's, found after it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import lock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent.parent
PROJECT = "hyperbolic-icl"
# By hand: neither uv nor an older release of anything may bring another torch.
NO_TORCH = "torch ; python_version < '3'\n"

# Run in an environment: where each package is, and that it is there that it is imported from.
PROBE = """
import json, sys
from importlib import metadata, util
from pathlib import Path
found = {}
for name in json.load(sys.stdin):
    distribution = metadata.distribution(name)
    root = Path(distribution.locate_file("")).resolve()
    for file in distribution.files or ():
        if file.name == "__init__.py" and len(file.parts) == 2:
            origin = util.find_spec(file.parts[0]).origin
            assert Path(origin).resolve().is_relative_to(root), (name, origin)
    found[name] = distribution.version, str(root)
json.dump(found, sys.stdout)
"""


class UnresolvableError(RuntimeError):
    """No set of releases has what is wanted."""


@dataclass(frozen=True)
class Counts:
    """How many tests passed, failed and were skipped."""

    passed: int
    failed: int
    skipped: int


def direct(extra: str, **machine: str) -> dict[str, Requirement]:
    """What an extra asks for, and the extras that it names, by package: on this machine, but for what is said of it."""
    found: dict[str, Requirement] = {}
    for text in metadata.requires(PROJECT) or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({**machine, "extra": extra}):
            continue
        requirement.marker = None
        if requirement.name == PROJECT:
            for other in sorted(requirement.extras):
                found |= direct(other, **machine)
        else:
            found[canonicalize_name(requirement.name)] = requirement
    return found


def floor(requirement: Requirement) -> str:
    """Return the least release of a range."""
    return next(part.version for part in requirement.specifier if part.operator in (">=", "=="))


class Environments:
    """Virtual environments made of .venv with other releases of some packages."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.uv = lock.installed_uv(ROOT / "out" / "lock")
        self.base: dict[str, str] = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()}
        self.environment = {**os.environ, "UV_CACHE_DIR": str(folder / "cache"), "UV_NO_CONFIG": "1"}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "overrides.txt").write_text(NO_TORCH)

    def resolve(self, requirements: Iterable[str], near: dict[str, str] | None = None) -> dict[str, str]:
        """The newest releases that meet the requirements and go together, those of ``near`` where they do."""
        own = [text for text in metadata.requires("torch") or () if "extra ==" not in text]
        wanted, pins = self.folder / "wanted.txt", self.folder / "pins.txt"
        wanted.write_text("\n".join([*requirements, *own]))
        pins.write_text("\n".join(f"{name}=={version}" for name, version in (near or {}).items()))
        python = "{}.{}.{}".format(*sys.version_info)
        how = [
            "--python-version",
            python,
            "--only-binary",
            ":all:",
            "--no-header",
            "--no-annotate",
            "--no-strip-extras",
        ]
        files: list[str | Path] = [wanted, "-o", pins, "--override", self.folder / "overrides.txt"]
        done = self._run("pip", "compile", "-q", *files, *how)
        if done.returncode:
            raise UnresolvableError(done.stderr.strip())
        lines = re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)", pins.read_text(), re.MULTILINE)
        return {canonicalize_name(name): version for name, version in lines}

    def newest(self, name: str, within: str = "") -> str:
        """The newest release of a package, alone."""
        wanted = self.folder / "wanted.txt"
        wanted.write_text(f"{name}{within}")
        done = self._run("pip", "compile", "-q", wanted, "--no-deps", "--no-header", "--no-annotate")
        if done.returncode:
            raise UnresolvableError(done.stderr.strip())
        return done.stdout.strip().split("==")[1].split()[0]

    def make(self, name: str, versions: dict[str, str]) -> Path:
        """The interpreter of an environment in which these releases, and no others, are imported."""
        folder = self.folder / name
        python = folder / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        base = sysconfig.get_path("purelib")
        # after all that is installed here; a .pth file of .venv counts too, so that the project is found
        (packages / "zz_base.pth").write_text(f"import site; site.addsitedir({base!r})\n")
        changed = {name: version for name, version in versions.items() if self.base.get(name) != version}
        if changed:
            pins = [f"{name}=={version}" for name, version in changed.items()]
            install: list[str | Path] = [
                "--python",
                python,
                "--no-deps",
                "--only-binary",
                ":all:",
                "--link-mode",
                "hardlink",
            ]
            done = self._run("pip", "install", "-q", *install, *pins)
            if done.returncode:
                raise UnresolvableError(done.stderr.strip())
        probe: list[str | Path] = [python, "-c", PROBE]
        done = subprocess.run(probe, input=json.dumps(list(versions)), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr}")
        for package, (version, root) in json.loads(done.stdout).items():
            wanted = packages if package in changed else Path(base)
            if version != versions[package] or Path(root) != wanted.resolve():
                raise RuntimeError(f"{name}: meant {package} {versions[package]}, imports {version} of {root}")
        return python

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.uv, *command], capture_output=True, text=True, env=self.environment)


def run_tests(python: Path, tests: Sequence[str], folder: Path, progress: Callable[[float], None]) -> dict[str, Counts]:
    """Counts by file; none, and whatever pytest said in ``folder``/log.txt, if it did not get as far.

    Warnings of what is deprecated are no errors, as they are in the suite: they are not of our making.
    """
    report, log = folder / "tests.xml", folder / "log.txt"
    report.unlink(missing_ok=True)
    command: list[str | Path] = [
        python,
        "-u",
        "-m",
        "pytest",
        "-n",
        str(os.cpu_count()),
        "-p",
        "no:cacheprovider",
        *tests,
    ]
    command += [f"--junit-xml={report}", "-o", "junit_family=xunit1"]
    # for the runs of pytest inside tests too
    deprecated = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
    environment = {**os.environ, "PYTEST_ADDOPTS": " ".join(f"-W ignore::{warning}" for warning in deprecated)}
    with (
        log.open("w", buffering=1) as file,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            if found := re.search(r"\[ *(\d+)%\]", line):
                progress(int(found[1]) / 100)
    return counts(report) if report.exists() else {}


def counts(report: Path) -> dict[str, Counts]:
    """Of a report in JUnit's format: a file, as a path from the root of the project, and its tests."""
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found.setdefault(case.get("file") or "", []).append(kind)
    return {
        file: Counts(*(kinds.count(kind) for kind in ("passed", "failed", "skipped"))) for file, kinds in found.items()
    }


def total(parts: Iterable[Counts]) -> Counts:
    """Add counts up."""
    parts = list(parts)
    return Counts(*(sum(getattr(part, name) for part in parts) for name in ("passed", "failed", "skipped")))
