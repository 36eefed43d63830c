"""Runs that are cut short, damaged, or asked for again after something changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file

from icl.testbed import images
from icl.testbed.vocabulary import WORDS
from icl.training.checkpoints import find_fault, find_newest_whole, list_checkpoints
from icl.training.execution import train
from icl.training.run_configuration import TrainingRun
from tests.icl.trainers import examples, start, trainer

EPOCHS = 4


def write_rows(folder: Path, name: str, first: int, count: int = 12) -> None:
    source = images.load_digits("train")
    rows = []
    for i in range(first, first + count):
        Image.fromarray(source.pixels[100 * i % 1437].numpy()).save(folder / f"{i}.png")
        rows.append({"id": str(i), "image": f"{i}.png", "question": "is", "answer": WORDS[i % 10]})
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def described(**changes: Any) -> TrainingRun:
    values: dict[str, Any] = {
        "model": "testbed", "data": {"train": "train.jsonl", "dev": "dev.jsonl", "shots": 2}, "method": "hyper_icl",
        "training": {"epochs": EPOCHS, "batch_size": 6, "learning_rate": 5e-3},
    }  # fmt: skip
    for section, change in changes.items():
        values[section] = {**values[section], **change} if section in ("data", "training") else change
    return TrainingRun.from_dict(values)


class CutError(Exception):
    pass


def cut_at(step: int) -> Callable[[int, int, float | None], None]:
    def stop(done: int, total: int, dev: float | None) -> None:
        if done == step:
            raise CutError

    return stop


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a run that is finished, and one that was cut short after its third epoch."""
    folder = tmp_path_factory.mktemp("made")
    for name, first in (("train", 0), ("dev", 20), ("pool", 40)):
        write_rows(folder, name, first)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(described(), "whole")
        with pytest.raises(CutError):
            train(described(), "cut", cut_at(7))
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights_of(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "adapter_model.safetensors")


