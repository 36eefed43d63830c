"""The teacher's states: computed once, and told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from icl import testbed
from icl.adapters import HiFICLConfig, MimICConfig
from icl.losses.objective import Objective, QueryTokens
from icl.training.teacher import Teacher, fingerprint
from tests.icl.trainers import (
    ALL,
    examples,
    logged,
    mixed,
    start,
    trainer,
)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every pass of a teacher."""
    sizes: list[int] = []
    run = Teacher._run

    def counted(self: Teacher, model: Any, batch: Any, query: QueryTokens) -> Any:
        sizes.append(len(batch["id"]))
        return run(self, model, batch, query)

    monkeypatch.setattr(Teacher, "_run", counted)
    return sizes


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
    cached = trainer(start(), tmp_path, data, ALL, teacher_cache=cache, lr_scheduler_type="constant", learning_rate=0)
    first = cached.evaluate(data)
    assert sum(passes) == 8
    assert len(list(cache.rglob("*.safetensors")) if on_disk else cache) == 8
    second = cached.evaluate(data)
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
    distiller = trainer(start(), tmp_path, data, ALL, teacher_cache=tmp_path)
    first = distiller.evaluate(data)["eval_loss"]
    file = sorted(tmp_path.rglob("*.safetensors"))[2]
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert distiller.evaluate(data)["eval_loss"] == first
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


def test_every_number_of_the_base_is_in_its_fingerprint() -> None:
    """Another single value of any weight, by the least that can be, makes another base; so does its configuration."""
    model = start()
    fingerprints = {fingerprint(model)}
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    base = {name: value for name, value in tensors.items() if not name.startswith("icl_") and value.is_floating_point()}
    persistent = [name for name in base if name in model.state_dict()]
    assert len(persistent) > 50
    for name in persistent:
        flat = base[name].detach().view(-1)
        flat[len(flat) // 3] = torch.nextafter(flat[len(flat) // 3], torch.tensor(torch.inf))
        fingerprints.add(fingerprint(model))
    model.config.text_config.rms_norm_eps *= 2
    fingerprints.add(fingerprint(model))
    assert len(fingerprints) == len(persistent) + 2


@pytest.mark.parametrize("in_place", [True, False])
def test_states_of_other_weights_are_never_taken(in_place: bool, passes: list[int], tmp_path: Path) -> None:
    """One trainer, whose base is changed by hand between two evaluations."""
    data = examples()[:2]
    distiller = trainer(start(), tmp_path, data, Objective(anchor=1.0), teacher_cache=tmp_path)
    weight = distiller.model.model.text_model.layers[2].mlp.down_proj.weight
    before = distiller.evaluate(data)["eval_loss"]
    with torch.no_grad():
        if in_place:
            weight[5, 7] += 1
        else:
            weight.data[5, 7] += 1
    after = distiller.evaluate(data)["eval_loss"]
    fresh = trainer(start(), tmp_path, data, Objective(anchor=1.0))
    with torch.no_grad():
        fresh.model.model.text_model.layers[2].mlp.down_proj.weight[5, 7] += 1
    assert after == fresh.evaluate(data)["eval_loss"] != before
