"""Every option, and every field of every file, with values that nobody means: an error that says so, and no traceback.

The right value is that there is one of the three: the program works, says in one line what is wrong (exit code 1), or
explains its usage (2).
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.main import get_command
from typer.testing import CliRunner, Result

from icl import testbed
from icl.adapters import AdapterConfig, Adapters, HyperICLConfig, attach
from icl.adapters.base import METHODS
from icl.adapters.storage import read_config
from icl.bank.anchor_bank import AnchorBank
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.schema import BankError
from icl.cli.app import app
from icl.losses.objective import Objective
from icl.training.run_configuration import TrainingRun, read_yaml
from icl.training.run_folder import read_run
from icl.training.settings import DataSettings, TrainingSettings
from tests.icl.commands import points, write_rows

ODD: list[Any] = [
    None, True, 0, -1, 5, 2**70, 0.5, -0.5, math.nan, math.inf, "", "x", "nan", "5", [], [1], ["x"], [None], {},
    {"x": 1}, [[[]]],
]  # fmt: skip
VALID: dict[str, Any] = {"model": "testbed", "data": {"train": "t"}, "method": "hyper_icl"}


def run(*args: Any) -> Result:
    """The command, which ends by itself: any exception but that is a traceback."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exception is None or isinstance(result.exception, SystemExit), (args, result.exception)
    assert result.exit_code in (0, 1, 2), args
    if result.exit_code == 1:
        assert (result.stdout, result.stderr.count("\n")) == ("", 1), (args, result.output)
        assert len(result.stderr) < 2000, (args, result.stderr)
        assert ".rs:" not in result.stderr, (args, result.stderr)
    return result


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a bank, rows, and files that are none of what is asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_rows(tmp_path / "rows.jsonl", points(12), label=["a", "b", "c"] * 4)
    AnchorBank.build("bank", "rows.jsonl")
    np.save("points.npy", points(2).numpy())
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("binary", "binary.jsonl", "binary.parquet", "binary.csv", "binary.yaml", "binary.npy"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 4)
    return tmp_path


COMMANDS = {
    ("bank", "build"): ["rows.jsonl", "--out", "new"],
    ("bank", "append"): ["bank", "rows.jsonl"],
    ("bank", "info"): ["bank"],
    ("bank", "search"): ["bank", "--id", "demo-1"],
    ("bank", "index"): ["bank"],
    ("bank", "report"): ["bank", "--out", "page"],
    ("select",): ["bank", "--id", "demo-1"],
    ("lift", "fit"): ["rows.jsonl", "--out", "lift", "--epochs", "1"],
    ("train",): [],
    ("eval",): ["--data", "rows.jsonl"],
    ("adapters", "info"): ["folder"],
}
NUMBERS = ["-1", "0", "1.5", "nan", "inf", "-inf", "1e400", "99999999999999999999", "x", ""]
FILES = [
    "missing",
    "folder",
    "empty",
    "empty.jsonl",
    "binary",
    "binary.jsonl",
    "binary.parquet",
    "binary.csv",
    "",
    "\0",
]
TEXTS = ["", "x", "'", '"', "\0", "[red]", "../..", "x" * 500]


