"""Flash and flex attention underneath, and recorded attention, against eager and literal forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from icl.adapters import HiFICLConfig, HyperICLConfig, MimICConfig, attach
from tests.icl import literal, zoo
from tests.icl.adapted import CONFIGS, GREEDY, close, run, strengthen
from tests.icl.literal import OUTPUT, Call


def flash(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers' ``flash_attention_forward`` computes, and what it asks of its caller.

    A mask says which tokens are there at all; of those that are, the last query sees the last key, and a window counts
    keys before the query.
    """
    assert module.config._attn_implementation == "flash_attention_2"
    B, H, T, width = query.shape
    keys = key.shape[2]
    assert width % 8 == 0
    # Which keys fewer queries than keys see without a mask depends on the kernel's version.
    assert T in (1, keys) or (mask is not None and keys > T)
    assert key.shape[1] * module.num_key_value_groups == H
    assert mask is None or (mask.ndim == 2 and T <= mask.shape[1] <= keys)
    causal = module.is_causal if is_causal is None else is_causal
    key, value = (x.repeat_interleave(module.num_key_value_groups, 1) for x in (key, value))
    out = torch.zeros(B, T, H, value.shape[-1], dtype=query.dtype)
    for b in range(B):
        there = torch.ones(keys, dtype=torch.bool) if mask is None else mask[b].bool()
        k, q = there.nonzero()[:, 0], there[-T:].nonzero()[:, 0]
        S = query[b][:, q] @ key[b][:, k].mT * scaling
        after = torch.arange(len(k)) - (torch.arange(len(q))[:, None] + len(k) - len(q))
        hidden = after > 0 if causal else torch.zeros_like(after, dtype=torch.bool)
        if sliding_window is not None:
            hidden = hidden | (after <= -sliding_window)
        out[b, q] = (S.masked_fill(hidden, -torch.inf).softmax(-1) @ value[b][:, k]).transpose(0, 1)
    return out, None


def use_flash(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", flash)
    # By hand: transformers looks for the package.
    model.get_decoder().config._attn_implementation_internal = "flash_attention_2"


# Image tokens of the others see each other in both directions, which flash attention cannot do, or share a
# configuration with cross-attention, which needs masks that it does not take.
CAUSAL = [name for name in zoo.FAMILIES if name not in ("gemma3", "paligemma", "idefics", "mllama")]


@pytest.mark.parametrize("name", CAUSAL)
def test_flash_attention_underneath(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a forward pass and in generation, padded and not, used by all and by some.

    Every family has two of these four, and every sixth adapter beside the one of all methods.
    """
    model, twin = zoo.make(name), zoo.make(name)
    use_flash(twin, monkeypatch)
    first = CAUSAL.index(name) % 6
    for what, configs in [("all", CONFIGS["all"]), *list(CONFIGS.items())[first::6]]:
        reference, adapters = (strengthen(attach(m, configs)) for m in (model, twin))
        for padding, some in (("left", first % 2 == 0), ("none", first % 2 == 1)):
            x = zoo.inputs(name, padding=padding)
            valid = x["attention_mask"].bool()
            choice = {"rows": ["default" if not some else None, "default"]}
            where = f"{what}, {padding}, {choice}"
            with reference.use(**choice), adapters.use(**choice):
                close(run(twin, x)[valid], run(model, x)[valid], 10 * OUTPUT, where)
                logits, wanted = (torch.stack(m.generate(**x, **GREEDY).logits) for m in (twin, model))
                close(logits, wanted, 10 * OUTPUT, where)
                if padding == "left":  # without, transformers 5.23 hands flash a cache with room left and no mask
                    static = twin.generate(**x, **GREEDY, cache_implementation="static")
                    close(torch.stack(static.logits), wanted, 10 * OUTPUT, f"{where}, static cache")
        reference.detach()
        adapters.detach()
        assert twin.get_decoder().config._attn_implementation == "flash_attention_2"


def test_flash_attention_with_a_window_has_no_room_for_virtual_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.make("mistral3", sliding_window=4)
    use_flash(model, monkeypatch)
    x = zoo.inputs("mistral3")
    adapters = attach(model, HiFICLConfig())
    with pytest.raises(ValueError, match="window of 4 with 12 keys under flash_attention_2; use sdpa"):
        run(model, x)
    adapters.remove("default")
    strengthen(attach(model, HyperICLConfig()))
    sdpa = zoo.make("mistral3", sliding_window=4)
    strengthen(attach(sdpa, HyperICLConfig()))
    valid = x["attention_mask"].bool()
    close(run(model, x)[valid], run(sdpa, x)[valid], 10 * OUTPUT, "window")


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")
@pytest.mark.parametrize("name", ["llava", "gemma3"])
@pytest.mark.parametrize("what", ["hificl", "hificl identity", "all"])
def test_flex_attention_underneath(name: str, what: str) -> None:
    """Uncompiled, which is the same formula; it has no backward on a CPU."""
    model, twin = zoo.make(name), zoo.make(name)
    twin.get_decoder().set_attn_implementation({"": "flex_attention"})
    reference, adapters = (strengthen(attach(m, CONFIGS[what])) for m in (model, twin))
    x = zoo.inputs(name)
    valid = x["attention_mask"].bool()
    with torch.compiler.set_stance("force_eager"):
        close(run(twin, x)[valid], run(model, x)[valid], 10 * OUTPUT, "padded")
        with reference.use(rows=["default", None]), adapters.use(rows=["default", None]):
            logits, wanted = (torch.stack(m.generate(**x, **GREEDY).logits) for m in (twin, model))
        close(logits, wanted, 10 * OUTPUT, "rows, generation")
    adapters.detach()
    assert twin.get_decoder().config._attn_implementation == "flex_attention"


def test_recorded_attention_and_heads_are_the_literal_ones(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    adapters = strengthen(attach(model, [HyperICLConfig(), MimICConfig()]))
    x = zoo.inputs(name)
    observed: list[Call] = []
    ours = ALL_ATTENTION_FUNCTIONS["icl_s"]
    numbers = {module: i for i, module in literal.targets(model)}

    def recording(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        if module in numbers:
            observed.append(Call(numbers[module], module, query, key, value, mask, kwargs))
        return ours(module, query, key, value, mask, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ALL_ATTENTION_FUNCTIONS, "icl_s", recording)
        places = torch.tensor([[11, 5], [11, 7]])
        with adapters.record(heads=True, attention=places) as record:
            run(model, x)
    assert [call.layer for call in observed] == list(numbers.values()) == list(record.attention)
    assert list(record.hidden) == list(range(len(adapters.decoder.layers)))
    for call in observed:
        inputs = [t.double() for t in (call.query, call.key, call.value)]
        visible = call.visible | ~call.visible.any(-1, keepdim=True)
        methods = literal.methods(adapters, call.layer)
        scaling = call.kwargs["scaling"]
        valid = x["attention_mask"].bool()
        heads = literal.attention(methods, *inputs, visible, scaling)
        close(record.heads[call.layer][valid], heads[valid], OUTPUT, "heads")
        # With an identity for values, what comes out of the first method is the softmax itself.
        keys, B = call.key.shape[2], len(call.key)
        inputs[2] = torch.eye(keys).double().expand(B, call.key.shape[1], -1, -1)
        softmax = literal.attention(methods[:1], *inputs, visible, scaling)[torch.arange(B)[:, None], places]
        close(record.attention[call.layer], softmax.transpose(1, 2), OUTPUT, "attention")
