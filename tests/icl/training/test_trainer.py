"""Training of adapters: the loss is what it says, whatever the batches, processes and models are."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from icl import testbed
from icl.adapters import HiFICLConfig, HyperICLConfig, MimICConfig, attach
from icl.attention.internals import CHECKPOINTING
from icl.losses.objective import Objective, QueryTokens
from icl.prompts.collator import Collator
from icl.training.arguments import training_arguments
from icl.training.teacher import Teacher
from icl.training.trainer import LOSSES_FILE, DistillTrainer, answer_accuracy
from tests.icl import processors
from tests.icl.trainers import (
    ALL,
    LEARNED,
    PER_TOKEN,
    collated,
    collator,
    examples,
    logged,
    mixed,
    start,
    trainer,
    weights,
)

# What the loss is.


@pytest.mark.parametrize("config", [HyperICLConfig(), HiFICLConfig(), MimICConfig()])
def test_cross_entropy_is_the_models_own_loss(config: Any, tmp_path: Path) -> None:
    model = start(config, noise=0.1)
    data = examples()[:5]
    distiller = trainer(model, tmp_path, data, Objective())
    batch = distiller.data_collator(data)
    assert "teacher" not in batch
    own = model(**batch["student"]).loss
    loss = distiller.compute_loss(model, batch)
    torch.testing.assert_close(loss, own, rtol=1e-6, atol=0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for a, b in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(own, parameters)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_identical_prompts_cost_nothing(tmp_path: Path) -> None:
    data = [replace(e, teacher=e.student) for e in examples("last_block")[:4]]
    distiller = trainer(start(), tmp_path, data, replace(ALL, ce=0.0, contrastive=0.0))
    metrics = distiller.evaluate(data)
    for name in ("anchor", "alignment", "relational", "attention", "logits"):
        assert metrics[f"eval_loss_{name}"] == pytest.approx(0, abs=1e-9)
    different = distiller.evaluate(examples()[:4])
    assert all(different[f"eval_loss_{name}"] > 1e-4 for name in ("anchor", "alignment", "relational", "logits"))


def test_teacher_is_the_base(tmp_path: Path) -> None:
    """Its states, attention and logits are those that transformers itself reports of a model without adapters."""
    data = mixed()[:5]
    base, _ = testbed.load()
    base.set_attn_implementation("eager")
    batch = collator()(data)
    with torch.no_grad():
        out = base(**batch["teacher"], output_hidden_states=True, output_attentions=True)
    model = start(HiFICLConfig(), noise=0.5)
    query = QueryTokens.from_batch(batch)
    states = Teacher(model.icl_adapters, ALL)(model, batch, query)
    norm = base.model.text_model.norm
    checked = 0
    for row in range(len(data)):
        at = batch["teacher_positions"][row][batch["aligned"][row]]
        n = len(at)
        assert batch["teacher"]["input_ids"][row, at[-1] + 1 :].eq(0).all(), "nothing but padding after the answer"
        for layer in range(4):
            hidden = states.hidden[layer][row, :n]
            expected = out.hidden_states[layer + 1][row, at]
            torch.testing.assert_close(norm(hidden) if layer == 3 else hidden, expected, rtol=1e-4, atol=1e-5)
            attention = out.attentions[layer][row][:, at][..., at]
            torch.testing.assert_close(states.attention[layer][row, :, :n, :n], attention, rtol=1e-4, atol=1e-6)
        places = batch["teacher_positions"][row][batch["predicts"][row]]
        assert states.logits is not None
        torch.testing.assert_close(states.logits[row, : len(places)], out.logits[row, places], rtol=1e-4, atol=1e-4)
        checked += len(places)
    assert checked == sum(1 if e.answer is None else 2 for e in data)
    assert model.icl_adapters.active == ("default",)


def test_terms_by_hand(tmp_path: Path) -> None:
    """Of labelled and unlabelled queries, from the logits and states of whole passes."""
    data = mixed()[:5]
    objective = Objective(ce=0.5, alignment=2.0, logits=0.25, temperature=2.0, layers=(1, 2))
    model = start(MimICConfig(), noise=0.3)
    metrics = trainer(model, tmp_path, data, objective, per_device_eval_batch_size=2).evaluate(data)
    base, _ = testbed.load()
    kl, ce, squares = [], [], []
    for example in data:
        batch = collator()([example])
        with torch.no_grad():
            student = model(**batch["student"], output_hidden_states=True)
            teacher = base(**batch["teacher"], output_hidden_states=True)
        at = [batch[f"{role}_positions"][0] for role in ("student", "teacher")]
        steps = batch["predicts"][0]
        log_s, log_t = (
            (out.logits[0, p[steps]] / 2).log_softmax(-1).double() for out, p in zip((student, teacher), at)
        )
        kl += (4 * (log_t.exp() * (log_t - log_s)).sum(-1)).tolist()
        if example.answer is not None:
            ids = batch["student"]["input_ids"][0, at[0][steps] + 1]
            ce += cross_entropy(student.logits[0, at[0][steps]], ids, reduction="none").tolist()
        gap = [student.hidden_states[i + 1][0, at[0]] - teacher.hidden_states[i + 1][0, at[1]] for i in (1, 2)]
        squares += torch.stack(gap).square().mean(-1).mean(0).tolist()
    terms = {"ce": np.mean(ce), "alignment": np.mean(squares), "logits": np.mean(kl)}
    for name, value in terms.items():
        assert metrics[f"eval_loss_{name}"] == pytest.approx(value, rel=1e-4)
    total = 0.5 * terms["ce"] + 2 * terms["alignment"] + 0.25 * terms["logits"]
    assert metrics["eval_loss"] == pytest.approx(total, rel=1e-4)


def test_query_without_an_answer(tmp_path: Path) -> None:
    """It counts for distillation, and for nothing else."""
    data = [replace(e, answer=None, references=()) for e in examples()[:4]]
    model = start()
    distiller = trainer(model, tmp_path, data, Objective(ce=1.0, anchor=1.0))
    batch = distiller.data_collator(data)
    distiller.compute_loss(model, batch).backward()
    together = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    alone = trainer(model, tmp_path, data, Objective(ce=0.0, anchor=1.0))
    alone.compute_loss(model, batch).backward()
    assert any(g.abs().sum() > 0 for g in together)
    for a, b in zip(together, (p.grad for p in model.parameters() if p.requires_grad)):
        assert torch.equal(a, b)
    assert distiller.evaluate(data)["eval_loss_ce"] == 0


# What is trained, and what is not.


def test_only_the_adapter_changes(tmp_path: Path) -> None:
    model = start()
    model.icl_adapters.add([MimICConfig()], "other")
    before, trainable = weights(model), {n for n, p in model.named_parameters() if p.requires_grad}
    distiller = trainer(model, tmp_path, mixed(), ALL, adapter="default", weight_decay=0.1, learning_rate=1e-2)
    distiller.train()
    after = weights(model)
    assert after.keys() == before.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("icl_adapters.loaded.default.")}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == trainable
    assert model.icl_adapters.active == ("default",)


def test_losses_learn_too(tmp_path: Path) -> None:
    distiller = trainer(start(), tmp_path, examples(), LEARNED, learning_rate=1e-2)
    before = weights(distiller.losses)
    distiller.train()
    assert set(before) == {f"state_losses.anchor.{name}" for name in ("raw_c", "raw_temperature", "head.weight")}
    assert all(not torch.equal(value, before[name]) for name, value in distiller.losses.state_dict().items())
    assert not any("losses" in name for name in distiller.model.state_dict())


def test_objective_is_that_of_the_method(tmp_path: Path) -> None:
    assert trainer(start(MimICConfig()), tmp_path, examples()).objective == MimICConfig.objective
    with pytest.raises(ValueError, match="give objective"):
        trainer(start([MimICConfig(), HyperICLConfig()]), tmp_path, examples())


def test_learning(tmp_path: Path) -> None:
    """A few steps of each method on a few examples, with its own objective."""
    settings = {"max_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 3e-2, "logging_steps": 20}
    for config in (HyperICLConfig(), HiFICLConfig(), MimICConfig()):
        data = collated(mixture=False)
        distiller = trainer(start(config), tmp_path, data, **settings)
        before = distiller.evaluate(data)["eval_loss"]
        distiller.train()
        assert distiller.evaluate(data)["eval_loss"] < 0.8 * before, config


# However the batches are cut.


@pytest.mark.parametrize("objective", [Objective(), PER_TOKEN])
def test_accumulation_is_a_large_batch(objective: Objective, tmp_path: Path) -> None:
    runs = []
    for size, parts in ((8, 1), (2, 4)):
        model = start(HiFICLConfig())
        distiller = trainer(
            model, tmp_path, collated(), objective, per_device_train_batch_size=size, gradient_accumulation_steps=parts
        )
        distiller.train()
        runs.append((model.icl_adapters.state_dict(), distiller))
    for name in ["loss", *(f"loss_{term}" for term in objective.terms)]:
        assert logged(runs[0][1], name) == pytest.approx(logged(runs[1][1], name), rel=1e-4)
    for name, value in runs[0][0].items():
        torch.testing.assert_close(value, runs[1][0][name], rtol=1e-3, atol=1e-4)
    sums = sum(weight * np.array(logged(runs[0][1], f"loss_{term}")) for term, weight in objective.terms.items())
    assert logged(runs[0][1]) == pytest.approx(sums.tolist(), rel=1e-5)


def test_evaluation_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    losses = []
    for size in (3, 16):
        distiller = trainer(
            start(HiFICLConfig(), noise=0.1), tmp_path, collated(), PER_TOKEN, per_device_eval_batch_size=size,
            compute_metrics=answer_accuracy, eval_dataset={"a": collated(), "b": collated()},
        )  # fmt: skip
        losses.append({k: v for k, v in distiller.evaluate().items() if "loss" in k or "accuracy" in k})
    assert len(losses[0]) == 2 * (len(PER_TOKEN.terms) + 2)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


DISTRIBUTED = {
    "all": PER_TOKEN,
    "part": Objective(ce=0.0, anchor=1.0, layers=(1,)),  # which does not reach the layers above
    "learned": LEARNED,
}


def run(folder: Path, size: int, world: int) -> None:
    """What each of ``world`` processes does, with batches of ``size``."""
    for name, objective in DISTRIBUTED.items():
        distiller = trainer(
            start(HiFICLConfig()), folder, mixed(), objective, per_device_train_batch_size=size, max_steps=3,
            gradient_accumulation_steps=2, eval_dataset=mixed(), per_device_eval_batch_size=4, weight_decay=0.1,
            **{CHECKPOINTING: name == "all"}, teacher_cache=folder / "cache",
            ddp_backend="gloo" if world > 1 else None,
        )  # fmt: skip
        assert distiller.args.world_size == world
        distiller.train()
        distiller.evaluate()
        if distiller.is_world_process_zero():
            distiller.save_model(str(folder / f"{name}-{world}"), _internal_call=True)
            distiller.state.save_to_json(str(folder / f"{name}-{world}" / "state.json"))


def test_two_processes_are_one(tmp_path: Path) -> None:
    code = "import sys, pathlib, torch; from tests.icl.training.test_trainer import run; torch.set_num_threads(1); "
    code += "run(pathlib.Path(sys.argv[1]), 2, 2)"
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    shared = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    # as torchrun starts them, whose own start takes as long as one of them
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        run(tmp_path, 4, 1)
        for worker in workers:
            _, errors = worker.communicate(timeout=300)
            assert worker.returncode == 0, errors
    finally:
        for worker in workers:
            worker.kill()
    for name in ("all", "part"):
        one, two = (tmp_path / f"{name}-{world}" for world in (1, 2))
        logs = [json.loads((folder / "state.json").read_text())["log_history"] for folder in (one, two)]
        for a, b in zip(*logs):
            losses = [key for key in a if "loss" in key]
            assert losses
            assert [b[key] for key in losses] == pytest.approx([a[key] for key in losses], rel=1e-3), name
        assert len(logs[0]) == len(logs[1]) == 5
        for a, b in zip(*(load_file(folder / "adapter_model.safetensors").values() for folder in (one, two))):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4)
    # What a lift is fitted to is drawn by each process for itself: only that it is trained can be told.
    start_value = trainer(start(), tmp_path, mixed(), LEARNED).losses.state_dict()["state_losses.anchor.raw_c"]
    assert load_file(tmp_path / "learned-2" / LOSSES_FILE)["state_losses.anchor.raw_c"] != start_value


# Precision and memory.


def test_checkpointing_changes_nothing(tmp_path: Path) -> None:
    runs = []
    for on in (False, True):
        model = start(HyperICLConfig(), noise=0.05)
        distiller = trainer(model, tmp_path, collated(), ALL, **{CHECKPOINTING: on}, max_steps=2)
        distiller.train()
        assert getattr(model, f"is_{CHECKPOINTING}") == on
        runs.append((logged(distiller), weights(model.icl_adapters)))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-6)
    for name, value in runs[0][1].items():
        torch.testing.assert_close(value, runs[1][1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16(dtype: torch.dtype, tmp_path: Path) -> None:
    """By autocast, and of the base: losses are those of float32 to two digits, and the adapter stays float32."""
    objective = Objective(ce=0.5, alignment=1.0, anchor=1.0)
    exact = trainer(start(HiFICLConfig()), tmp_path, collated(), objective)
    exact.train()
    model = start(HiFICLConfig(), dtype=dtype)
    distiller = trainer(
        model, tmp_path, collated(), objective, bf16=dtype == torch.float32, teacher_cache=tmp_path / "cache"
    )
    distiller.train()
    assert logged(distiller) == pytest.approx(logged(exact), rel=0.05)
    assert logged(distiller) != logged(exact)
    assert {p.dtype for p in model.icl_adapters.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_raises(tmp_path: Path) -> None:
    model = start(MimICConfig())
    distiller = trainer(model, tmp_path, examples(), Objective())
    with torch.no_grad():
        next(iter(model.icl_adapters.parameters())).fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="at step 0: ce nan"):
        distiller.train()


# Other models.


@pytest.mark.parametrize("family", processors.PROCESSORS)
def test_families(family: str, tmp_path: Path) -> None:
    """The cross-entropy of any family is its own, and training changes the adapter alone and lowers the loss."""
    processor, data = processors.asked(family)
    model = processors.model(family, processor)
    attach(model, HiFICLConfig())
    args = training_arguments(
        tmp_path, max_steps=5, per_device_train_batch_size=3, learning_rate=2e-2, use_cpu=True, disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    distiller = DistillTrainer(
        model, args, train_dataset=data, data_collator=Collator(processor), objective=ALL, teacher_cache=tmp_path / "c"
    )
    before, first = weights(model), distiller.evaluate(data)
    batch = Collator(processor)(data)
    with torch.no_grad():
        assert first["eval_loss_ce"] == pytest.approx(float(model(**batch["student"]).loss), rel=1e-5)
    distiller.train()
    assert distiller.evaluate(data)["eval_loss"] < first["eval_loss"]
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("icl_adapters.") for name in changed)


# Arguments.


def test_arguments(tmp_path: Path) -> None:
    base = testbed.load()[0]
    with pytest.raises(ValueError, match="model must have adapters"):
        trainer(base, tmp_path, examples())
    with pytest.raises(ValueError, match="no 'other'"):
        trainer(start(), tmp_path, examples(), adapter="other")
    with pytest.raises(ValueError, match="layers of objective must be below 4, got"):
        trainer(start(), tmp_path, examples(), Objective(anchor=1.0, layers=(0, 4)))
    with pytest.raises(ValueError, match="data_collator must be a Collator, got int"):
        DistillTrainer(start(), training_arguments(tmp_path, use_cpu=True), data_collator=1)


def test_quantised_base_is_trained_on(tmp_path: Path) -> None:
    """Trainer refuses one on which nothing is trained that it knows of, and is not left with another opinion."""
    model = start(HiFICLConfig())
    model.is_quantized, model.hf_quantizer = True, SimpleNamespace(is_trainable=True)
    distiller = trainer(model, tmp_path, examples(n=4), max_steps=3)
    assert not model._hf_peft_config_loaded
    before = weights(model)
    distiller.train()
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("icl_adapters.") for name in changed)
