"""What is installed: constraints.txt fits pyproject.toml, docs/compatibility.md is what was measured, and what is
compiled is what was asked for."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import compat
import lock
import pytest
from harness import environments
from harness.environments import Counts
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PINS = [line for line in lock.LOCK.read_text().splitlines() if not line.startswith("#")]
on_x86 = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="names instruction sets of x86-64"
)


# --- constraints.txt -----------------------------------------------------------------------------------------------


def test_pins_are_names_versions_and_markers() -> None:
    """No address, no path, no hash; and nothing of torch's, whose build is another on every machine."""
    for line in PINS:
        pin = re.fullmatch(r"([a-z0-9]+(?:-[a-z0-9]+)*)==[a-z0-9.]+( ; [\w '.*=<>!()]+)?", line)
        assert pin, line
        assert not re.match(r"torch$|triton$|nvidia-|cuda-", pin[1]), line


@pytest.mark.parametrize("python", lock.PYTHONS)
def test_every_dependency_is_pinned_once_and_inside_its_range(python: str) -> None:
    machine = {"python_version": python, "python_full_version": f"{python}.9"}
    pins: dict[str, list[str]] = {}
    for line in PINS:
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(machine):
            pins.setdefault(pin.name, []).append(str(pin.specifier).removeprefix("=="))
    for extra in ("demo", "icl", "ann", "ray", "docs", "test", "lint", "bench"):
        for name, requirement in environments.direct(extra, **machine).items():
            if name in ("torch", "triton"):
                continue
            found = pins.get(name, [])
            assert len(found) == 1, (extra, name, found)
            assert requirement.specifier.contains(found[0]), (extra, name, found)
    assert "setuptools" in pins  # which builds the extension


def test_every_range_has_a_floor() -> None:
    """And a ceiling where we touch the insides."""
    ranges = compat.documented()
    assert len(ranges) > 30
    assert all(environments.floor(requirement) for requirement in ranges.values())
    for name in ("transformers", "peft", "pylance", "usearch"):
        assert any(part.operator == "<" for part in ranges[name].specifier), name


def test_what_only_torch_needs_is_left_out() -> None:
    pins = [
        "filelock==4.3.1  # via hyperbolic-icl, torch",
        "nvidia-cublas==13.1 ; sys_platform == 'linux'  # via cuda-toolkit",
        "cuda-toolkit==13.0 ; sys_platform == 'linux'  # via torch",
        "mpmath==1.3.0  # via hyperbolic-icl, sympy",
        "setuptools==84.2.1  # via -r others.txt, torch",
        "sympy==1.14.0  # via torch",
        "torch==2.13.0  # via geoopt, hyperbolic-icl",
        "triton==3.7.1 ; sys_platform == 'linux'  # via hyperbolic-icl, torch",
    ]
    assert lock.without_torch(pins) == ["filelock==4.3.1", "mpmath==1.3.0", "setuptools==84.2.1"]


# --- docs/compatibility.md -----------------------------------------------------------------------------------------