def options() -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Each option of each command with each odd value for its type."""
    for path in COMMANDS:
        command: Any = get_command(app)
        for name in path:
            command = command.commands[name]
        for parameter in command.params:
            kinds = str(get_type_hints(command.callback).get(parameter.name, "bool"))  # "int | None", "list[str]"
            if parameter.param_type_name != "option" or "bool" in kinds:
                continue
            values = NUMBERS if "int" in kinds or "float" in kinds else FILES if "Path" in kinds else TEXTS
            for value in values:
                yield path, max(parameter.opts, key=len), value


def test_every_option_with_odd_values(here: Path) -> None:
    swept = set()
    for path, option, value in options():
        run(*path, *COMMANDS[path], option, value)
        swept.add((path, option))
    assert {(("bank", "search"), "--points"), (("train",), "--lr"), (("select",), "-k")} <= swept


def test_files_that_are_none(here: Path) -> None:
    for value in FILES:
        for args in (
            ["bank", "build", value, "--out", "new"], ["bank", "append", "bank", value], ["bank", "info", value],
            ["bank", "search", "bank", "--points", value], ["select", "bank", "--query", value],
            ["lift", "fit", value, "--out", "lift"], ["train", value], ["adapters", "info", value],
            ["bank", "build", "rows.jsonl", "--out", "new", "--lift", value],
            ["train", "--model", "testbed", "--data", value, "--method", "live", "--out", "new"],
            ["eval", "--data", value, "--model", "testbed"], ["eval", "--data", "testbed:options", "--adapter", value],
            ["testbed", "card", value],
        ):  # fmt: skip
            # to append nothing is not wrong
            assert run(*args).exit_code in (1, 2) or args == ["bank", "append", "bank", "empty.jsonl"], args


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"]), np.array([True]), np.array([1j]), np.array([{}], dtype=object), np.zeros(0), np.zeros(()),
        np.zeros((2, 3, 4)), np.array([b"a"]), np.array(["2020"], dtype="datetime64[Y]"), np.zeros(2, dtype="i4,f4"),
        np.full((1, 3), np.nan), np.full((1, 3), 1e300), np.zeros((1, 99)),
    ],
)  # fmt: skip
def test_points_that_are_none(array: Any, here: Path) -> None:
    np.save("odd.npy", array, allow_pickle=True)
    assert run("bank", "search", "bank", "--points", "odd.npy").exit_code == 1


def test_points_of_other_types_are_points(here: Path) -> None:
    right = json.loads(run("bank", "search", "bank", "--points", "points.npy", "--json").stdout)
    for kind in ("f8", ">f4", "f2"):
        np.save("other.npy", np.load("points.npy").astype(kind))
        found = json.loads(run("bank", "search", "bank", "--points", "other.npy", "--json").stdout)
        assert [[row["id"] for row in rows] for rows in found] == [[row["id"] for row in rows] for rows in right]
    np.savez("several.npz", a=np.zeros((2, 3)))
    assert "several arrays" in run("bank", "search", "bank", "--points", "several.npz").stderr


def refusal(make: Callable[[Any], Any], given: Any) -> Any:
    """What was made, or the message of the ``ValueError`` that refused to."""
    try:
        return make(given)
    except ValueError as error:
        return str(error)


def changed(key: str, value: Any) -> dict[str, Any]:
    """A run with another value at ``section.field``."""
    section, _, name = key.partition(".")
    if not name:
        return {**VALID, section: value}
    given = VALID.get(section, {"anchor": 1} if section == "objective" else {})
    return {**VALID, section: {**(given if isinstance(given, dict) else {"name": given}), name: value}}


SECTIONS: dict[str, Any] = {
    "data": DataSettings,
    "training": TrainingSettings,
    "objective": Objective,
    "method": HyperICLConfig,
}
KEYS = [f.name for f in fields(TrainingRun)] + ["method.name"]
KEYS += [f"{section}.{f.name}" for section, kind in SECTIONS.items() for f in fields(kind)]


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_a_run_with_odd_values(key: str) -> None:
    """One of another type names its key; one of the right type is kept as it is."""
    refused = 0
    for value in ODD:
        made = refusal(TrainingRun.from_dict, changed(key, value))
        if isinstance(made, str):
            names = [*key.split("."), "method", "weight"]
            assert any(name in made.lower() for name in names), (value, made)
            assert len(made) < 600
            refused += 1
        else:
            assert TrainingRun.from_dict(made.to_dict()) == made, value
    assert refused > len(ODD) / 3


@pytest.mark.parametrize("text", ["data: 5", "training: [1]", "method: 5", "objective: x", "data: [", "5: 1", "- 1"])
def test_yaml_of_odd_types_is_told_in_one_line(text: str, here: Path) -> None:
    (here / "run.yaml").write_text("model: testbed\n" + text if ":" in text and "5: 1" not in text else text)
    for options in ([], ["--epochs", 1, "--samples", 2, "--rank", 2], ["--data", "rows.jsonl", "--objective", "ce=1"]):
        result = run("train", "run.yaml", *options, "--out", "new")
        assert result.exit_code == 1
    assert not (here / "new").exists()


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"[" * 5000, b"a: 2021-99-99", b"a: !!python/object:os.system x", b"\0", b"a: &a [*a]", b""],
)
def test_yaml_that_is_none_names_its_file(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.yaml|a"):
        TrainingRun.from_dict(read_yaml(file))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_field_of_an_adapter_with_odd_values(method: str) -> None:
    for field in fields(METHODS[method]):
        refused = 0
        for value in ODD:
            config = refusal(AdapterConfig.from_dict, {"method": method, field.name: value})
            if isinstance(config, str):
                assert field.name in config
                refused += 1
            else:
                json.dumps(config.to_dict(), allow_nan=False)
        assert refused > len(ODD) / 2
    for value in ODD:
        with pytest.raises(ValueError, match="method must be one of"):
            AdapterConfig.from_dict({"method": value})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    model, _ = testbed.load()
    attach(model, HyperICLConfig()).save_pretrained(folder)
    return folder


def test_every_field_of_a_saved_adapter_with_odd_values(saved: Path, tmp_path: Path) -> None:
    described = json.loads((saved / "adapter_config.json").read_text())
    for place in (described, described["base"], described["base"]["values"]):
        for name, right in list(place.items()):
            for value in ODD:
                place[name] = value
                (tmp_path / "adapter_config.json").write_text(json.dumps(described))
                kept = refusal(read_config, tmp_path)
                # what is accepted is of the type that it should be
                assert isinstance(kept, str) or type(value) is type(right), (name, value)
            place[name] = right


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(value: float, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text((saved / "adapter_config.json").read_text())
    tensors = load_file(saved / "adapter_model.safetensors")
    name = sorted(tensors)[1]
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[-1] = value
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    model, _ = testbed.load()
    with pytest.raises(ValueError, match=f"{name} of .* must be finite"):
        Adapters.from_pretrained(model, tmp_path)
    tensors[name] = torch.zeros(tensors[name].shape, dtype=torch.int32)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="floating point"):
        Adapters.from_pretrained(model, tmp_path)


def test_every_field_of_run_json_missing_or_odd(tmp_path: Path) -> None:
    right: dict[str, Any] = {
        "format": 1, "run": TrainingRun.from_dict(VALID).to_dict(), "finished": True, "seconds": 1.0, "versions": {},
        "digests": {}, "files": {}, "examples": {}, "parameters": 3,
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(right))
    told = read_run(tmp_path)
    assert told is not None
    assert told["finished"]
    for name in right.keys() - {"versions", "examples"}:
        for value in [*ODD, ...]:
            odd = {k: v for k, v in {**right, name: value}.items() if v is not ...}
            (tmp_path / "run.json").write_text(json.dumps(odd))
            told = refusal(read_run, tmp_path)
            kept = type(value) is type(right[name]) or (name, type(value)) == ("seconds", int)
            optional = value is ... and name in ("digests", "files", "parameters")
            assert kept or optional or "run.json cannot be read" in told, (name, value)


@pytest.mark.parametrize("name", ["bank.json", "lift.json", "adapter_config.json", "run.json"])
def test_json_that_is_too_deep_is_told(name: str, tmp_path: Path) -> None:
    """Nested deeper than Python's parser goes, which raises what is no ValueError."""
    (tmp_path / name).write_text("[" * 100_000 + "]" * 100_000)
    openers: dict[str, Callable[[Path], Any]] = {
        "bank.json": AnchorBank.open, "lift.json": HyperbolicLift.load, "adapter_config.json": read_config,
        "run.json": read_run,
    }  # fmt: skip
    with pytest.raises((ValueError, BankError), match="nested too deep"):
        openers[name](tmp_path)
