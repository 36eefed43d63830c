"""The attention function: what it computes, against :mod:`tests.icl.literal`, and where it does nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from icl.adapters import Adapters, HyperICLConfig, attach, attached
from icl.adapters.base import AdapterLayer
from icl.attention import primitives as attention
from tests.icl import literal, zoo
from tests.icl.adapted import CONFIGS, begin, close, run, strengthen
from tests.icl.literal import GRADIENT, OUTPUT, Call


def calls(name: str, model: PreTrainedModel, implementation: str, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """One of each kind that there is in training, prefill and decoding, padded and not, with both caches."""
    numbers = {module: i for i, module in literal.targets(model)}
    by_kind: dict[tuple[Any, ...], Call] = {}
    ours = ALL_ATTENTION_FUNCTIONS[implementation]

    def recording(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        if module in numbers:
            call = Call(numbers[module], module, query, key.clone(), value.clone(), mask, kwargs)
            by_kind.setdefault(call.kind, call)
        return ours(module, query, key, value, mask, **kwargs)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setitem(ALL_ATTENTION_FUNCTIONS, implementation, recording)
        for padding in ("left", "none"):
            x = zoo.inputs(name, padding=padding)
            model(**x, **zoo.positions(x))
            for settings in ({}, {"cache_implementation": "static"}):
                model.generate(**x, max_new_tokens=3, do_sample=False, **settings)
    return list(by_kind.values())


def check(call: Call, adapters: Adapters, function: Callable[..., Any], where: str) -> None:
    """Output and gradients of the function are those of the literal form, for queries that see some key."""
    begin(adapters)
    generator = torch.Generator().manual_seed(1)
    inputs = [x.clone().requires_grad_() for x in (call.query, call.key, call.value)]
    output, _ = function(call.module, *inputs, call.mask, **call.kwargs)
    visible = call.visible
    alive = visible.any(-1, keepdim=True)
    alive = alive.view(*[1] * (4 - alive.ndim), *alive.shape).transpose(1, 2)
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    methods = literal.methods(adapters, call.layer)
    wanted = literal.attention(methods, *doubles, visible | ~visible.any(-1, keepdim=True), call.kwargs["scaling"])
    close(output * alive, wanted * alive, OUTPUT, where)
    assert output.dtype == call.query.dtype
    direction = torch.randn(output.shape, generator=generator) * alive
    (output * direction).sum().backward()
    (wanted * direction).sum().backward()
    for x, double, what in zip(inputs, doubles, ("query", "key", "value")):
        close(x.grad, double.grad, GRADIENT, f"{where}, gradient of the {what}")
    parts = [part.at(call.layer) for name in adapters.names for part in adapters[name]]
    for method, part in zip(methods, parts, strict=True):
        gradients(part, method, GRADIENT, where)


def gradients(part: nn.Module, method: literal.Method, tolerance: float, where: str) -> None:
    """Those of all parameters are the literal ones, relative to the largest: that of a scalar is a sum that cancels."""
    scale = max(float(p.grad.abs().max()) for p in method.parameters.values())
    for name, parameter in part.named_parameters():
        close(parameter.grad, method[name].grad, tolerance, f"{where}, gradient of {name}", scale)
        parameter.grad = None


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_and_its_gradients_are_the_literal_ones(
    family: tuple[str, PreTrainedModel], implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, model = family
    model.set_attn_implementation(implementation)
    attach(model, HyperICLConfig())
    ours = attention.ATTENTION_NAMES[implementation]
    asked = calls(name, model, ours, monkeypatch)
    assert len(asked) >= 3
    assert {call.query.shape[2] > 1 for call in asked} == {True, False}
    attached(model).detach()
    for what, configs in CONFIGS.items():
        adapters = strengthen(attach(model, configs))
        for call in asked:
            check(call, adapters, ALL_ATTENTION_FUNCTIONS[ours], f"{what}, {call.kind}")
        adapters.detach()


def test_a_decoder_is_the_literal_one(family: tuple[str, PreTrainedModel]) -> None:
    """The right layers, the right numbers of heads, and all of the gradient. Each family with every third adapter."""
    name, model = family
    x = zoo.inputs(name)
    valid = x["attention_mask"].bool()
    first = list(zoo.FAMILIES).index(name)
    stock = run(model, x)[valid]
    for configs in list(CONFIGS.values())[first % 3 :: 3]:
        adapters = strengthen(attach(model, configs))
        twin = zoo.make(name)
        layers = literal.install(twin, adapters)
        logits = model(**x, **zoo.positions(x)).logits[valid]
        wanted = twin(**x, **zoo.positions(x)).logits[valid]
        assert (logits - stock).abs().max() > 1e-2
        close(logits, wanted, 10 * OUTPUT, str(configs))
        direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
        (logits * direction).sum().backward()
        (wanted * direction).sum().backward()
        for layer, methods in layers.items():
            parts = [part.at(layer) for part in adapters["default"]]
            for part, method in zip(parts, methods, strict=True):
                gradients(part, method, 10 * GRADIENT, f"{configs}, layer {layer}")
        adapters.detach()


class Bias(AdapterLayer):
    """Scores of keys by their place, the same for all heads or not."""

    def __init__(self, left: Tensor, right: Tensor):
        super().__init__()
        self.left, self.right = left, right

    def score_bias(self, query: Tensor, keys: int) -> tuple[Tensor, Tensor]:
        return self.left[:, :, -query.shape[2] :], self.right[:, :, :keys]


@dataclass
class Site:
    layers: list[tuple[Any, Tensor | None]]

    @property
    def model(self) -> nn.Module:
        return nn.Identity()

    def uses(self, query: Tensor, key: Tensor) -> list[tuple[Any, Tensor | None]]:
        return self.layers

    def observe(self, scores: Any, output: Tensor) -> None:
        pass


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("rows", [None, [True, False]])
def test_a_bias_is_added_to_the_scores(
    implementation: str, rows: list[bool] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "qwen2_vl"
    model = zoo.make(name)
    model.requires_grad_(False)
    model.set_attn_implementation(implementation)
    attach(model, HyperICLConfig())
    ours = attention.ATTENTION_NAMES[implementation]
    chosen = None if rows is None else torch.tensor(rows)
    for call in calls(name, model, ours, monkeypatch):
        B, H, T, _ = call.query.shape
        keys = call.key.shape[2]
        left, right = torch.randn(B, H, T, 3), torch.randn(B, 1, keys, 3)
        attention.put_site(call.module, Site([(Bias(left, right), chosen)]))
        got, _ = ALL_ATTENTION_FUNCTIONS[ours](call.module, *call[2:6], **call.kwargs)
        groups = H // call.key.shape[1]
        key, value = (x.double().repeat_interleave(groups, 1) for x in (call.key, call.value))
        added = (left @ right.mT).double()
        if chosen is not None:
            added = added * chosen[:, None, None, None]
        S = call.query.double() @ key.mT * call.kwargs["scaling"] + added
        visible = call.visible
        alive = visible.any(-1, keepdim=True)
        wanted = torch.softmax(S.masked_fill(~(visible | ~alive), -torch.inf), -1) @ value
        alive = alive.expand(B, 1, T, 1).transpose(1, 2)
        close(got * alive, wanted.transpose(1, 2) * alive, OUTPUT, str(call.kind))


def outputs(model: PreTrainedModel, x: zoo.Inputs) -> list[Tensor]:
    """Logits, states and, if the model tells them, attentions; what it says, greedily and with beams."""
    with torch.no_grad():
        options = {"output_hidden_states": True, "output_attentions": model.config._attn_implementation == "eager"}
        options["output_attentions"] |= model.get_decoder().config._attn_implementation in ("eager", "icl_e")
        out = model(**x, **zoo.positions(x), **options)
        answers = [model.generate(**x, max_new_tokens=3, do_sample=False, num_beams=n) for n in (1, 2)]
    attentions = [a for a in out.attentions or () if a is not None]
    assert bool(attentions) == options["output_attentions"]
    return [out.logits, *out.hidden_states, *attentions, *answers]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_base_is_untouched_to_the_bit(family: tuple[str, PreTrainedModel], implementation: str) -> None:
    """Adapters that are off, not in these layers, or off in this model that shares its configuration with another."""
    name, model = family
    beside = type(model)(model.config)
    if implementation == "eager":
        model.get_decoder().set_attn_implementation({"": "eager"})
    x = zoo.inputs(name)
    before = outputs(model, x)

    def same() -> bool:
        after = outputs(model, x)
        return len(after) == len(before) and all(torch.equal(a, b) for a, b in zip(after, before))

    adapters = strengthen(attach(model, CONFIGS["all"]))
    assert not same()
    with adapters.off():
        assert same()
    adapters.activate()
    assert same()
    adapters.detach()
    assert same()
    strengthen(attach(beside, CONFIGS["all"]))
    assert model.get_decoder().config._attn_implementation == attention.ATTENTION_NAMES[implementation]
    assert same()


def test_sites_are_in_the_self_attention_of_the_decoder_alone(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    attach(model, HyperICLConfig())
    sites = {key for key, module in model.named_modules() if "_icl_site" in module.__dict__}
    expected = {module for _, module in literal.targets(model)}
    assert sites == {key for key, module in model.named_modules() if module in expected}
    assert len(sites) == (2 if name == "mllama" else 3)


def test_vision_and_cross_attention_are_untouched_to_the_bit(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    adapters = strengthen(attach(model, CONFIGS["all"]))
    targets = {module for _, module in literal.targets(model)}
    others = {
        key: module
        for key, module in model.named_modules()
        if "ttention" in type(module).__name__
        and module not in targets
        and not key.startswith("icl_adapters")
        # a layer around attention
        and not any(child in targets for child in module.modules())
    }
    assert len(others) >= 2
    asked: dict[str, tuple[Any, Any, Any]] = {}
    handles = [
        module.register_forward_hook(partial(_keep, asked, key), with_kwargs=True) for key, module in others.items()
    ]
    x = zoo.inputs(name)
    on = run(model, x, use_cache=False)
    first = dict(asked)
    strengthen(adapters, seed=1)
    changed = run(model, x, use_cache=False)
    with adapters.off():
        off = run(model, x, use_cache=False)
    for handle in handles:
        handle.remove()
    assert len({float(o[0, -1, -1]) for o in (on, changed, off)}) == 3
    for key, (args, kwargs, output) in first.items():
        with torch.no_grad():
            again = others[key](*args, **kwargs)
            with adapters.off():
                without = others[key](*args, **kwargs)
        for a, b, c in zip(_tensors(output), _tensors(again), _tensors(without), strict=True):
            assert torch.equal(a, b), key
            assert torch.equal(a, c), key
        if "vision" in key or "visual" in key:
            assert all(torch.equal(a, b) for a, b in zip(_tensors(output), _tensors(asked[key][2]))), key
    assert set(first) >= {key for key in others if "cross_attn" in key}


def _keep(into: dict[str, Any], key: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    into[key] = (args, kwargs, output)


def _tensors(output: Any) -> list[Tensor]:
    return [t for t in (output if isinstance(output, tuple) else [output]) if isinstance(t, Tensor)]


def test_names_hold_none_that_transformers_looks_for() -> None:
    ours = ("icl", "literal", "bias")
    assert {*attention.ATTENTION_NAMES} == {name for name in ALL_MASK_ATTENTION_FUNCTIONS if not name.startswith(ours)}
    for name in attention.ATTENTION_NAMES.values():
        assert not any(word in name for word in ("sdpa", "flash", "flex", "eager", "paged"))


def test_implementations_without_a_mask_of_ours_are_refused() -> None:
    model = zoo.make("llava")
    model.get_decoder().config._attn_implementation_internal = "paged|eager"
    with pytest.raises(ValueError, match=r"adapters run on eager, sdpa, .* and this model is set to 'paged\|eager'"):
        attach(model, HyperICLConfig())
    assert attached(model) is None