def test_floors_leave_out_what_torch_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of torch for GPUs asks for one release of Triton, so no other can be tried beside it."""
    gpu = ["sympy>=1.13.3", "Jinja2", 'nvidia-nccl-cu13==2.29.7; platform_system == "Linux"', "triton==3.7.1"]
    monkeypatch.setattr(compat.metadata, "requires", {"torch": gpu}.get)
    assert compat.pinned_by_torch() == {"nvidia-nccl-cu13", "triton"}


def test_page_is_that_of_the_measurements_and_of_the_ranges() -> None:
    rows = compat.read(compat.DOCS / "compatibility.csv")
    page = (compat.DOCS / "compatibility.md").read_text(encoding="utf-8")
    assert page == compat.page(rows, compat.documented()), "python bench/compat.py --page writes it again"


def test_page_tells_failures_and_what_was_not_tried() -> None:
    ranges = {name: Requirement(f"{name}>=1.0,<3") for name in ("a", "b")}
    on = ("3.11.7", "2.13.0")
    rows = [
        compat.Row("a", "1.0.0", "floors", "test_a test_c", 7, 0, 1, *on),
        compat.Row("a", "2.9", "newest", "test_a", 6, 2, 0, *on),
        compat.Row("b", "3.0", "constraints.txt", "all", 9, 0, 0, *on),
    ]
    page = compat.page(rows, ranges)
    assert "| a | >=1.0, <3 | 1.0.0 | floors | `test_a`, `test_c` | 7 | 0 | 1 |\n" in page
    assert "| a | >=1.0, <3 | 2.9 | newest | `test_a` | 6 | **2** | 0 |\n" in page
    assert "| b | >=1.0, <3 | 3.0, outside | constraints.txt | all | 9 | 0 | 0 |\n" in page
    assert "Not tried with the ranges of today: b 1.0, the newest b." in page


def test_files_of_tests_exist() -> None:
    """Those that stand for a package, and the packages that they stand for."""
    assert set(compat.TESTS) <= set(compat.documented())
    for package in compat.TESTS:
        for file in compat.files_of(package):
            assert (ROOT / file).exists(), (package, file)
    for file in compat.QUICK:
        assert (ROOT / file).exists(), file


REPORT = """<testsuites><testsuite>
<testcase file="tests/test_a.py" name="one"/>
<testcase file="tests/test_a.py" name="two"><failure message="no"/></testcase>
<testcase file="tests/test_a.py" name="three"><skipped/></testcase>
<testcase file="tests/test_b.py" name="four"><error/></testcase>
</testsuite></testsuites>"""


def test_counts_and_rows(tmp_path: Path) -> None:
    (tmp_path / "tests.xml").write_text(REPORT)
    found = environments.counts(tmp_path / "tests.xml")
    assert found == {"tests/test_a.py": Counts(1, 1, 1), "tests/test_b.py": Counts(0, 1, 0)}
    files = dict.fromkeys(compat.files_of("usearch"), Counts(5, 0, 1))
    rows = compat.rows_of("usearch==2.26.1", {"usearch": "2.26.1", "numpy": "2.0"}, ["numpy", "usearch"], files)
    assert [(row.package, row.others, row.passed, row.failed) for row in rows] == [("usearch", compat.LOCKED, 10, 0)]
    del files["tests/icl/bank/test_approximate.py"]  # what did not run did not pass
    rows = compat.rows_of("floors", {"usearch": "2.26.1", "numpy": "2.0.0"}, ["numpy", "usearch"], files)
    assert [(row.package, row.passed, row.failed) for row in rows] == [
        (compat.ALL, 5, 0),
        ("numpy", 5, 0),
        ("usearch", 5, 1),
    ]


def test_environment_has_what_was_meant(tmp_path: Path) -> None:
    """Here with nothing changed, which needs no network: all is .venv's; and one that is not there is no other."""
    versions = {name: metadata.version(name) for name in ("pytest", "typer")}
    made = object.__new__(environments.Environments)
    made.folder, made.base = tmp_path, dict(versions)
    python = made.make("same", versions)
    code = "import hyperbolic, pytest, sys; print(hyperbolic.__file__, pytest.__file__, sys.prefix)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == [str(ROOT / "hyperbolic" / "__init__.py"), pytest.__file__, str(tmp_path / "same")]
    made.base["typer"] = "0.1"
    with pytest.raises(RuntimeError, match=r"meant typer 0\.1, imports"):
        made.make("other", {**versions, "typer": "0.1"})


# --- setup.py ------------------------------------------------------------------------------------------------------

