"""Training of adapters: the loss is what it says, whatever the batches, processes and interruptions are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import EvalPrediction, TrainerCallback

from icl import testbed
from icl.adapters import Adapters, HiFICLConfig, HyperICLConfig, LoRAConfig, MimICConfig, attach
from icl.batches import Collated, Merge
from icl.examples import Example
from icl.objective import Objective, Query
from icl.prompt import Collator
from icl.teacher import Teacher, fingerprint
from icl.testbed.tasks import load_split
from icl.train import LOSSES_FILE, DistillTrainer, answer_accuracy, training_arguments
from tests.icl import processors

ALL = Objective(ce=0.5, anchor=1.0, alignment=0.5, relational=0.25, contrastive=0.1, logits=0.3, attention=0.2)
PER_TOKEN = replace(ALL, relational=0.0, contrastive=0.0)
LEARNED = Objective(ce=0.5, anchor=1.0, feature_scale="lift", dim=8, learn_curvature=True)


@cache
def examples(task: str = "options", n: int = 16, split: str = "dev") -> list[Example]:
    rows = load_split(task, split)
    return [Example.from_task(rows[i]) for i in range(0, len(rows), len(rows) // n)][:n]


@cache
def mixed(n: int = 16) -> list[Example]:
    """Prompts of different lengths, some of them without an answer."""
    made = [e for pair in zip(examples("options", n), examples("last_block", n)) for e in pair][:n]
    return [replace(e, answer=None, references=()) if i % 3 == 0 else e for i, e in enumerate(made)]


def collator() -> Collator:
    return Collator(testbed.load()[1])


def start(config: Any = None, seed: int = 0, noise: float = 0.0, dtype: torch.dtype = torch.float32) -> Any:
    """The testbed's model with an adapter; ``noise`` takes it away from its start, where most are the identity."""
    model = testbed.load()[0].to(dtype)
    torch.manual_seed(seed)
    adapters = attach(model, HyperICLConfig() if config is None else config)
    with torch.no_grad():
        for p in adapters.parameters():
            p += noise * torch.randn_like(p)
    return model


def trainer(model: Any, folder: Path, data: Any, objective: Objective | None = None, **settings: Any) -> Any:
    own = ("eval_dataset", "teacher_cache", "keep_in_memory", "compute_metrics", "adapter", "callbacks")
    options = {name: settings.pop(name) for name in own if name in settings}
    defaults = {"per_device_train_batch_size": 4, "max_steps": 4, "save_strategy": "no", "logging_steps": 1}
    args = training_arguments(folder, **{**defaults, "disable_tqdm": True, "use_cpu": True, **settings})
    return DistillTrainer(
        model, args, train_dataset=data, data_collator=collator(), objective=objective, **options
    )  # fmt: skip


