"""Adapters of every kind on models of the zoo, and what tests ask of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from icl.adapters import AdapterConfig, Adapters, HiFICLConfig, HyperICLConfig, MimICConfig, attach
from tests.icl import zoo

FAMILIES = ("idefics", "idefics2", "qwen2_vl", "gemma3")
"""They differ in what adapters have to mind: cross-attention, grouped heads, rotation, a scale of their own."""
ROUNDING = 1e-5
"""Relative to the largest logit, for the same sums in another order."""
GREEDY = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
CONFIGS: dict[str, list[AdapterConfig]] = {
    "hyper token": [HyperICLConfig()],
    "hyper head": [HyperICLConfig(rank=2, gate="head")],
    "hyper layer": [HyperICLConfig(rank=8, gate="layer")],
    "hyper output": [HyperICLConfig(correct="output")],
    "hificl": [HiFICLConfig()],
    "hificl keys": [HiFICLConfig(tokens=3, rank=2, factorise="keys")],
    "hificl values": [HiFICLConfig(tokens=5, rank=3, factorise="values")],
    "hificl free": [HiFICLConfig(tokens=1, factorise="none")],
    "hificl identity": [HiFICLConfig(start="identity")],
    "hificl added": [HiFICLConfig(mass="added")],
    "mimic": [MimICConfig()],
    "mimic layer": [MimICConfig(direction="layer")],
    "mimic constant": [MimICConfig(mass="constant")],
    "all": [HyperICLConfig(), HiFICLConfig(), MimICConfig()],
    "others": [MimICConfig(), HiFICLConfig(mass="added"), HiFICLConfig(tokens=2), HyperICLConfig(correct="output")],
}


def strengthen(adapters: Adapters, seed: int = 0) -> Adapters:
    """Far from where methods start, always with the same parameters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in adapters.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 2)
    return adapters


def begin(adapters: Adapters) -> None:
    """Start a pass on a cache, as the decoder does, for layers and attention that are called by hand."""
    started = adapters.new_pass()
    started.cached = True
    adapters.passes.start(started)


def run(model: PreTrainedModel, x: zoo.Inputs, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(**x, **zoo.positions(x), **kwargs).logits
    return out


def close(got: Tensor, wanted: Tensor, tolerance: float, where: str, scale: float = 0.0) -> None:
    """To a tolerance relative to the largest value, or to a larger one."""
    assert got.isfinite().all(), where
    got, wanted = got.detach().double(), wanted.detach().double()
    scale, error = max(float(wanted.abs().max()), scale), float((got - wanted).abs().max())
    assert error <= tolerance * scale, f"{where}: off by {error:.1e} of {scale:.1e}"


def frozen(name: str = "idefics2", **text: Any) -> PreTrainedModel:
    """Frozen, as adapters leave it: the last bit of an output can depend on what requires a gradient."""
    model = zoo.make(name, **text)
    model.requires_grad_(False)
    return model


def generate(model: PreTrainedModel, x: zoo.Inputs, **settings: Any) -> Tensor:
    """Logits of the generated tokens, (steps, B, V)."""
    generator: Any = model
    return torch.stack(generator.generate(**x, **{**GREEDY, **settings}).logits)


def assert_identity_at_start(name: str, kinds: tuple[str, ...]) -> None:
    """These adapters leave logits and answers as they are to the bit, until their parameters change."""
    model, x = frozen(name), zoo.inputs(name)
    before, answer = run(model, x), generate(model, x)
    for kind in kinds:
        adapters = attach(model, CONFIGS[kind])
        assert torch.equal(run(model, x), before), kind
        assert torch.equal(generate(model, x), answer), kind
        strengthen(adapters)
        assert (run(model, x) - before).abs().max() > 1e-2, kind
        adapters.detach()


def count_published(config: AdapterConfig) -> int:
    """Parameters of an adapter on a decoder of 32 layers of 32 heads of width 128."""
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    text = {"model_type": "llama", **sizes, "vocab_size": 32064}
    vision = {"model_type": "clip_vision_model", **zoo.VISION, "patch_size": 4}
    with torch.device("meta"):
        llava = AutoConfig.for_model("llava", text_config=text, vision_config=vision)
        adapters = attach(AutoModelForImageTextToText.from_config(llava), config)
    return sum(p.numel() for p in adapters.parameters())
