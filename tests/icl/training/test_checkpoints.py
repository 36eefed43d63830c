"""Interruptions of a training, and its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import EvalPrediction, TrainerCallback

from icl import testbed
from icl.adapters import Adapters, HiFICLConfig, HyperICLConfig, LoRAConfig, MimICConfig
from icl.losses.objective import Objective
from icl.training.checkpoints import find_newest_whole, list_checkpoints
from icl.training.trainer import LOSSES_FILE, answer_accuracy
from tests.icl.runs import (
    DAMAGES,
)
from tests.icl.trainers import (
    LEARNED,
    assert_equal,
    collated,
    collator,
    examples,
    logged,
    start,
    trainer,
    weights,
)


@pytest.mark.parametrize(
    ("config", "objective"), [(HiFICLConfig(), Objective()), (HiFICLConfig(), LEARNED), (LoRAConfig(), Objective())]
)
def test_resumed_is_uninterrupted(config: Any, objective: Objective, tmp_path: Path) -> None:
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-2}
    whole = trainer(start(config), tmp_path / "a", collated(), objective, **settings)
    whole.train()
    resumed = trainer(start(config, seed=1), tmp_path / "b", collated(), objective, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    for key in ("loss", "loss_ce", "grad_norm"):
        assert logged(resumed, key) == logged(whole, key)
    assert_equal(weights(resumed.adapters), weights(whole.adapters))
    assert_equal(weights(resumed.losses), weights(whole.losses))


def test_checkpoints_hold_no_base(tmp_path: Path) -> None:
    distiller = trainer(start(), tmp_path, examples(), LEARNED, save_strategy="steps", save_steps=4)
    distiller.train()
    folder = tmp_path / "checkpoint-4"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "adapter_config.json", "adapter_model.safetensors", LOSSES_FILE, "training_args.json",
        "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "checksums.json",
    }  # fmt: skip
    assert json.loads((folder / "training_args.json").read_text())["learning_rate"] == 5e-3
    distiller.save_model(str(tmp_path / "adapter"))
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "training_args.json"}
    for saved in (folder, tmp_path / "adapter"):
        assert_equal(Adapters.from_pretrained(testbed.load()[0], saved).state_dict(), distiller.adapters.state_dict())


def test_checkpoints_of_something_else_are_refused(tmp_path: Path) -> None:
    trainer(start(), tmp_path, examples(), save_strategy="steps", save_steps=4).train()
    folder = str(tmp_path / "checkpoint-4")
    for model, objective, match in (
        (start(MimICConfig()), None, "must be of .*MimICConfig.*, got .*HyperICLConfig"),
        (start(HyperICLConfig(rank=2)), None, "must be of .*rank=2.*, got .*rank=4"),
        (start(), LEARNED, f"{LOSSES_FILE} must hold the losses"),
    ):
        with pytest.raises(ValueError, match=match):
            trainer(model, tmp_path, examples(), objective).train(resume_from_checkpoint=folder)
    changed = start()
    with torch.no_grad():
        changed.model.text_model.embed_tokens.weight += 1
    with pytest.raises(ValueError, match="another base"):
        trainer(changed, tmp_path, examples()).train(resume_from_checkpoint=folder)


class Metric(TrainerCallback):
    """Steps that are best by an own metric: the second evaluation."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any, metrics: Any, **kwargs: Any) -> None:
        self.states.append(weights(model.icl_adapters))
        metrics["eval_own"] = 1.0 if len(self.states) == 2 else 0.0


@pytest.mark.parametrize(
    ("metric", "greater"), [("eval_loss", False), ("eval_loss_ce", False), ("eval_accuracy", True), ("eval_own", True)]
)
def test_the_best_is_loaded_at_the_end(metric: str, greater: bool, tmp_path: Path) -> None:
    callback, data = Metric(), collated(mixture=False)
    distiller = trainer(
        start(), tmp_path, data, Objective(ce=0.5, anchor=1.0), learning_rate=0.3, max_steps=5,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model=metric, greater_is_better=greater, eval_dataset=data, save_total_limit=2,
        compute_metrics=answer_accuracy, callbacks=[callback],
    )  # fmt: skip
    distiller.train()
    values = [1.0 if i == 1 else 0.0 for i in range(5)] if metric == "eval_own" else logged(distiller, metric)
    best = (max if greater else min)(range(5), key=values.__getitem__)
    assert distiller.state.best_metric == pytest.approx(values[best])
    assert_equal(weights(distiller.model.icl_adapters), callback.states[best])


def test_accuracy_is_that_of_greedy_decoding(tmp_path: Path) -> None:
    model, processor = start(HyperICLConfig(), noise=0.2), testbed.load()[1]
    data = examples("set_conflict")
    distiller = trainer(
        model, tmp_path, data, Objective(), compute_metrics=answer_accuracy, per_device_eval_batch_size=5
    )
    inputs = collator().prompts(data)
    out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    texts = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    right = [text.strip() == example.answer for text, example in zip(texts, data)]
    assert 0 < np.mean(right) < 1
    assert distiller.evaluate(data)["eval_accuracy"] == np.mean(right)
    predicted = distiller.predict(data)
    assert answer_accuracy(EvalPrediction(predicted.predictions, predicted.label_ids))["accuracy"] == np.mean(right)


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
