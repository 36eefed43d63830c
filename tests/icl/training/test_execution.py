"""Runs that are cut short, damaged, or asked for again after something changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from icl.training.checkpoints import find_fault, list_checkpoints
from icl.training.execution import train
from tests.icl.runs import (
    assert_same_adapter,
    describe_run,
    truncate,
)

# Checkpoints.


def test_goes_on_before_damage_to_the_same_adapter(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest, before, *_ = list_checkpoints("cut/checkpoints")
    (newest / "optimizer.pt").unlink()
    steps: list[int] = []
    train(describe_run(), "cut", lambda step, total, dev: steps.append(step))
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
    train(describe_run(), "cut", lambda step, total, dev: steps.append(step))
    assert steps == list(range(1, 9))
    assert caplog.messages[-1] == "there is no earlier checkpoint: training starts anew"
    assert_same_adapter("cut", "whole")


def test_goes_on_where_it_was_moved_to(here: Path) -> None:
    """The best checkpoint is beside the others, wherever these were when it was saved."""
    Path("cut").rename("moved")
    assert train(describe_run(), "moved")["chosen"] == json.loads(Path("whole/run.json").read_text())["chosen"]
    assert_same_adapter("moved", "whole")


KILLED = """
import os, signal, sys
import torch
from icl.training.execution import train
from tests.icl.runs import describe_run
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
train(describe_run(), "killed")
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
    train(describe_run(), "killed", lambda step, total, dev: steps.append(step))
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
        train(describe_run(), "full")
    monkeypatch.undo()
    monkeypatch.chdir(here)
    train(describe_run(), "full")
    assert_same_adapter("full", "whole")


# The same command, after something changed.


# Whose folder it is.


# What is kept of a training.


def test_training_that_does_harm_says_so(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At a rate of 1 what is learned is noise."""
    record = train(describe_run(method="hificl", training={"epochs": 1, "learning_rate": 1}), "harmed")
    assert record["trained"]["loss"] > record["untrained"]["loss"]
    assert "no epoch is better than the untrained adapter: dev loss is" in caplog.text


def test_loss_that_is_no_number_is_an_error_of_the_rate(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icl.losses.objective.answer_cross_entropy", lambda logits, labels: logits.sum() * torch.nan)
    with pytest.raises(ValueError, match=r"training\.learning_rate 0\.005 may be too high: .* at step 0: ce nan"):
        train(describe_run(objective={"ce": 1}, data={"dev": None}), "high")
    assert not Path("high/adapter_model.safetensors").exists()


def test_vectors_that_are_no_numbers_are_not_saved(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(adapters: Any, *args: Any) -> None:
        for value in adapters["default"][0].state_dict().values():
            value.fill_(torch.nan)

    monkeypatch.setattr("icl.training.execution.fit_examples", fit)
    with pytest.raises(ValueError, match="numbers that are not finite"):
        train(describe_run(method="in_context_vector"), "high")
    assert not Path("high/adapter_model.safetensors").exists()


def test_losses_are_kept_without_dev(here: Path) -> None:
    record = train(describe_run(data={"dev": None}, training={"epochs": 1}), "short")
    losses = [(entry["step"], entry["loss"]) for entry in record["history"]]
    assert [step for step, _ in losses] == [1, 2]
    assert record["training_loss"] == {"first": losses[0][1], "last": losses[1][1]}
