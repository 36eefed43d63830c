"""LoRA against a model whose weights are W + (alpha / r) B A."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl.adapters import (
    Adapters,
    HiFICLConfig,
    HyperICLConfig,
    LIVEConfig,
    LoRAConfig,
    attach,
)
from icl.attention.decoder import Decoder
from icl.attention.internals import CHECKPOINTING
from tests.icl import decoders, zoo
from tests.icl.adapted import FAMILIES
from tests.icl.hooked import logits

LENGTH = 16
PROJECTION = re.compile(r"model\.((language_model|text_model)\.)?layers\.(\d+)\.self_attn\.[qkvo]_proj")


def arguments(name: str, **asked: Any) -> zoo.Inputs:
    x = zoo.inputs(name, length=LENGTH, **asked)
    return {**x, **zoo.positions(x)}


def randomise(adapters: Adapters, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in adapters.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))


def factors(adapters: Adapters, name: str = "default") -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
    """A and B by layer and name of the projection, of what is saved."""
    pairs: dict[tuple[int, str], dict[str, Tensor]] = {}
    for part in adapters[name]:
        for key, value in part.state_dict().items():
            match = re.fullmatch(r"layers\.(\d+)\.projections\..*/(\w+)\.([AB])\.weight", key)
            if match:
                pairs.setdefault((int(match[1]), match[2]), {})[match[3]] = value.clone()
    return {place: (pair["A"], pair["B"]) for place, pair in pairs.items()}


@torch.no_grad()
def merge(model: PreTrainedModel, pairs: dict[tuple[int, str], tuple[Tensor, Tensor]], scale: float) -> None:
    for layer in Decoder(model).layers:
        for name, module in (layer.attention or nn.Module()).named_modules():
            if (layer.index, name) in pairs:
                A, B = pairs.pop((layer.index, name))
                module.weight += scale * B @ A  # type: ignore[operator]
    assert not pairs


def test_is_the_identity_at_the_start_and_on_self_attention_alone(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    x = arguments(name)
    plain = logits(model, x)
    wanted = {n for n, module in model.named_modules() if PROJECTION.fullmatch(n)}
    assert len(wanted) == 12
    adapters = attach(model, LoRAConfig())
    assert torch.equal(logits(model, x), plain)
    named = {module: name for name, module in model.named_modules()}
    attention = {layer.index: named.get(layer.attention) for layer in adapters.decoder.layers}
    assert {f"{attention[layer]}.{name}" for layer, name in factors(adapters)} == wanted
    randomise(adapters)
    assert not torch.equal(logits(model, x), plain)
    with adapters.off():
        assert torch.equal(logits(model, x), plain)


def test_adds_the_product_of_its_factors(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    x = arguments(name)
    adapters = attach(model, LoRAConfig(rank=3, alpha=12))
    randomise(adapters)
    out, pairs = logits(model, x), factors(adapters)
    assert len(pairs) == 12
    assert pairs[0, "q_proj"][0].shape[0] == 3
    merged = zoo.make(name)
    merge(merged, pairs, 4.0)
    torch.testing.assert_close(out, logits(merged, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_removal_restores_the_model(name: str) -> None:
    model = zoo.make(name)
    x = arguments(name)

    def described() -> Any:
        modules = [(n, id(m), type(m), m.training, sorted(m.__dict__)) for n, m in model.named_modules()]
        return modules, [(n, id(p), p.requires_grad) for n, p in model.named_parameters()]

    before, plain = described(), logits(model, x)
    values = {key: value.clone() for key, value in model.state_dict().items()}
    adapters = attach(model, [LoRAConfig(), HyperICLConfig()], "first")
    adapters.add([LoRAConfig(rank=2, targets=("q_proj", "down_proj"))], "second")
    randomise(adapters)
    with adapters.use("second"):
        second = logits(model, x)
    adapters.remove("first")
    adapters.activate("second")
    torch.testing.assert_close(logits(model, x), second, rtol=1e-5, atol=1e-5)
    assert "down_proj" in "".join(adapters["second"][0].state_dict())
    adapters.detach()
    assert described() == before
    assert torch.equal(logits(model, x), plain)
    for key, value in model.state_dict().items():
        assert torch.equal(value, values[key]), key


def test_requests_choose(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    x = arguments(name, batch=4)
    adapters = attach(model, LoRAConfig(), "a")
    adapters.add([LoRAConfig(rank=2)], "b")
    adapters.add([LIVEConfig(), LoRAConfig(rank=4, targets=("mlp.down_proj", "v_proj"))], "c")
    randomise(adapters)
    choices = ["a", None, ("a", "b"), "c"]
    alone = []
    for row, chosen in enumerate(choices):
        with adapters.use(*((chosen,) if isinstance(chosen, str) else chosen or ())):
            alone.append(logits(model, x)[row])
    with adapters.use(rows=choices):
        torch.testing.assert_close(logits(model, x), torch.stack(alone), rtol=1e-4, atol=1e-4)
        words = zoo.inputs(name, batch=4, length=LENGTH)
        greedy = {"max_new_tokens": 3, "do_sample": False}
        mixed = model.generate(**words, **greedy, num_beams=2)
    assert (alone[0] - alone[2]).abs().max() > 0.01
    for row, chosen in enumerate(choices):
        with adapters.use(*((chosen,) if isinstance(chosen, str) else chosen or ())):
            assert torch.equal(model.generate(**words, **greedy, num_beams=2)[row], mixed[row])
    with adapters.use(rows=["a", "b", None]), pytest.raises(ValueError, match="3 choices for a batch of 4"):
        logits(model, x)


def test_saved_and_loaded_to_the_bit(family: tuple[str, PreTrainedModel], tmp_path: Path) -> None:
    name, model = family
    x = arguments(name)
    adapters = attach(model, [LoRAConfig(rank=2, alpha=5, layers=(1,)), HiFICLConfig()])
    randomise(adapters)
    out = logits(model, x)
    fingerprint = adapters.decoder.fingerprint()
    adapters.save_pretrained(tmp_path)
    adapters.detach()
    assert Decoder(model).fingerprint() == fingerprint
    # Beside another one, which is not what the base is told by.
    other = zoo.make(name)
    attach(other, LoRAConfig(targets=("q_proj", "o_proj")), "other")
    again = Adapters.from_pretrained(other, tmp_path)
    assert torch.equal(logits(other, x), out)
    assert again["default"][0].config == LoRAConfig(rank=2, alpha=5, layers=(1,))


def test_works_with_other_methods(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    x = arguments(name)
    others = [HyperICLConfig(), HiFICLConfig(), LIVEConfig()]
    adapters = attach(model, [LoRAConfig(), *others])
    randomise(adapters)
    out, pairs = logits(model, x), factors(adapters)
    merged = zoo.make(name)
    merge(merged, pairs, 2.0)
    apart = attach(merged, others)
    for part, values in zip(apart["default"], list(adapters["default"])[1:]):
        part.load_state_dict(values.state_dict())
    torch.testing.assert_close(out, logits(merged, x), rtol=1e-4, atol=1e-4)


def test_trains_its_factors_alone(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    x = arguments(name)
    adapters = attach(model, LoRAConfig())
    adapters.add([LoRAConfig(rank=2)], "second")
    adapters.activate("default")
    randomise(adapters)
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in adapters.parameters()}
    with adapters.off():
        teacher = logits(model, x)
        # Switching off is no freezing: an optimiser made now has all.
        assert all(p.requires_grad for p in adapters.parameters())
    (model(**x).logits - teacher).square().mean().backward()
    assert all(p.grad is None for n, p in model.named_parameters() if "icl_adapters" not in n)
    assert all(p.grad.abs().max() > 0 for part in adapters["default"] for p in part.parameters() if p.grad is not None)
    assert all(p.grad is not None for part in adapters["default"] for p in part.parameters())
    assert all(p.grad is None for part in adapters["second"] for p in part.parameters())

    # What is frozen stays frozen.
    frozen = next(iter(adapters["default"][0].parameters()))
    frozen.requires_grad_(False)
    adapters.activate()
    adapters.activate("default", "second")
    assert not frozen.requires_grad


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model = zoo.make("idefics2").train()
    x = {**arguments("idefics2"), "labels": zoo.labels(zoo.inputs("idefics2", length=LENGTH))}
    adapters = attach(model, LoRAConfig())
    randomise(adapters)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            getattr(model, f"{CHECKPOINTING}_enable")()
        loss = model(**x, use_cache=False).loss
        gradients.append(torch.autograd.grad(loss, list(adapters.parameters())))
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_half_precision_base() -> None:
    model = zoo.make("idefics2").bfloat16()
    x = arguments("idefics2")
    x["pixel_values"] = x["pixel_values"].bfloat16()
    adapters = attach(model, LoRAConfig())
    assert {p.dtype for p in adapters.parameters()} == {torch.float32}
    plain = logits(model, x)
    randomise(adapters)
    out = logits(model, x)
    assert out.dtype == torch.bfloat16
    assert (out - plain).abs().max() > 0.01


def test_size() -> None:
    sizes = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 8}
    with torch.device("meta"):
        model = zoo.make("idefics2", **sizes, num_key_value_heads=32)
    adapters = attach(model, LoRAConfig(rank=8))
    # r (in + out) for each of four projections of a layer
    assert sum(p.numel() for p in adapters.parameters()) == 32 * 4 * 8 * (4096 + 4096)
    assert all(p.is_meta for p in adapters.parameters())


def test_a_lora_of_the_model_itself_stays() -> None:
    model = zoo.make("llava")
    x = arguments("llava")
    own = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    peft.inject_adapter_in_model(own, model, "own")
    plain, configured = logits(model, x), model.peft_config
    names = [n for n, _ in model.named_modules()]
    adapters = attach(model, LoRAConfig())
    assert torch.equal(logits(model, x), plain)
    randomise(adapters)
    assert not torch.equal(logits(model, x), plain)
    with adapters.off():
        assert torch.equal(logits(model, x), plain)
    adapters.detach()
    assert torch.equal(logits(model, x), plain)
    assert [n for n, _ in model.named_modules()] == names
    assert model.peft_config is configured
    assert all(m.active_adapters == ["own"] for m in model.modules() if isinstance(m, LoraLayer))


def test_errors() -> None:
    for settings in ({"rank": 0}, {"alpha": -1}, {"rank": 2.5}):
        with pytest.raises(ValueError, match=r"LoRAConfig: (rank|alpha) must be a whole number of 1 or more"):
            LoRAConfig(**settings)
    model = zoo.make("llava")
    adapters = attach(model, LIVEConfig())
    with pytest.raises(ValueError, match="found no linear maps named query, key in decoder layer 0"):
        adapters.add([LoRAConfig(targets=("query", "key"))], "lora")
    with pytest.raises(ValueError, match="layers must be from 0 to 2, got 3"):
        adapters.add([LoRAConfig(layers=(3,))], "lora")
    assert adapters.names == ("default",)
    assert isinstance(model.get_decoder().layers[0].self_attn.q_proj, nn.Linear)


def test_lora_that_would_not_act_or_cannot_tell_is_refused() -> None:
    x = decoders.prompt(2)
    model = decoders.make()
    decoders.fill(attach(model, LoRAConfig(targets=("up_proj",))))
    model.model.layers[1].mlp = copy.deepcopy(decoders.make().model.layers[1].mlp)
    with pytest.raises(ValueError, match=r"projection mlp.up_proj of lora .* decoder layer 1 ran in a way"):
        model(**x)
    model = decoders.make()
    model.model.layers[2].mlp = model.model.layers[1].mlp
    with pytest.raises(ValueError, match="found one linear map in several decoder layers"):
        attach(model, LoRAConfig(targets=("up_proj",)))
