"""Bases that are wrapped, offloaded, copied, saved whole, or used from several threads: right, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import peft
import pytest
import torch
from torch import nn

from icl.adapters import (
    AdapterConfig,
    Adapters,
    HyperICLConfig,
    LoRAConfig,
    attach,
    attached,
)
from tests.icl import decoders
from tests.icl.decoders import TOLERANCE, labelled

# peft asks models by names that transformers has given up.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
]


def with_peft(model: Any) -> Any:
    return peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))


def compiled(model: Any) -> Any:
    return torch.compile(model, backend="eager")


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "peft": with_peft,
    "compile": compiled,
    "both": lambda model: compiled(with_peft(model)),
}


@pytest.mark.parametrize(
    ("wrapper", "config"),
    [
        *(("peft", config) for config in decoders.METHODS),
        # one of each kind: at the end of the prompt, in attention, and in projections
        *((wrapper, decoders.METHODS[i]) for wrapper in ("compile", "both") for i in (0, 3, 6)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.method,
)
def test_wrapped_bases_answer_as_the_base_does(wrapper: str, config: AdapterConfig) -> None:
    torch._dynamo.reset()
    shallow = {"num_hidden_layers": 2}  # compiled in half the time
    model, x = decoders.make(**shallow), decoders.prompt(2)
    decoders.fill(attach(model, config))
    expected = decoders.answer(model, x)[1]
    wrapped = WRAPPERS[wrapper](decoders.make(**shallow))
    adapters = decoders.fill(attach(wrapped, config))
    assert attached(wrapped) is adapters
    torch.testing.assert_close(decoders.answer(wrapped, x)[1], expected, **TOLERANCE)
    labels = labelled(x)
    with torch.no_grad():
        torch.testing.assert_close(wrapped(**x, labels=labels).loss, model(**x, labels=labels).loss, **TOLERANCE)
    adapters.detach()
    bare = decoders.answer(decoders.make(**shallow), x)[1]
    torch.testing.assert_close(decoders.answer(wrapped, x)[1], bare, **TOLERANCE)


def test_adapters_that_peft_has_frozen_are_not_trained_in_silence() -> None:
    model, x = decoders.make(), decoders.prompt(2)
    adapters = decoders.fill(attach(model, HyperICLConfig()))
    expected = decoders.answer(model, x)[1]
    wrapped = with_peft(model)
    with pytest.raises(ValueError, match=r"peft has frozen them.*call get_peft_model first, then attach"):
        wrapped(**x, labels=labelled(x))
    # which is no reason not to answer
    torch.testing.assert_close(decoders.answer(wrapped, x)[1], expected, **TOLERANCE)
    adapters.requires_grad_(True)
    wrapped(**x, labels=labelled(x)).loss.backward()
    assert all(p.grad is not None for p in adapters.parameters())


def test_prompt_learning_of_peft_is_refused() -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="must not have prompts of peft"):
        attach(peft.get_peft_model(decoders.make(), config), HyperICLConfig())


def test_what_replaces_linear_maps_leaves_adapters_alone() -> None:
    model, x = decoders.make(), decoders.prompt(2)
    adapters = decoders.fill(attach(model, [LoRAConfig(), HyperICLConfig()]))
    expected, names = decoders.answer(model, x)[1], [n for n, _ in adapters.named_parameters()]
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
    assert [n for n, _ in adapters.named_parameters()] == names
    torch.testing.assert_close(decoders.answer(wrapped, x)[1], expected, **TOLERANCE)


def to_cpu(model: Any, folder: Path) -> Any:
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def to_disk(model: Any, folder: Path) -> Any:
    return accelerate.disk_offload(model, str(folder), execution_device=torch.device("cpu"))


def by_map(model: Any, folder: Path) -> Any:
    places: dict[str, Any] = {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(4)}
    places |= {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(folder))


@pytest.mark.filterwarnings("ignore:.*offload.*")
@pytest.mark.parametrize("move", [to_cpu, to_disk, by_map])
@pytest.mark.parametrize("config", decoders.METHODS, ids=decoders.method)
def test_offloaded_bases(config: AdapterConfig, move: Callable[..., Any], tmp_path: Path) -> None:
    model, x = decoders.make(), decoders.prompt(2)
    plain = decoders.fill(attach(model, config))
    expected = decoders.answer(model, x)[1]
    bare = decoders.answer(decoders.make(), x)[1]
    assert (expected - bare).abs().max() > 0.05
    away = move(decoders.make(), tmp_path / "away")
    adapters = decoders.fill(attach(away, config))
    assert not any(value.is_meta for value in [*adapters.parameters(), *adapters.buffers()])
    torch.testing.assert_close(decoders.answer(away, x)[1], expected, **TOLERANCE)
    # a base is told by values, wherever they lie
    plain.save_pretrained(tmp_path / "saved")
    Adapters.from_pretrained(away, tmp_path / "saved", "again")
    with pytest.raises(ValueError, match="trained on another base"):
        Adapters.from_pretrained(move(decoders.make(seed=1), tmp_path / "other"), tmp_path / "saved")


def test_adapters_that_are_offloaded_with_their_base_are_refused() -> None:
    model, x = decoders.make(), decoders.prompt()
    for config in (HyperICLConfig(), LoRAConfig()):
        decoders.fill(attach(model, config))
        away = accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        with pytest.raises(ValueError, match=r"parameters have been offloaded.*dispatch the model first"):
            away(**x)
        model = decoders.make()


class Wrapped(nn.Module):
    """A model in a model of somebody's own."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **kwargs: Any) -> Any:
        return self.model(**kwargs)


def test_a_wrapper_that_nobody_knows_is_refused_or_calls_the_model() -> None:
    model, x = decoders.make(), decoders.prompt(2)
    with pytest.raises(ValueError, match="model must be one of transformers with a text decoder, got Wrapped"):
        attach(Wrapped(model), HyperICLConfig())
    decoders.fill(attach(model, HyperICLConfig()))
    with torch.no_grad():
        assert torch.equal(Wrapped(model)(**x).logits, model(**x).logits)


def test_layers_that_two_models_share_have_one_set_of_adapters() -> None:
    model = decoders.make()
    attach(model, HyperICLConfig())
    with pytest.raises(ValueError, match="have adapters already, attached to a model that shares them"):
        attach(model.model, HyperICLConfig())
    assert attached(model.model) is None
    attached(model).detach()  # type: ignore[union-attr]
    attach(model.model, HyperICLConfig()).detach()


@pytest.mark.parametrize("config", decoders.METHODS, ids=decoders.method)
def test_adapters_stay_float32_when_their_model_does_not(config: AdapterConfig) -> None:
    model, x = decoders.make(), decoders.prompt(2)
    adapters = decoders.fill(attach(model, config))
    before = {name: value.clone() for name, value in adapters.state_dict().items()}
    for narrow in (model.bfloat16, model.half):
        narrow()
        assert all(torch.equal(value, before[name]) for name, value in adapters.state_dict().items())
    model.bfloat16()
    assert decoders.answer(model, x)[1].isfinite().all()


def test_adapters_are_loaded_onto_wrapped_bases(tmp_path: Path) -> None:
    model, x = decoders.make(), decoders.prompt(2)
    decoders.fill(attach(model, HyperICLConfig())).save_pretrained(tmp_path)
    expected = decoders.answer(model, x)[1]
    wrapped = with_peft(decoders.make())
    Adapters.from_pretrained(wrapped, tmp_path)
    torch.testing.assert_close(decoders.answer(wrapped, x)[1], expected, **TOLERANCE)
