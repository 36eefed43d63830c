"""The versions of all that `make demo`, `make test`, `make lint` and `make bench` install: writes constraints.txt.

Names, versions and the machines they are for; the newest releases that go together, for every Python that we support.
Torch and what only torch needs are left out: TORCH in the Makefile says which torch, and pip's settings say which build
of it.

    python bench/lock.py torch==2.13.0            # make lock does both
    python bench/lock.py torch==2.13.0 --check    # can what is written be installed on every Python? A dry run

Runs on any Python 3.10 or newer, without .venv; uv resolves, and is installed for it in out/lock.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "constraints.txt"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
EXTRAS = ("--extra", "lint", "--extra", "bench")
HEADER = """\
# Made by `make lock`, do not edit: every package that the Makefile installs, less torch, which TORCH there chooses, and
# what only torch needs.
"""


def main() -> None:
    """Write constraints.txt, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("torch", help="the release of torch to fit, such as torch==2.13.0")
    parser.add_argument("--check", action="store_true", help="check constraints.txt instead of writing it")
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "lock", help="where uv is installed")
    options = parser.parse_args()
    uv = installed_uv(options.folder)
    if options.check:
        failed = [python for python in PYTHONS if not check(uv, options.torch, python, options.folder)]
        sys.exit(1 if failed else 0)
    pins = resolved(uv, options.torch, options.folder)
    lines = without_torch(pins)
    LOCK.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    print(f"{LOCK.name}: {len(lines)} lines, {len(pins) - len(lines)} of torch's left out")


def installed_uv(folder: Path) -> Path:
    """Return the path of uv, installed on first use."""
    scripts = folder / "uv" / ("Scripts" if os.name == "nt" else "bin")
    if not (scripts / "uv").exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "uv"], check=True)
        subprocess.run([scripts / "pip", "install", "-q", "uv"], check=True)
    return scripts / "uv"


def resolved(uv: Path, torch: str, folder: Path) -> list[str]:
    """Lines "name==version ; marker  # via names", by name."""
    others, constraint = folder / "others.txt", folder / "torch.txt"
    others.write_text("setuptools\n")  # builds the extension
    constraint.write_text(f"{torch}\n")
    compiled: list[str | Path] = [
        "pip",
        "compile",
        ROOT / "pyproject.toml",
        others,
        *EXTRAS,
        "-c",
        constraint,
        "--universal",
        "-q",
    ]
    how = ["--python-version", PYTHONS[0], "--prerelease", "disallow", "--no-header", "--annotation-style", "line"]
    done = subprocess.run([uv, *compiled, *how, "--no-config"], check=True, stdout=subprocess.PIPE, text=True)
    return [re.sub(r" \([^)]*\)", "", line) for line in done.stdout.splitlines()]


def without_torch(pins: list[str]) -> list[str]:
    """Less what is there for torch alone, and without the reasons."""
    needed_by: dict[str, set[str]] = {}
    for line in pins:
        pin, _, reasons = line.partition("  # via ")
        needed_by.setdefault(name_of(pin), set()).update(reasons.split(", "))
    # Torch's builds for GPUs ask for one Triton.
    left_out = {"torch", "triton"}
    while more := {name for name, reasons in needed_by.items() if reasons <= left_out} - left_out:
        left_out |= more
    return [line.partition("  # via ")[0].rstrip() for line in pins if name_of(line) not in left_out]


def name_of(pin: str) -> str:
    """Return the package of a pin."""
    return pin.split("==")[0]


def check(uv: Path, torch: str, python: str, folder: Path) -> bool:
    """Whether there is a wheel of each package for that Python on this kind of machine, all of them going together."""
    install: list[str | Path] = [
        uv,
        "pip",
        "install",
        "--dry-run",
        "--target",
        folder / "nothing",
        "--python-version",
        python,
    ]
    what: list[str | Path] = ["-c", LOCK, "-r", ROOT / "pyproject.toml", *EXTRAS, "setuptools", torch]
    wheels = ["--only-binary", ":all:", "--no-config"]
    done = subprocess.run([*install, *wheels, *what], capture_output=True, text=True)
    if done.returncode:
        print(f"Python {python}: {done.stderr}")
        return False
    versions = re.findall(r"^ \+ (\S+)==\S+$", done.stderr, re.MULTILINE)
    pinned = {name_of(line) for line in LOCK.read_text().splitlines()}
    ours = sum(name in pinned for name in versions)
    print(f"Python {python}: {ours} packages as pinned, {len(versions) - ours} for torch alone")
    return True


if __name__ == "__main__":
    main()