def weights(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def logged(trained: Any, key: str = "loss") -> list[float]:
    return [entry[key] for entry in trained.state.log_history if key in entry]


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


# What the loss is.


@pytest.mark.parametrize("config", [HyperICLConfig(), HiFICLConfig(), MimICConfig()])
def test_cross_entropy_is_the_models_own_loss(config: Any, tmp_path: Path) -> None:
    model = start(config, noise=0.1)
    data = examples()[:5]
    made = trainer(model, tmp_path, data, Objective())
    batch = made.data_collator(data)
    assert "teacher" not in batch
    own = model(**batch["student"]).loss
    loss = made.compute_loss(model, batch)
    torch.testing.assert_close(loss, own, rtol=1e-6, atol=0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for a, b in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(own, parameters)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_identical_prompts_cost_nothing(tmp_path: Path) -> None:
    data = [replace(e, teacher=e.student) for e in examples("last_block")[:4]]
    made = trainer(start(), tmp_path, data, replace(ALL, ce=0.0, contrastive=0.0))
    found = made.evaluate(data)
    for name in ("anchor", "alignment", "relational", "attention", "logits"):
        assert found[f"eval_loss_{name}"] == pytest.approx(0, abs=1e-9)
    different = made.evaluate(examples()[:4])
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
    query = Query.of(batch)
    seen = Teacher(model.icl_adapters, ALL)(model, batch, query)
    norm = base.model.text_model.norm
    checked = 0
    for row in range(len(data)):
        at = batch["teacher_positions"][row][batch["aligned"][row]]
        n = len(at)
        assert batch["teacher"]["input_ids"][row, at[-1] + 1 :].eq(0).all(), "nothing but padding after the answer"
        for layer in range(4):
            hidden = seen.hidden[layer][row, :n]
            wanted = out.hidden_states[layer + 1][row, at]
            torch.testing.assert_close(norm(hidden) if layer == 3 else hidden, wanted, rtol=1e-4, atol=1e-5)
            attention = out.attentions[layer][row][:, at][..., at]
            torch.testing.assert_close(seen.attention[layer][row, :, :n, :n], attention, rtol=1e-4, atol=1e-6)
        places = batch["teacher_positions"][row][batch["predicts"][row]]
        assert seen.logits is not None
        torch.testing.assert_close(seen.logits[row, : len(places)], out.logits[row, places], rtol=1e-4, atol=1e-4)
        checked += len(places)
    assert checked == sum(1 if e.answer is None else 2 for e in data)
    assert model.icl_adapters.active == ("default",)


def test_terms_by_hand(tmp_path: Path) -> None:
    """Of labelled and unlabelled queries, from the logits and states of whole passes."""
    data = mixed()[:5]
    objective = Objective(ce=0.5, alignment=2.0, logits=0.25, temperature=2.0, layers=(1, 2))
    model = start(MimICConfig(), noise=0.3)
    found = trainer(model, tmp_path, data, objective, per_device_eval_batch_size=2).evaluate(data)
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
        assert found[f"eval_loss_{name}"] == pytest.approx(value, rel=1e-4)
    total = 0.5 * terms["ce"] + 2 * terms["alignment"] + 0.25 * terms["logits"]
    assert found["eval_loss"] == pytest.approx(total, rel=1e-4)


def test_query_without_an_answer(tmp_path: Path) -> None:
    """It counts for distillation, and for nothing else."""
    data = [replace(e, answer=None, references=()) for e in examples()[:4]]
    model = start()
    made = trainer(model, tmp_path, data, Objective(ce=1.0, anchor=1.0))
    batch = made.data_collator(data)
    made.compute_loss(model, batch).backward()
    together = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    alone = trainer(model, tmp_path, data, Objective(ce=0.0, anchor=1.0))
    alone.compute_loss(model, batch).backward()
    assert any(g.abs().sum() > 0 for g in together)
    for a, b in zip(together, (p.grad for p in model.parameters() if p.requires_grad)):
        assert torch.equal(a, b)
    assert made.evaluate(data)["eval_loss_ce"] == 0


def test_window_of_a_query() -> None:
    """Rows of an answer of two tokens, of one, and of none; the second begins one place later in its prompt."""
    f, t = False, True
    batch = {
        "aligned": torch.tensor([[t, t, t, t], [t, t, t, f], [t, t, f, f]]),
        "predicts": torch.tensor([[f, t, t, f], [f, t, f, f], [f, t, f, f]]),
        "student": {"labels": torch.tensor([[-100, -100, 7, 8, -100], [-100, -100, -100, 9, -100], [-100] * 5])},
        "student_positions": torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0], [1, 2, 0, 0]]),
    }
    query = Query.of(batch)
    assert query.window.tolist() == [[1, 2, 3]] * 3
    assert query.labels.tolist() == [[-100, 7, 8], [-100, 9, -100], [-100, -100, -100]]
    assert query.predicts.tolist() == [[t, t, f], [t, f, f], [t, f, f]]


# What is trained, and what is not.


