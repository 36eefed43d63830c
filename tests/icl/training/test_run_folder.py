"""The folder of a run: the same command again, after something in it or around it changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from icl.training.checkpoints import list_checkpoints
from icl.training.execution import train
from tests.icl.runs import (
    DAMAGES,
    describe_run,
    edit,
    weights_of,
)


def drop(name: str) -> None:
    Path(name).write_text("".join(Path(name).read_text().splitlines(keepends=True)[:-1]))


CHANGES: dict[str, tuple[str, Callable[[], Any]]] = {
    "answer": ("train.jsonl", edit("train.jsonl", 5, answer="daisy")),
    "references": ("train.jsonl", edit("train.jsonl", 5, answers=["owl", "daisy"])),
    "question": ("train.jsonl", edit("train.jsonl", 6, question="was")),
    "another field": ("train.jsonl", edit("train.jsonl", 6, kind="one")),
    "picture of the same name": ("train.jsonl", lambda: shutil.copy("7.png", "4.png")),
    "fewer rows": ("train.jsonl", lambda: drop("train.jsonl")),
    "dev": ("dev.jsonl", lambda: shutil.copy("7.png", "25.png")),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("folder", ["whole", "cut"])
def test_other_data_is_refused(folder: str, change: str, here: Path) -> None:
    name, apply = CHANGES[change]
    apply()
    before = {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=rf"{folder} holds .* other data: {name} changed since"):
        train(describe_run(), folder)
    assert {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()} == before


def test_other_pool_is_refused(here: Path) -> None:
    run = describe_run(data={"pool": "pool.jsonl"}, training={"steps": 1})
    train(run, "shown")
    train(run, "shown", lambda step, total, dev: pytest.fail("it is finished"))
    edit("pool.jsonl", 3, answer="daisy")()
    with pytest.raises(ValueError, match=r"other data: pool\.jsonl changed since"):
        train(run, "shown")


def test_other_weights_of_the_same_name_are_refused(here: Path) -> None:
    from icl.testbed.model import weights_folder

    shutil.copytree(weights_folder("base"), "model")
    run = describe_run(model="testbed:model", training={"steps": 1})
    train(run, "a")
    shutil.copy(weights_folder("base-0") / "model.safetensors", "model/model.safetensors")
    with pytest.raises(ValueError, match="other data: model testbed:model changed since"):
        train(run, "a")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"training": {"seed": 1}}, "training.seed"),
        ({"training": {"batch_size": 3}}, "training.batch_size"),
        ({"training": {"epochs": 9}}, "training.epochs"),
        ({"training": {"learning_rate": 0.1}}, "training.learning_rate"),
        ({"method": {"name": "hyper_icl", "rank": 2}}, "method"),
        ({"method": "live"}, "method"),
        ({"objective": {"anchor": 1}}, "objective"),
        ({"data": {"prompt": "{question} :"}}, "data.prompt"),
        ({"model": "testbed:base-0"}, "model"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("folder", ["whole", "cut"])
def test_other_settings_are_refused(folder: str, change: dict[str, Any], name: str, here: Path) -> None:
    with pytest.raises(ValueError, match=rf"{folder} holds another run, which differs in .*{name}"):
        train(describe_run(**change), folder)


def test_data_that_is_gone_is_named(here: Path) -> None:
    Path("train.jsonl").unlink()
    for folder in ("whole", "cut"):
        with pytest.raises((ValueError, OSError), match=r"train\.jsonl"):
            train(describe_run(), folder)


@pytest.mark.parametrize("damage", DAMAGES)
def test_finished_is_only_what_is_there(damage: Callable[[Path], None], here: Path) -> None:
    damage(Path("whole/adapter_model.safetensors"))
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is missing or not what was learned"):
        train(describe_run(), "whole")


def test_nothing_unknown_is_written_over(here: Path) -> None:
    Path("whole/run.json").unlink()
    before = weights_of("whole")
    with pytest.raises(ValueError, match=r"whole holds an adapter .* without run\.json"):
        train(describe_run(), "whole")
    assert all(torch.equal(before[name], value) for name, value in weights_of("whole").items())
    Path("cut/run.json").unlink()
    with pytest.raises(ValueError, match="holds checkpoints of something else"):
        train(describe_run(), "cut")
    assert len(list(list_checkpoints("cut/checkpoints"))) == 2
    with pytest.raises(ValueError, match=r"out must be a folder, and train\.jsonl is a file"):
        train(describe_run(), "train.jsonl")


def test_one_process_at_a_time(here: Path) -> None:
    with FileLock("cut/checkpoints/.lock"), pytest.raises(ValueError, match="another process is training into it"):
        train(describe_run(), "cut")
    assert len(list(list_checkpoints("cut/checkpoints"))) == 2


def test_a_start_in_vain_leaves_nothing(here: Path) -> None:
    with pytest.raises(ValueError, match="layers must be from 0 to 3, got 9"):
        train(describe_run(method={"name": "hyper_icl", "layers": [9]}), "vain")
    assert not Path("vain").exists()


def test_what_lies_beside_checkpoints_stays(here: Path) -> None:
    Path("checkpoints").mkdir()
    Path("checkpoints/theirs.bin").write_bytes(b"weights")
    train(describe_run(training={"epochs": 1}), ".")
    assert [path.name for path in Path("checkpoints").iterdir()] == ["theirs.bin"]
    assert Path("adapter_model.safetensors").exists()
    assert Path("train.jsonl").exists()