COMPILER = """#!{python}
# Compiles nothing, and says what it was asked for. A library has the texts of its objects in it.
import sys
from pathlib import Path
command = sys.argv[1:]
if "-E" in command:
    print("".join(f"#define __{{name}}__ 1\\n" for name in ("AVX2", "FMA", "F16C")))
    sys.exit()
out = Path(command[command.index("-o") + 1])
sources = [word for word in command if word.endswith(".cpp")]
objects = [Path(word) for word in command if word.endswith(".o") and Path(word) != out]
text = "".join(path.read_text() for path in objects)
for source in sources:
    names = [word[17:].lower() for word in command if word.startswith("-DHYPERBOLIC_HAS_")]
    text += "hyperbolic kernels: " + " ".join(names) if source.endswith("isa.cpp") else "."
    with open({log!r}, "a") as log:
        print(Path(source).stem, *names, file=log)
out.write_text(text)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="names instruction sets of x86-64"
)
def test_what_is_compiled(tmp_path: Path) -> None:
    """The instruction sets that were asked for, nothing twice, and no library is replaced by one that has less."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    (tmp_path / "hyperbolic").mkdir()
    shutil.copy(ROOT / "hyperbolic" / "version.py", tmp_path / "hyperbolic")
    compiler, log = tmp_path / "compiler", tmp_path / "log.txt"
    compiler.write_text(COMPILER.format(python=sys.executable, log=str(log)))
    compiler.chmod(compiler.stat().st_mode | stat.S_IEXEC)

    def compiled(cpu: str, **more: str) -> set[str]:
        log.write_text("")
        environment = {**os.environ, "CC": str(compiler), "CXX": str(compiler), "HYPERBOLIC_BUILD_CUDA": "none", **more}
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        environment["HYPERBOLIC_BUILD_CPU"] = cpu
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return set(log.read_text().splitlines())

    library = tmp_path / "hyperbolic" / "_kernels.abi3.so"
    others = {path.stem for path in (ROOT / "csrc" / "cpu").glob("*.cpp")} - {"isa"}
    assert compiled("none") == set()
    assert not library.exists()
    assert compiled("native") == {*others, "avx2", "isa avx2"}
    assert library.read_text().count("hyperbolic kernels: avx2") == 1
    assert compiled("avx2,baseline") == {"baseline", "isa avx2 baseline"}
    assert "hyperbolic kernels: avx2 baseline" in library.read_text()
    assert compiled("native") == set()
    assert "hyperbolic kernels: avx2 baseline" in library.read_text()
    os.utime(tmp_path / "csrc" / "math" / "wide.h")
    assert compiled("avx2") == {*others, "avx2", "isa avx2"}
    environment = {**os.environ, "HYPERBOLIC_BUILD_CPU": "sse9"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert (
        "HYPERBOLIC_BUILD_CPU must be all, native, none, or some of avx512, avx2, baseline, got 'sse9'" in done.stderr
    )


# --- a library that has not all ------------------------------------------------------------------------------------

STUB = """
#include "cpu/kernels/table.h"
namespace hyperbolic {
#ifdef HYPERBOLIC_HAS_AVX2
namespace avx2 { extern const cpu::Kernels kernels; const cpu::Kernels kernels = {"avx2"}; }
#endif
#ifdef HYPERBOLIC_HAS_BASELINE
namespace baseline { extern const cpu::Kernels kernels; const cpu::Kernels kernels = {"baseline"}; }
#endif
}
"""


def built_for(folder: Path, *names: str) -> Path:
    """The package with a library that chooses among these instruction sets, and has no kernels."""
    package = shutil.copytree(ROOT / "hyperbolic", folder / "hyperbolic", ignore=shutil.ignore_patterns("*.so"))
    (folder / "stub.cpp").write_text(STUB)
    defined = [f"-DHYPERBOLIC_HAS_{name.upper()}" for name in names]
    sources = [folder / "stub.cpp", *(ROOT / "csrc" / "cpu" / f"{name}.cpp" for name in ("isa", "metric"))]
    command = ["c++", "-std=c++17", "-O0", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}", *defined, *sources]
    subprocess.run([*command, "-o", package / "_kernels.abi3.so"], check=True)
    return folder


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler here")
@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="names instruction sets of x86-64"
)
@pytest.mark.parametrize(
    ("built", "wanted", "used", "said"),
    [
        ("avx2 baseline", "", "avx2", None),
        ("avx2 baseline", "baseline", "baseline", None),
        ("avx2 baseline", "avx512", "avx2", "for which they were not built, but for avx2, baseline"),
        ("avx2", "baseline", "reference", "for which they were not built, but for avx2"),
        ("baseline", "avx2", "baseline", "for which they were not built, but for baseline"),
        ("", "", "reference", "this machine does not run what the kernels were built for"),
        ("baseline", "reference", "reference", None),
    ],
)
def test_library_without_some(built: str, wanted: str, used: str, said: str | None, tmp_path: Path) -> None:
    """The next lower one runs, or the reference, and a warning says so."""
    folder = built_for(tmp_path, *built.split())
    code = "import hyperbolic, torch; print(hyperbolic.kernels())"
    environment = {**os.environ, "HYPERBOLIC_KERNELS": wanted, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "avx2" in built and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this machine does not run avx2")
    assert f"cpu={used!r}" in done.stdout
    if said is None:
        assert "RuntimeWarning" not in done.stderr
    else:
        assert said in done.stderr
        assert said in done.stdout
    metric = ctypes.CDLL(str(folder / "hyperbolic" / "_kernels.abi3.so")).hyperbolic_isas
    metric.restype = ctypes.c_char_p
    assert metric().decode().split()[2:] == built.split()