def test_only_the_adapter_changes(tmp_path: Path) -> None:
    model = start()
    model.icl_adapters.add([MimICConfig()], "other")
    before, trainable = weights(model), {n for n, p in model.named_parameters() if p.requires_grad}
    made = trainer(model, tmp_path, mixed(), ALL, adapter="default", weight_decay=0.1, learning_rate=1e-2)
    made.train()
    after = weights(model)
    assert after.keys() == before.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("icl_adapters.loaded.default.")}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == trainable
    assert model.icl_adapters.active == ("default",)


def test_losses_learn_too(tmp_path: Path) -> None:
    made = trainer(start(), tmp_path, examples(), LEARNED, learning_rate=1e-2)
    before = weights(made.losses)
    made.train()
    assert set(before) == {"of_states.anchor.raw_c", "of_states.anchor.raw_temperature", "of_states.anchor.head.weight"}
    assert all(not torch.equal(value, before[name]) for name, value in made.losses.state_dict().items())
    assert not any("losses" in name for name in made.model.state_dict())


def test_objective_is_that_of_the_method(tmp_path: Path) -> None:
    assert trainer(start(MimICConfig()), tmp_path, examples()).objective == MimICConfig.objective
    with pytest.raises(ValueError, match="give objective"):
        trainer(start([MimICConfig(), HyperICLConfig()]), tmp_path, examples())


