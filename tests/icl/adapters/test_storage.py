"""Adapters on disk: to the bit, of the same base, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from icl.adapters import Adapters, HyperICLConfig, MimICConfig, attach, attached
from tests.icl import literal, zoo
from tests.icl.adapted import CONFIGS, frozen, run, strengthen


@pytest.mark.parametrize("what", CONFIGS)
def test_saved_adapters_come_back_to_the_bit(what: str, tmp_path: Path) -> None:
    """Each on two families; every family has some."""
    names = list(zoo.FAMILIES)
    place = list(CONFIGS).index(what)
    for name in (names[place], names[(place + 1) % len(names)]):
        x = zoo.inputs(name)
        model = frozen(name)
        strengthen(attach(model, CONFIGS[what], "mine")).save_pretrained(tmp_path / name, "mine")
        before = run(model, x)
        other = frozen(name)
        adapters = Adapters.from_pretrained(other, tmp_path / name)
        assert adapters.active == ("default",)
        assert [part.config for part in adapters["default"]] == CONFIGS[what]
        assert torch.equal(run(other, x), before)
        Adapters.from_pretrained(other, tmp_path / name, "second")
        assert adapters.active == ("second",)
        assert torch.equal(run(other, x), before)


@pytest.mark.parametrize("name", zoo.FAMILIES)
def test_a_base_of_another_precision_is_the_same_base(name: str, tmp_path: Path) -> None:
    model = zoo.make(name)
    attach(model, MimICConfig()).save_pretrained(tmp_path)
    narrow = zoo.make(name).to(torch.bfloat16)
    adapters = Adapters.from_pretrained(narrow, tmp_path)
    assert {p.dtype for p in adapters.parameters()} == {torch.float32}
    adapters.save_pretrained(tmp_path / "narrow")
    attached(model).detach()
    Adapters.from_pretrained(model, tmp_path / "narrow")


def other_weights(name: str) -> PreTrainedModel:
    model = zoo.make(name)
    with torch.no_grad():
        model.get_decoder().get_input_embeddings().weight.mul_(1.1)
    return model


def other_attention(name: str) -> PreTrainedModel:
    model = zoo.make(name)
    with torch.no_grad():
        literal.targets(model)[-1][1].q_proj.weight.add_(0.1)
    return model


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (lambda: zoo.make("idefics2", num_hidden_layers=2), "layers is 2, and was 3"),
        (lambda: zoo.make("idefics2", num_attention_heads=2), "heads is 2, and was 4"),
        (lambda: zoo.make("idefics2", hidden_size=64, head_dim=8), "width is 64, and was 32"),
        (lambda: zoo.make("llava"), "architecture is LlamaModel, and was MistralModel"),
        (lambda: zoo.make("mistral3", head_dim=8), "the weights differ, first in embedding"),
        (lambda: other_weights("idefics2"), "the weights differ, first in embedding"),
        (lambda: other_attention("idefics2"), "the weights differ, first in 2.q_proj.weight"),
    ],
)
def test_another_base_is_refused(base: Callable[[], PreTrainedModel], reason: str, tmp_path: Path) -> None:
    attach(frozen(), HyperICLConfig()).save_pretrained(tmp_path)
    model = base()
    with pytest.raises(ValueError, match=f"was trained on another base: {reason}"):
        Adapters.from_pretrained(model, tmp_path)
    assert attached(model) is None


def rewrite(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def renamed(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json cannot be read"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
        (lambda f: (f / "adapter_config.json").write_bytes(b"\xff\xfe\xfd"), "adapter_config.json cannot be read"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "must be of format 1"),
        (lambda f: (f / "adapter_config.json").write_text('{"peft_type": "LORA"}'), "must be of format 1"),
        (lambda f: rewrite(f, format=2), "must be of format 1"),
        (lambda f: rewrite(f, parts=[]), "parts"),
        (lambda f: rewrite(f, parts=[3]), "parts"),
        (lambda f: rewrite(f, parts=[{"method": "x"}]), "method must be one of"),
        (lambda f: rewrite(f, parts=[{"method": "mimic", "depth": 2}]), "mimic: there is no 'depth'"),
        (lambda f: rewrite(f, parts=[{"method": "mimic", "mass": 2}]), "mass must be one of query, constant, got 2"),
        (
            lambda f: rewrite(f, parts=[{"method": "hyper_icl", "rank": "4"}]),
            "hyper_icl.rank must be a whole number of 1 or more, got '4'",
        ),
        (lambda f: rewrite(f, parts=[{"method": "mimic", "layers": [9]}]), "layers must be from 0 to 2, got 9"),
        (lambda f: rewrite(f, parts=[{"method": "mimic", "layers": 1}]), "layers"),
        (lambda f: rewrite(f, base=None), "base"),
        (lambda f: rewrite(f, base={}), "must describe its base by architecture"),
        (lambda f: rewrite(f, parts=[{"method": "mimic"}]), "do not match their configuration"),
        (lambda f: rewrite(f, parts=[{"method": "hyper_icl", "rank": 2}]), r"must be \(4, 8, 2\), got \(4, 8, 4\)"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors cannot be read"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"1234567890"), "safetensors cannot be read"),
        (lambda f: renamed(f, lambda t: dict(list(t.items())[1:])), "do not match their configuration, first 0.layers"),
        (lambda f: renamed(f, lambda t: {**t, "more": torch.ones(1)}), "do not match their configuration, first more"),
    ],
)
def test_files_that_are_damaged_or_foreign(damage: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    attach(frozen(), HyperICLConfig()).save_pretrained(tmp_path)
    damage(tmp_path)
    model, x = frozen(), zoo.inputs("idefics2")
    before = run(model, x)
    with pytest.raises(ValueError, match=message):
        Adapters.from_pretrained(model, tmp_path)
    assert attached(model) is None
    assert torch.equal(run(model, x), before)
    adapters = attach(model, HyperICLConfig(), "mine")
    with pytest.raises(ValueError, match=message):
        Adapters.from_pretrained(model, tmp_path)
    assert (adapters.names, adapters.active) == (("mine",), ("mine",))


def test_a_shortened_file_of_weights(tmp_path: Path) -> None:
    attach(frozen(), HyperICLConfig()).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors cannot be read"):
        Adapters.from_pretrained(frozen(), tmp_path)
