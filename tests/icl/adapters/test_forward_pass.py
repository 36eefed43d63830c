"""The end of a prompt, whatever passes it is read in: each right, against hooks on a bare model, or refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import StaticCache

from icl.adapters import (
    AdapterConfig,
    HyperICLConfig,
    TaskVectorConfig,
    attach,
)
from icl.attention.internals import CHECKPOINTING, cache_in, outputs_of
from tests.icl import decoders
from tests.icl.decoders import CACHE, TOLERANCE, in_thread, labelled
from tests.icl.passes import LAYER, LENGTH, NEW, WAYS, adapted, changed, filled, wanted


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("config", decoders.AT_THE_END, ids=decoders.method)
def test_vectors_act_at_the_last_prompt_token_alone(config: AdapterConfig, way: str, x: dict[str, Tensor]) -> None:
    model, _, vector = adapted(config)
    tokens, logits = decoders.answer(model, x, NEW, **WAYS[way])
    expected = wanted(config, vector, x)
    assert torch.equal(tokens, expected[0])
    if logits.shape == expected[1].shape:  # speculative decoding reports what it accepted
        torch.testing.assert_close(logits, expected[1], **TOLERANCE)
    bare = decoders.answer(decoders.make(), x)[1]
    assert (bare - expected[1]).abs().max() > 0.1


@pytest.mark.parametrize("way", [way for way in WAYS if way != "as usual"])
@pytest.mark.parametrize("config", decoders.METHODS, ids=decoders.method)
def test_all_methods_answer_alike_in_all_ways(config: AdapterConfig, way: str, x: dict[str, Tensor]) -> None:
    model = decoders.make()
    decoders.fill(attach(model, config))
    tokens, _ = decoders.answer(model, x)
    assert torch.equal(decoders.answer(model, x, NEW, **WAYS[way])[0], tokens)


@pytest.mark.parametrize("config", decoders.AT_THE_END, ids=decoders.method)
@pytest.mark.parametrize("padding", [0, 3])
def test_batches_beams_and_embeddings(config: AdapterConfig, padding: int) -> None:
    model, _, vector = adapted(config)
    for options in ({}, {"num_beams": 2}, {"prefill_chunk_size": 5}):
        x = decoders.prompt(3, LENGTH, padding=padding)
        bare = decoders.make()
        steps = {"max_new_tokens": 4, "do_sample": False, "num_beams": options.get("num_beams", 1)}
        with changed(bare, config, vector, LENGTH + padding - 1), torch.no_grad():
            expected = bare.generate(**x, **steps, use_cache=False)
        assert torch.equal(model.generate(**x, **{**steps, **options}), expected)
    embedded = {
        "inputs_embeds": model.get_input_embeddings()(x["input_ids"]),
        "attention_mask": x["attention_mask"],
    }
    assert torch.equal(model.generate(**embedded, max_new_tokens=4, do_sample=False), decoders.answer(model, x, 4)[0])


def test_an_assistant_of_its_own_changes_nothing(x: dict[str, Tensor]) -> None:
    model, _, vector = adapted(TaskVectorConfig(layers=(LAYER,)))
    assistant = decoders.make(seed=1)
    tokens = model.generate(**x, max_new_tokens=NEW, do_sample=False, assistant_model=assistant)[:, -NEW:]
    assert torch.equal(tokens, wanted(TaskVectorConfig(), vector, x)[0])


@pytest.mark.parametrize("config", decoders.AT_THE_END, ids=decoders.method)
def test_a_prefix_of_the_base_is_a_part_of_the_prompt(config: AdapterConfig, x: dict[str, Tensor]) -> None:
    model, adapters, vector = adapted(config)
    with adapters.off():
        cache = filled(model, x, 9)
    for again in (copy.deepcopy(cache), cache):
        tokens, logits = decoders.answer(model, x, NEW, **{CACHE: again})
        expected = wanted(config, vector, x)
        assert torch.equal(tokens, expected[0])
        torch.testing.assert_close(logits, expected[1], **TOLERANCE)


@pytest.mark.parametrize("config", decoders.AT_THE_END, ids=decoders.method)
def test_a_prefix_that_was_read_as_a_prompt_is_refused(config: AdapterConfig, x: dict[str, Tensor]) -> None:
    model, adapters, vector = adapted(config)
    cache = filled(model, x, 9)
    for again in (copy.deepcopy(cache), cache):
        with pytest.raises(ValueError, match="the first 9 tokens in the cache were read as a prompt of their own"):
            decoders.answer(model, x, NEW, **{CACHE: again})
    with adapters.prompt(LENGTH):  # told so, the prefix is one
        cache = filled(model, x, 9)
    tokens, _ = decoders.answer(model, x, NEW, **{CACHE: cache})
    assert torch.equal(tokens, wanted(config, vector, x)[0])


def test_a_static_cache_is_used_again(x: dict[str, Tensor]) -> None:
    config = TaskVectorConfig(layers=(LAYER,))
    model, _, vector = adapted(config)
    cache = StaticCache(config=model.config, max_cache_len=40)
    for length in (LENGTH, 9):
        prompt = {name: value[:, :length] for name, value in x.items()}
        cache.reset()
        tokens, _ = decoders.answer(model, prompt, NEW, **{CACHE: cache})
        assert torch.equal(tokens, wanted(config, vector, prompt)[0])


@pytest.mark.parametrize("config", decoders.AT_THE_END, ids=decoders.method)
def test_passes_by_hand(config: AdapterConfig, x: dict[str, Tensor]) -> None:
    """The prompt at once, then token by token; anything else must be told."""
    model, adapters, vector = adapted(config)
    expected, logits = wanted(config, vector, x)

    def step(tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        with torch.no_grad():
            out = model(input_ids=tokens, **{CACHE: cache}, use_cache=True)
        return out.logits[:, -1], cache_in(outputs_of(out))

    last, cache = step(x["input_ids"], None)
    for i in range(NEW):
        torch.testing.assert_close(last, logits[i], **TOLERANCE)
        last, cache = step(expected[:, i : i + 1], cache)
    with pytest.raises(ValueError, match=r"2 tokens follow 19 in the cache.*with adapters.prompt\(length\)"):
        step(expected[:, :2], cache)
    with adapters.off():
        cache = filled(model, x, 9)
    with pytest.raises(ValueError, match="filled in a pass that these adapters had no part in"):
        step(x["input_ids"][:, 9:10], cache)
    with adapters.prompt(LENGTH):
        last, cache = step(x["input_ids"][:, 9:12], cache)
        last, cache = step(x["input_ids"][:, 12:], cache)
        torch.testing.assert_close(last, logits[0], **TOLERANCE)
        last, cache = step(expected[:, :2], cache)
        torch.testing.assert_close(last, logits[2], **TOLERANCE)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"), adapters.prompt(0):
        pass


def test_labels_tell_where_the_prompt_ends(x: dict[str, Tensor]) -> None:
    config = TaskVectorConfig(layers=(LAYER,))
    model, _, vector = adapted(config)
    labels = x["input_ids"].clone()
    labels[:, :10] = -100
    bare = decoders.make()
    with changed(bare, config, vector, 9), torch.no_grad():
        expected = bare(**x, labels=labels)
    with torch.no_grad():
        out = model(**x, labels=labels)
    torch.testing.assert_close(out.logits, expected.logits, **TOLERANCE)
    torch.testing.assert_close(out.loss, expected.loss)


@pytest.mark.parametrize("config", decoders.AT_THE_END, ids=decoders.method)
def test_prompts_of_which_some_are_answered_or_padded_on_the_right(config: AdapterConfig) -> None:
    model, adapters, vector = adapted(config)
    x = decoders.prompt(2, LENGTH)
    labels = torch.full_like(x["input_ids"], -100)
    labels[0, 8:] = x["input_ids"][0, 8:]
    bare = decoders.make()
    expected = []
    for row, end in enumerate((7, LENGTH - 1)):
        with changed(bare, config, vector, end), torch.no_grad():
            expected.append(bare(**x).logits[row])
    with torch.no_grad():
        torch.testing.assert_close(model(**x, labels=labels).logits, torch.stack(expected), **TOLERANCE)
    with pytest.raises(ValueError, match="labels begin with the first token"):
        model(**x, labels=x["input_ids"])
    x["attention_mask"][0, 8:] = 0
    with adapters.prompt(LENGTH), torch.no_grad():
        torch.testing.assert_close(model(**x).logits[0, :8], expected[0][:8], **TOLERANCE)


def test_a_backward_pass_in_another_thread_sees_the_pass_that_it_belongs_to() -> None:
    """As autograd's own threads do on a GPU, where checkpointed layers are computed again."""
    model = decoders.make().train()
    adapters = decoders.fill(attach(model, [HyperICLConfig(), TaskVectorConfig(layers=(1,))]))
    x = decoders.prompt(2)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            getattr(model, f"{CHECKPOINTING}_enable")(**{f"{CHECKPOINTING}_kwargs": {"use_reentrant": False}})
        adapters.zero_grad()
        with adapters.use("default"):
            loss = model(**x, labels=labelled(x), use_cache=False).loss
        in_thread(loss.backward)
        gradients.append([p.grad.clone() for p in adapters.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(adapters.parameters()))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