def test_learning(tmp_path: Path) -> None:
    """A few steps of each method on a few examples, with its own objective."""
    settings = {"max_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 3e-2, "logging_steps": 20}
    for config in (HyperICLConfig(), HiFICLConfig(), MimICConfig()):
        made = trainer(start(config), tmp_path, examples(), keep_in_memory=True, **settings)
        before = made.evaluate(examples())["eval_loss"]
        made.train()
        assert made.evaluate(examples())["eval_loss"] < 0.8 * before, config


# However the batches are cut.


@pytest.mark.parametrize("objective", [Objective(), PER_TOKEN])
def test_accumulation_is_a_large_batch(objective: Objective, tmp_path: Path) -> None:
    runs = []
    for size, parts in ((8, 1), (2, 4)):
        model = start(HiFICLConfig())
        made = trainer(
            model, tmp_path, mixed(), objective, per_device_train_batch_size=size, gradient_accumulation_steps=parts
        )
        made.train()
        runs.append((model.icl_adapters.state_dict(), made))
    for name in ["loss", *(f"loss_{term}" for term in objective.terms)]:
        assert logged(runs[0][1], name) == pytest.approx(logged(runs[1][1], name), rel=1e-4)
    for name, value in runs[0][0].items():
        torch.testing.assert_close(value, runs[1][0][name], rtol=1e-3, atol=1e-4)
    sums = sum(weight * np.array(logged(runs[0][1], f"loss_{term}")) for term, weight in objective.terms.items())
    assert logged(runs[0][1]) == pytest.approx(sums.tolist(), rel=1e-5)


def test_evaluation_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    found = []
    for size in (3, 16):
        made = trainer(
            start(HiFICLConfig(), noise=0.1), tmp_path, mixed(), PER_TOKEN,
            per_device_eval_batch_size=size, compute_metrics=answer_accuracy, eval_dataset={"a": mixed(), "b": mixed()},
        )  # fmt: skip
        found.append({k: v for k, v in made.evaluate().items() if "loss" in k or "accuracy" in k})
    assert len(found[0]) == 2 * (len(PER_TOKEN.terms) + 2)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


DISTRIBUTED = {
    "all": PER_TOKEN,
    "part": Objective(ce=0.0, anchor=1.0, layers=(1,)),  # which does not reach the layers above
    "learned": LEARNED,
}


def run(folder: Path, size: int, world: int) -> None:
    """What each of ``world`` processes does, with batches of ``size``."""
    for name, objective in DISTRIBUTED.items():
        made = trainer(
            start(HiFICLConfig()), folder, mixed(), objective, per_device_train_batch_size=size, max_steps=3,
            gradient_accumulation_steps=2, eval_dataset=mixed(), per_device_eval_batch_size=4, weight_decay=0.1,
            activation_checkpointing=name == "all", teacher_cache=folder / "cache",
            ddp_backend="gloo" if world > 1 else None,
        )  # fmt: skip
        assert made.args.world_size == world
        made.train()
        made.evaluate()
        if made.is_world_process_zero():
            made.save_model(str(folder / f"{name}-{world}"), _internal_call=True)
            made.state.save_to_json(str(folder / f"{name}-{world}" / "state.json"))


def test_two_processes_are_one(tmp_path: Path) -> None:
    run(tmp_path, 4, 1)
    code = "import sys, pathlib, torch; from tests.icl.test_train import run; torch.set_num_threads(1); "
    (tmp_path / "script.py").write_text(code + "run(pathlib.Path(sys.argv[1]), 2, 2)")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
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
    start_value = trainer(start(), tmp_path, mixed(), LEARNED).losses.state_dict()["of_states.anchor.raw_c"]
    assert load_file(tmp_path / "learned-2" / LOSSES_FILE)["of_states.anchor.raw_c"] != start_value


# Precision and memory.


def test_checkpointing_changes_nothing(tmp_path: Path) -> None:
    runs = []
    for on in (False, True):
        model = start(HyperICLConfig(), noise=0.05)
        made = trainer(model, tmp_path, mixed(), ALL, activation_checkpointing=on, max_steps=2)
        made.train()
        assert model.is_activation_checkpointing == on
        runs.append((logged(made), weights(model.icl_adapters)))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-6)
    for name, value in runs[0][1].items():
        torch.testing.assert_close(value, runs[1][1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16(dtype: torch.dtype, tmp_path: Path) -> None:
    """By autocast, and of the base: losses are those of float32 to two digits, and the adapter stays float32."""
    objective = Objective(ce=0.5, alignment=1.0, anchor=1.0)
    exact = trainer(start(HiFICLConfig()), tmp_path, mixed(), objective)
    exact.train()
    model = start(HiFICLConfig(), dtype=dtype)
    made = trainer(model, tmp_path, mixed(), objective, bf16=dtype == torch.float32, teacher_cache=tmp_path / "cache")
    made.train()
    assert logged(made) == pytest.approx(logged(exact), rel=0.05)
    assert logged(made) != logged(exact)
    assert {p.dtype for p in model.icl_adapters.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_raises(tmp_path: Path) -> None:
    model = start(MimICConfig())
    made = trainer(model, tmp_path, examples(), Objective())
    with torch.no_grad():
        next(iter(model.icl_adapters.parameters())).fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="at step 0: ce nan"):
        made.train()


# The teacher's states on disk.


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every pass of a teacher."""
    seen: list[int] = []
    run = Teacher._run

    def counted(self: Teacher, model: Any, batch: Any, query: Query) -> Any:
        seen.append(len(batch["id"]))
        return run(self, model, batch, query)

    monkeypatch.setattr(Teacher, "_run", counted)
    return seen


def test_without_a_teacher_there_is_no_pass(passes: list[int], tmp_path: Path) -> None:
    forwards: list[bool] = []
    model = start(HiFICLConfig())
    model.register_forward_pre_hook(lambda *_: forwards.append(bool(model.icl_adapters.active)))
    trainer(model, tmp_path, examples()).train()
    assert passes == []
    assert forwards == [True] * 4


@pytest.mark.parametrize("on_disk", [True, False])
def test_states_are_computed_once(on_disk: bool, passes: list[int], tmp_path: Path) -> None:
    data = mixed()[:8]
    cache: Any = tmp_path / "cache" if on_disk else {}
    plain = trainer(start(), tmp_path, data, ALL)
    plain.train()
    assert passes == [4, 4, 4, 4]
    passes.clear()
    kept = trainer(start(), tmp_path, data, ALL, teacher_cache=cache, lr_scheduler_type="constant", learning_rate=0)
    first = kept.evaluate(data)
    assert sum(passes) == 8
    assert len(list(cache.rglob("*.safetensors")) if on_disk else cache) == 8
    second = kept.evaluate(data)
    assert sum(passes) == 8
    assert {k: v for k, v in first.items() if "loss" in k} == {k: v for k, v in second.items() if "loss" in k}
    trained = trainer(start(), tmp_path, data, ALL, teacher_cache=cache)
    trained.train()
    assert sum(passes) == 8, "shuffled, in another run"
    assert logged(trained) == pytest.approx(logged(plain), rel=1e-5)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:-40] + bytes(40), lambda b: b"", lambda b: b"{" + b[1:]]
)
def test_a_damaged_entry_is_made_again(damage: Callable[[bytes], bytes], passes: list[int], tmp_path: Path) -> None:
    data = mixed()[:4]
    made = trainer(start(), tmp_path, data, ALL, teacher_cache=tmp_path)
    first = made.evaluate(data)["eval_loss"]
    file = sorted(tmp_path.rglob("*.safetensors"))[2]
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert made.evaluate(data)["eval_loss"] == first
    assert passes == [4, 4]
    assert file.read_bytes() == whole
    assert not [path for path in file.parent.iterdir() if path.name.startswith(".")]


def test_entries_are_told_apart(passes: list[int], tmp_path: Path) -> None:
    """By the base, by what is asked of it, and by the prompt."""
    data = examples()[:2]
    assert fingerprint(start()) == fingerprint(start(MimICConfig(), noise=0.5)) == fingerprint(testbed.load()[0])
    tuned = start()
    with torch.no_grad():
        tuned.model.connector.perceiver_resampler.latents += 1
    for model, objective, rows in (
        (start(), Objective(anchor=1.0), data),
        (start(MimICConfig()), Objective(alignment=1.0), data),
        (tuned, Objective(anchor=1.0), data),
        (start(dtype=torch.bfloat16), Objective(anchor=1.0), data),
        (start(), Objective(logits=1.0), data),
        (start(), Objective(anchor=1.0, layers=(0,)), data),
        (start(), Objective(anchor=1.0), [replace(e, teacher=e.teacher[2:]) for e in data]),
    ):
        trainer(model, tmp_path, rows, objective, teacher_cache=tmp_path).evaluate(rows)
    assert len(passes) == 6, "anchor and alignment ask for the same"


# Interruptions and files.


@pytest.mark.parametrize(
    ("config", "objective"), [(HiFICLConfig(), Objective()), (HiFICLConfig(), LEARNED), (LoRAConfig(), Objective())]
)
def test_resumed_is_uninterrupted(config: Any, objective: Objective, tmp_path: Path) -> None:
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-2}
    whole = trainer(start(config), tmp_path / "a", mixed(), objective, **settings)
    whole.train()
    resumed = trainer(start(config, seed=1), tmp_path / "b", mixed(), objective, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    for key in ("loss", "loss_ce", "grad_norm"):
        assert logged(resumed, key) == logged(whole, key)
    assert_equal(weights(resumed.adapters), weights(whole.adapters))
    assert_equal(weights(resumed.losses), weights(whole.losses))


def test_checkpoints_hold_no_base(tmp_path: Path) -> None:
    made = trainer(start(), tmp_path, examples(), LEARNED, save_strategy="steps", save_steps=4)
    made.train()
    folder = tmp_path / "checkpoint-4"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "adapter_config.json", "adapter_model.safetensors", LOSSES_FILE, "training_args.json",
        "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
    }  # fmt: skip
    assert json.loads((folder / "training_args.json").read_text())["learning_rate"] == 5e-3
    made.save_model(str(tmp_path / "adapter"))
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "training_args.json"}
    for saved in (folder, tmp_path / "adapter"):
        assert_equal(Adapters.from_pretrained(testbed.load()[0], saved).state_dict(), made.adapters.state_dict())


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
        self.seen: list[dict[str, Tensor]] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any, metrics: Any, **kwargs: Any) -> None:
        self.seen.append(weights(model.icl_adapters))
        metrics["eval_own"] = 1.0 if len(self.seen) == 2 else 0.0


@pytest.mark.parametrize(
    ("metric", "greater"), [("eval_loss", False), ("eval_loss_ce", False), ("eval_accuracy", True), ("eval_own", True)]
)
def test_the_best_is_loaded_at_the_end(metric: str, greater: bool, tmp_path: Path) -> None:
    callback = Metric()
    made = trainer(
        start(), tmp_path, examples(), Objective(ce=0.5, anchor=1.0), learning_rate=0.3, max_steps=5,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model=metric, greater_is_better=greater, eval_dataset=examples(), save_total_limit=2,
        compute_metrics=answer_accuracy, callbacks=[callback], keep_in_memory=True,
    )  # fmt: skip
    made.train()
    values = [1.0 if i == 1 else 0.0 for i in range(5)] if metric == "eval_own" else logged(made, metric)
    best = (max if greater else min)(range(5), key=values.__getitem__)
    assert made.state.best_metric == pytest.approx(values[best])
    assert_equal(weights(made.model.icl_adapters), callback.seen[best])


def test_accuracy_is_that_of_greedy_decoding(tmp_path: Path) -> None:
    model, processor = start(HyperICLConfig(), noise=0.2), testbed.load()[1]
    data = examples("set_conflict")
    made = trainer(model, tmp_path, data, Objective(), compute_metrics=answer_accuracy, per_device_eval_batch_size=5)
    inputs = collator().prompts(data)
    out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    said = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    right = [text.strip() == example.answer for text, example in zip(said, data)]
    assert 0 < np.mean(right) < 1
    assert made.evaluate(data)["eval_accuracy"] == np.mean(right)
    predicted = made.predict(data)
    assert answer_accuracy(EvalPrediction(predicted.predictions, predicted.label_ids))["accuracy"] == np.mean(right)


# Other models.


@cache
def asked(family: str) -> tuple[Any, list[Example]]:
    """A processor, and examples with one image or two, with an answer or without."""
    processor = processors.PROCESSORS[family]()

    def ask(*seeds: int) -> dict[str, Any]:
        shown = [{"type": "image", "image": processors.picture(s, *((12, 8) if s % 2 else (8, 8)))} for s in seeds]
        return {"role": "user", "content": [*shown, {"type": "text", "text": "what is this ?" * (1 + len(seeds))}]}

    said = {"role": "assistant", "content": [{"type": "text", "text": "a red boat"}]}
    return processor, [
        Example("a", [ask(1), said, ask(2, 4)], [ask(2, 4)], "a red apple"),
        Example("b", [ask(3), said, ask(4), said, ask(5)], [ask(5)], "boat"),
        Example("c", [ask(6), said, ask(7)], [ask(7)], None),
    ]


@pytest.mark.parametrize("family", processors.PROCESSORS)
def test_families(family: str, tmp_path: Path) -> None:
    """The cross-entropy of any family is its own, and training changes the adapter alone and lowers the loss."""
    processor, data = asked(family)
    model = processors.model(family, processor)
    attach(model, HiFICLConfig())
    args = training_arguments(
        tmp_path, max_steps=5, per_device_train_batch_size=3, learning_rate=2e-2, use_cpu=True, disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    made = DistillTrainer(
        model, args, train_dataset=data, data_collator=Collator(processor), objective=ALL, teacher_cache=tmp_path / "c"
    )
    before, first = weights(model), made.evaluate(data)
    batch = Collator(processor)(data)
    with torch.no_grad():
        assert first["eval_loss_ce"] == pytest.approx(float(model(**batch["student"]).loss), rel=1e-5)
    made.train()
    assert made.evaluate(data)["eval_loss"] < first["eval_loss"]
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("icl_adapters.") for name in changed)


# Batches of examples that were collated before.


@pytest.mark.parametrize("family", processors.PROCESSORS)
def test_merged_is_collated(family: str) -> None:
    processor, data = asked(family)
    made = Collator(processor)
    wanted, merged = made(data), Merge(made)(list(Collated(data, made)))
    assert wanted.keys() == merged.keys()
    for name, value in wanted.items():
        if isinstance(value, dict):
            assert value.keys() == merged[name].keys()
            for key, tensor in value.items():
                torch.testing.assert_close(merged[name][key], torch.as_tensor(tensor), rtol=0, atol=0, msg=key)
        elif isinstance(value, Tensor):
            assert torch.equal(merged[name], value), name
        else:
            assert merged[name] == value, name


def test_kept_in_memory_is_the_same(tmp_path: Path) -> None:
    runs = []
    for kept in (False, True):
        made = trainer(start(), tmp_path, mixed(), ALL, keep_in_memory=kept, eval_dataset={"dev": mixed()[:4]})
        made.train()
        runs.append([*logged(made), made.evaluate()["eval_dev_loss"], made.evaluate(mixed()[4:8])["eval_loss"]])
    assert runs[0] == pytest.approx(runs[1], rel=1e-6)


def test_collated_is_shared(tmp_path: Path) -> None:
    data = Collated(mixed(), collator())
    made = trainer(start(), tmp_path, data, Objective(), keep_in_memory=True)
    made.train()
    plain = trainer(start(), tmp_path, mixed(), Objective())
    plain.train()
    assert logged(made) == pytest.approx(logged(plain), rel=1e-6)
    assert "teacher" not in made.data_collator([data[0]])
    assert "teacher" in trainer(start(), tmp_path, data, ALL, keep_in_memory=True).data_collator([data[0]])
    students = Collated(mixed(), Collator(testbed.load()[1], teacher=False))
    with pytest.raises(ValueError, match="collated without one"):
        trainer(start(), tmp_path, students, ALL, keep_in_memory=True)


class Changing(list[Example]):
    def set_epoch(self, epoch: int) -> None:
        pass


def test_what_changes_is_not_kept() -> None:
    with pytest.raises(ValueError, match="examples must stay the same"):
        Collated(Changing(), collator())


# Arguments.


def test_arguments(tmp_path: Path) -> None:
    base = testbed.load()[0]
    with pytest.raises(ValueError, match="model must have adapters"):
        trainer(base, tmp_path, examples())
    with pytest.raises(ValueError, match="no 'other'"):
        trainer(start(), tmp_path, examples(), adapter="other")
    with pytest.raises(ValueError, match="layers of objective must be below 4, got"):
        trainer(start(), tmp_path, examples(), Objective(anchor=1.0, layers=(0, 4)))
    with pytest.raises(ValueError, match="use_reentrant must be False"):
        trainer(start(), tmp_path, examples(), activation_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(ValueError, match="label_smoothing_factor must not be set"):
        trainer(start(), tmp_path, examples(), label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="data_collator must be a Collator, got int"):
        DistillTrainer(start(), training_arguments(tmp_path, use_cpu=True), data_collator=1)
    with pytest.raises(ValueError, match="anchor must be zero or a positive weight, got -1"):
        Objective(anchor=-1)
    with pytest.raises(ValueError, match="at least one weight"):
        Objective(ce=0.0)


def test_quantised_base_is_trained_on(tmp_path: Path) -> None:
    """Trainer refuses one on which nothing is trained that it knows of, and is not left with another opinion."""
    model = start(HiFICLConfig())
    model.is_quantized, model.hf_quantizer = True, SimpleNamespace(is_trainable=True)
    made = trainer(model, tmp_path, examples(n=4), max_steps=3)
    assert not model._hf_peft_config_loaded
    before = weights(model)
    made.train()
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("icl_adapters.") for name in changed)
