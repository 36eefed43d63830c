"""What the command line imports before it works, and how it ends where it is stopped meanwhile."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from icl.bank.anchor_bank import AnchorBank

ROOT = Path(__file__).parents[3]
HEAVY = {"accelerate", "datasets", "hyperbolic", "huggingface_hub", "lance", "matplotlib", "numpy", "pandas", "PIL"}
HEAVY |= {"plotly", "pyarrow", "safetensors", "scipy", "tokenizers", "torch", "transformers", "usearch", "yaml"}

# Runs commands one after the other, and prints which packages were imported by then.
PROBE = """
import contextlib, json, sys
with contextlib.redirect_stdout(sys.stderr):
    from icl.cli.app import app
    for command in json.loads(sys.argv[1]):
        with contextlib.suppress(SystemExit):
            app(command)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
COMMANDS = """
import json
from typer.main import get_command
from icl.cli.app import app
def walk(group, path):
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from walk(command, [*path, name])
print(json.dumps(list(walk(get_command(app), []))))
"""


def python(code: str, *args: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *args], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )


def imported(*commands: list[str], folder: Path = ROOT) -> set[str]:
    return set(json.loads(python(PROBE, json.dumps(commands), folder=folder).stdout)) & HEAVY


def test_help_imports_nothing_heavy() -> None:
    """Of every command that there is, and of groups of them."""
    commands = json.loads(python(COMMANDS).stdout)
    assert ["bank", "build"] in commands
    assert ["train"] in commands
    assert ["testbed", "card"] in commands
    assert imported(*([*command, "--help"] for command in commands)) == set()


@pytest.mark.parametrize("module", ["icl", "icl.testbed", "icl.common.choices"])
def test_packages_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {sorted(HEAVY)} if name in sys.modules])"
    assert python(code).stdout == "[]\n"


def test_wrong_usage_imports_nothing_heavy(tmp_path: Path) -> None:
    wrong: list[list[str]] = [
        ["nothing"], ["train"], ["train", "--method", "hyperICL"], ["train", "--rank", "0"], ["eval"],
        ["eval", "--data", "test.jsonl", "--metric", "bleu"], ["bank", "build"], ["bank", "search", "bank"],
        ["select", "bank"], ["lift", "fit", "rows.jsonl", "--out", "lift", "--pairs", "twins"],
        ["testbed", "pretrain", "--style", "short"], ["demo", "--quick", "--full"],
    ]  # fmt: skip
    assert imported(*wrong, folder=tmp_path) == set()


@pytest.mark.parametrize(
    "command",
    [
        ["bank", "info", "nowhere"], ["bank", "append", "nowhere", "rows.jsonl"], ["select", "nowhere", "--id", "a"],
        ["bank", "search", "nowhere", "--id", "a"], ["adapters", "info", "nowhere"],
        ["eval", "--data", "rows.jsonl", "--adapter", "nowhere"],
    ],
)  # fmt: skip
def test_what_is_not_there_is_told_before_torch_is_imported(command: list[str], tmp_path: Path) -> None:
    assert imported(command, folder=tmp_path).isdisjoint({"torch", "transformers", "lance", "hyperbolic"})


def test_what_a_bank_holds_is_told_without_torch(bank: Path) -> None:
    assert imported(["bank", "info", str(bank)]).isdisjoint({"torch", "transformers", "hyperbolic", "matplotlib"})


SIGNAL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background has ignored
target_module = sys.argv.pop(1)
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == target_module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from icl.cli.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "rich.table", "icl.common.console", "torch", "torch.nn", "lance", "numpy"])
def test_ctrl_c_while_it_starts_is_one_line(module: str, bank: Path) -> None:
    """Sent when a module is about to be imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SIGNAL, module, "bank", "search", str(bank), "--id", "a"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "stopped\n")


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return AnchorBank.build(tmp_path_factory.mktemp("bank") / "bank", {"id": ["a", "b"], "point": torch.eye(2)}).folder