def assert_same_adapter(a: str | Path, b: str | Path) -> None:
    first, second = weights_of(a), weights_of(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


# Checkpoints.


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES = (truncate, flip, empty, Path.unlink)
FILES = (
    "adapter_config.json", "adapter_model.safetensors", "training_args.json", "optimizer.pt", "scheduler.pt",
    "rng_state.pth", "trainer_state.json", "checksums.json",
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_any_damage_leaves_the_checkpoint_before(name: str, damage: Callable[[Path], None], here: Path) -> None:
    newest, before, *_ = list_checkpoints("cut/checkpoints")
    assert find_newest_whole("cut/checkpoints") == (newest, {})
    damage(newest / name)
    checkpoint, faults = find_newest_whole("cut/checkpoints")
    assert checkpoint == before
    assert name in faults[newest] or name == "checksums.json"


def test_goes_on_before_damage_to_the_same_adapter(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest, before, *_ = list_checkpoints("cut/checkpoints")
    (newest / "optimizer.pt").unlink()
    steps: list[int] = []
    train(described(), "cut", lambda step, total, dev: steps.append(step))
    assert (int(newest.name[-1]), int(before.name[-1])) == (6, 4)
    assert steps == [5, 6, 7, 8]
    assert caplog.messages == [
        f"{newest} is left out: optimizer.pt is missing", f"training goes on from {before}",
    ]  # fmt: skip
    assert_same_adapter("cut", "whole")
    assert not Path("cut/checkpoints").exists()


def test_starts_anew_where_nothing_is_whole(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    for checkpoint in list_checkpoints("cut/checkpoints"):
        truncate(checkpoint / "adapter_model.safetensors")
    steps: list[int] = []
    train(described(), "cut", lambda step, total, dev: steps.append(step))
    assert steps == list(range(1, 9))
    assert caplog.messages[-1] == "there is no earlier checkpoint: training starts anew"
    assert_same_adapter("cut", "whole")


def test_goes_on_where_it_was_moved_to(here: Path) -> None:
    """The best checkpoint is beside the others, wherever these were when it was saved."""
    Path("cut").rename("moved")
    assert train(described(), "moved")["chosen"] == json.loads(Path("whole/run.json").read_text())["chosen"]
    assert_same_adapter("moved", "whole")


KILLED = """
import os, signal, sys
import torch
from icl.training.execution import train
from tests.icl.training.test_execution import described
torch.set_num_threads(1)
saves = []
save = torch.save
def dies(value, file, *args, **kwargs):
    saves.append(file)
    if len(saves) == int(sys.argv[1]):
        open(file, "wb").write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    save(value, file, *args, **kwargs)
torch.save = dies
train(described(), "killed")
"""


def test_goes_on_after_a_kill_in_the_middle_of_a_checkpoint(here: Path) -> None:
    """The optimizer of the second checkpoint is half written: of each the optimizer, scheduler and random state are."""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "4"], env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    first, second = sorted(list_checkpoints("killed/checkpoints"))
    assert find_fault(first) is None
    assert find_fault(second) is not None
    steps: list[int] = []
    train(described(), "killed", lambda step, total, dev: steps.append(step))
    assert steps == [3, 4, 5, 6, 7, 8]
    assert_same_adapter("killed", "whole")


def test_full_disk_is_an_error_after_which_training_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def full(value: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if "checkpoint-4" in str(file):
            raise RuntimeError("PytorchStreamWriter failed writing file")  # as torch has it
        save(value, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="checkpoint-4 cannot be written: PytorchStreamWriter failed"):
        train(described(), "full")
    monkeypatch.undo()
    monkeypatch.chdir(here)
    train(described(), "full")
    assert_same_adapter("full", "whole")


def test_trainer_refuses_what_is_not_whole(tmp_path: Path) -> None:
    """Trainer itself would go on without the optimizer's state, to other weights."""
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trainer(start(), tmp_path, examples(), **settings).train()
    (tmp_path / "checkpoint-4" / "scheduler.pt").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-4 is not whole: scheduler\.pt is missing"):
        trainer(start(), tmp_path, examples(), **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    resumed = trainer(start(), tmp_path, examples(), **settings)
    resumed.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in resumed.state.log_history if "loss" in entry] == [1, 2, 3, 4]
    for checkpoint in list_checkpoints(tmp_path):
        (checkpoint / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"no whole checkpoint in .*; checkpoint-4: optimizer\.pt is missing"):
        trainer(start(), tmp_path, examples(), **settings).train(resume_from_checkpoint=True)


# The same command, after something changed.


def edit(name: str, row: int, **fields: Any) -> Callable[[], None]:
    def change() -> None:
        rows = [json.loads(line) for line in Path(name).read_text().splitlines()]
        rows[row].update(fields)
        Path(name).write_text("".join(json.dumps(each) + "\n" for each in rows))

    return change


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
        train(described(), folder)
    assert {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()} == before


def test_other_pool_is_refused(here: Path) -> None:
    run = described(data={"pool": "pool.jsonl"}, training={"steps": 1})
    train(run, "shown")
    train(run, "shown", lambda step, total, dev: pytest.fail("it is finished"))
    edit("pool.jsonl", 3, answer="daisy")()
    with pytest.raises(ValueError, match=r"other data: pool\.jsonl changed since"):
        train(run, "shown")


def test_other_weights_of_the_same_name_are_refused(here: Path) -> None:
    from icl.testbed.model import weights_folder

    shutil.copytree(weights_folder("base"), "model")
    run = described(model="testbed:model", training={"steps": 1})
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
        train(described(**change), folder)


def test_data_that_is_gone_is_named(here: Path) -> None:
    Path("train.jsonl").unlink()
    for folder in ("whole", "cut"):
        with pytest.raises((ValueError, OSError), match=r"train\.jsonl"):
            train(described(), folder)


# Whose folder it is.


@pytest.mark.parametrize("damage", DAMAGES)
def test_finished_is_only_what_is_there(damage: Callable[[Path], None], here: Path) -> None:
    damage(Path("whole/adapter_model.safetensors"))
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is missing or not what was learned"):
        train(described(), "whole")


def test_nothing_unknown_is_written_over(here: Path) -> None:
    Path("whole/run.json").unlink()
    before = weights_of("whole")
    with pytest.raises(ValueError, match=r"whole holds an adapter .* without run\.json"):
        train(described(), "whole")
    assert all(torch.equal(before[name], value) for name, value in weights_of("whole").items())
    Path("cut/run.json").unlink()
    with pytest.raises(ValueError, match="holds checkpoints of something else"):
        train(described(), "cut")
    assert len(list(list_checkpoints("cut/checkpoints"))) == 2
    with pytest.raises(ValueError, match=r"out must be a folder, and train\.jsonl is a file"):
        train(described(), "train.jsonl")


def test_one_process_at_a_time(here: Path) -> None:
    with FileLock("cut/checkpoints/.lock"), pytest.raises(ValueError, match="another process is training into it"):
        train(described(), "cut")
    assert len(list(list_checkpoints("cut/checkpoints"))) == 2


def test_a_start_in_vain_leaves_nothing(here: Path) -> None:
    with pytest.raises(ValueError, match="layers must be from 0 to 3, got 9"):
        train(described(method={"name": "hyper_icl", "layers": [9]}), "vain")
    assert not Path("vain").exists()


def test_what_lies_beside_checkpoints_stays(here: Path) -> None:
    Path("checkpoints").mkdir()
    Path("checkpoints/theirs.bin").write_bytes(b"weights")
    train(described(training={"epochs": 1}), ".")
    assert [path.name for path in Path("checkpoints").iterdir()] == ["theirs.bin"]
    assert Path("adapter_model.safetensors").exists()
    assert Path("train.jsonl").exists()


# What is kept of a training.


def test_training_that_does_harm_says_so(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At a rate of 1 what is learned is noise."""
    record = train(described(method="hificl", training={"epochs": 1, "learning_rate": 1}), "harmed")
    assert record["trained"]["loss"] > record["untrained"]["loss"]
    assert "no epoch is better than the untrained adapter: dev loss is" in caplog.text


def test_loss_that_is_no_number_is_an_error_of_the_rate(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icl.losses.objective.answer_cross_entropy", lambda logits, labels: logits.sum() * torch.nan)
    with pytest.raises(ValueError, match=r"training\.learning_rate 0\.005 may be too high: .* at step 0: ce nan"):
        train(described(objective={"ce": 1}, data={"dev": None}), "high")
    assert not Path("high/adapter_model.safetensors").exists()


def test_vectors_that_are_no_numbers_are_not_saved(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(adapters: Any, *args: Any) -> None:
        for value in adapters["default"][0].state_dict().values():
            value.fill_(torch.nan)

    monkeypatch.setattr("icl.training.execution.fit_examples", fit)
    with pytest.raises(ValueError, match="numbers that are not finite"):
        train(described(method="in_context_vector"), "high")
    assert not Path("high/adapter_model.safetensors").exists()


def test_rate_is_looked_for_where_none_is_given(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is the one that is told, the lowest that does nearly as well as the best; and looking leaves no trace."""
    caplog.set_level("INFO", "icl")
    with pytest.raises(CutError):
        train(described(method="hificl", training={"learning_rate": None}), "a", cut_at(5))
    record = json.loads(Path("a/run.json").read_text())
    losses = {float(rate): loss for rate, loss in record["learning_rate"]["dev_losses"].items()}
    assert set(losses) >= {0.005, 0.016, 0.05}
    value = record["learning_rate"]["value"]
    gains = {rate: record_untrained(here) - loss for rate, loss in losses.items()}
    assert value == min(rate for rate, gain in gains.items() if gain >= 0.9 * max(gains.values()))
    assert f"learning rate {value:g}, by the loss of dev after 8 steps" in caplog.text
    caplog.clear()
    train(described(method="hificl", training={"learning_rate": None}), "a")
    assert "learning rate" not in caplog.text, "found already"
    train(described(method="hificl", training={"learning_rate": value}), "b")
    assert_same_adapter("a", "b")


def record_untrained(here: Path) -> float:
    """The loss of dev of HiFICL at its start, which does next to nothing: that of the base."""
    from icl import testbed
    from icl.prompts.collator import Collator
    from icl.training.settings import DemonstrationSettings
    from icl.training.splits import FileSplit

    model, processor = testbed.load()
    asked = FileSplit("dev.jsonl", DemonstrationSettings()).examples(0)
    with torch.no_grad():
        return float(model(**Collator(processor)([asked[i] for i in range(len(asked))])["student"]).loss)


def test_losses_are_kept_without_dev(here: Path) -> None:
    record = train(described(data={"dev": None}, training={"epochs": 1}), "short")
    losses = [(entry["step"], entry["loss"]) for entry in record["history"]]
    assert [step for step, _ in losses] == [1, 2]
    assert record["training_loss"] == {"first": losses[0][1], "last": losses[1][1]}
