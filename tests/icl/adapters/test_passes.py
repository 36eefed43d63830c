"""Where a prompt ends, whatever passes it is read in: each right, against hooks on a bare model, or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, StaticCache

from icl.adapters import AdapterConfig, Adapters, TaskVectorConfig, attach
from icl.attention.internals import cache_in, outputs_of
from tests.icl import decoders, zoo
from tests.icl.decoders import CACHE

LENGTH, NEW, LAYER = 14, 5, 1
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture
def x() -> dict[str, Tensor]:
    """A prompt that prompt lookup finds something in."""
    found = decoders.prompt(length=LENGTH)
    found["input_ids"][0, 4:6] = found["input_ids"][0, -2:]
    return found


@contextmanager
def changed(model: Any, config: AdapterConfig, vector: Tensor, place: int) -> Iterator[None]:
    """What the method does to a bare model without a cache: at this place of every pass."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, place] = vector + (hidden[:, place] if config.method == "function_vector" else 0)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = model.get_decoder().layers[LAYER].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def wanted(config: AdapterConfig, vector: Tensor, x: dict[str, Tensor], new: int = NEW) -> tuple[Tensor, Tensor]:
    model = decoders.make()
    with changed(model, config, vector, x["input_ids"].shape[1] - 1):
        return decoders.answer(model, x, new, use_cache=False)


def adapted(config: AdapterConfig) -> tuple[PreTrainedModel, Adapters, Tensor]:
    model = decoders.make()
    adapters = decoders.fill(attach(model, config))
    return model, adapters, adapters.state_dict()[f"loaded.default.0.layers.{LAYER}.vector"]


WAYS: dict[str, dict[str, Any]] = {
    "as usual": {},
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "chunks": {"prefill_chunk_size": 6},
    "chunks of one": {"prefill_chunk_size": 1},
}


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


# Caches that hold something already.


def filled(model: Any, x: dict[str, Tensor], tokens: int) -> Any:
    with torch.no_grad():
        out = model(**{name: value[:, :tokens] for name, value in x.items()}, use_cache=True)
    return cache_in(outputs_of(out))


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

    found, cache = step(x["input_ids"], None)
    for i in range(NEW):
        torch.testing.assert_close(found, logits[i], **TOLERANCE)
        found, cache = step(expected[:, i : i + 1], cache)
    with pytest.raises(ValueError, match=r"2 tokens follow 19 in the cache.*with adapters.prompt\(length\)"):
        step(expected[:, :2], cache)
    with adapters.off():
        cache = filled(model, x, 9)
    with pytest.raises(ValueError, match="filled in a pass that these adapters had no part in"):
        step(x["input_ids"][:, 9:10], cache)
    with adapters.prompt(LENGTH):
        found, cache = step(x["input_ids"][:, 9:12], cache)
        found, cache = step(x["input_ids"][:, 12:], cache)
        torch.testing.assert_close(found, logits[0], **TOLERANCE)
        found, cache = step(expected[:, :2], cache)
        torch.testing.assert_close(found, logits[2], **TOLERANCE)
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


def test_a_decoder_called_past_its_model_is_refused(x: dict[str, Tensor]) -> None:
    model, _, _ = adapted(TaskVectorConfig(layers=(LAYER,)))
    with pytest.raises(ValueError, match="the decoder was called past its model"):
        model.forward(**x)


# Padding on the left.


@pytest.mark.parametrize("name", decoders.FAMILIES)
@pytest.mark.parametrize("config", [*decoders.ROTATED, *decoders.AT_THE_END], ids=decoders.method)
def test_padding_changes_nothing(name: str, config: AdapterConfig) -> None:
    """Alone, beside others, with a cache with room left, and by hand, where the model counts positions itself."""
    model = decoders.make(name)
    decoders.fill(attach(model, config), scale=1.0)
    alone = decoders.prompt()
    expected = decoders.answer(model, alone)[1][:, 0]
    for batch in (1, 2):
        x = decoders.prompt(batch, padding=4)
        x["input_ids"][0, 4:] = alone["input_ids"][0]
        torch.testing.assert_close(decoders.answer(model, x)[1][:, 0], expected, **TOLERANCE)
        if name != "nemotron_h":  # has no cache of a fixed size
            static = decoders.answer(model, x, cache_implementation="static")[1][:, 0]
            torch.testing.assert_close(static, expected, **TOLERANCE)
        if name == "gpt2" and config not in decoders.ROTATED:
            continue  # whose positions are absolute, so that its base differs as much
        with torch.no_grad():
            by_hand = model(**x).logits[0, -1]
        torch.testing.assert_close(by_hand, expected[0], **TOLERANCE)


@pytest.mark.parametrize("name", [name for name in ("llama", "gpt2", "exaone4_5") if name in decoders.FAMILIES])
@pytest.mark.parametrize("config", decoders.ROTATED, ids=decoders.method)
def test_padding_changes_nothing_in_several_passes(name: str, config: AdapterConfig, x: dict[str, Tensor]) -> None:
    """In chunks, with guesses, by hand, and where ``generate`` infers the mask."""
    model = decoders.make(name)
    adapters = decoders.fill(attach(model, config), scale=1.0)
    expected, logits = decoders.answer(model, x)
    for padding in (1, 2, 5):
        ids = torch.cat([torch.full((1, padding), zoo.PAD), x["input_ids"]], 1)
        padded = {"input_ids": ids, "attention_mask": (ids != zoo.PAD).long()}
        for way in (*WAYS.values(), {"prefill_chunk_size": 3}):
            assert torch.equal(decoders.answer(model, padded, NEW, **way)[0], expected), (padding, way)
        assert torch.equal(decoders.answer(model, {"input_ids": ids})[0], expected)
        # by hand, in two passes, with the positions that generate makes, or left to the model
        positions = (padded["attention_mask"].cumsum(1) - 1).clamp(min=0)
        for given in ({"position_ids": positions}, {}):
            if name == "gpt2" and not given:
                continue  # its own base would count the padding
            with torch.no_grad():
                first = {key: value[:, : padding + 8] for key, value in given.items()}
                rest = {key: value[:, padding + 8 :] for key, value in given.items()}
                mask = padded["attention_mask"]
                out = model(
                    input_ids=ids[:, : padding + 8], attention_mask=mask[:, : padding + 8], **first, use_cache=True
                )
                cache = {CACHE: cache_in(outputs_of(out))}
                out = model(input_ids=ids[:, padding + 8 :], attention_mask=mask, **rest, **cache)
            torch.testing.assert_close(out.logits[:, -1], logits[0], **TOLERANCE)
    # told the length of the prompt, masks of passes by hand count still
    with adapters.prompt(LENGTH + 5), torch.no_grad():
        torch.testing.assert_close(model(**padded, **{"position_ids": positions}).logits[:, -1], logits[0], **TOLERANCE)


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


def test_what_hides_the_end_of_a_prompt_is_refused(x: dict[str, Tensor]) -> None:
    """Packed rows, guidance, continuous batching, and ``generate`` taken from the model before."""
    captured = decoders.make()
    generate = captured.generate
    attach(captured, TaskVectorConfig(layers=(LAYER,)))
    for call in (
        lambda: generate(**x, max_new_tokens=2),
        lambda: type(captured).generate(captured, **x, max_new_tokens=2),
    ):
        with pytest.raises(ValueError, match="taken from the model or its class before adapters were attached"):
            call()
    model, adapters, _ = adapted(TaskVectorConfig(layers=(LAYER,)))
    with pytest.raises(ValueError, match="guidance_scale runs the model over a prompt of its own"):
        model.generate(**x, guidance_scale=1.5, max_new_tokens=2)
    packed = torch.cat([torch.arange(8), torch.arange(6)])[None]
    with pytest.raises(ValueError, match="holds several prompts"):
        model(input_ids=x["input_ids"], position_ids=packed)
    with pytest.raises(ValueError, match="continuous batching packs prompts"):
        model.generate_batch([[5, 6]])
    with adapters.off():
        model(input_ids=x["input_ids"], position_ids=packed)


# Layers of another kind.


@pytest.mark.parametrize("name", decoders.HYBRIDS)
def test_layers_of_hybrid_decoders_are_counted_as_the_model_does(name: str) -> None:
    model, attentive = decoders.make(name), decoders.HYBRIDS[name]
    for config in decoders.METHODS:
        free = type(config)()
        adapters = attach(model, free)
        chosen = tuple(int(index) for index in adapters["default"][0].layers)
        if free.method == "function_vector":
            assert chosen == (4 // 3,)
        else:
            assert chosen == (attentive if free.needs_attention else (0, 1, 2, 3)), free
        adapters.detach()
        if free.needs_attention:
            with pytest.raises(ValueError, match=r"layers of .* must have softmax attention, which layer 0 .* lacks"):
                attach(model, type(config)(layers=(0,)))


@pytest.mark.parametrize("name", decoders.HYBRIDS)
@pytest.mark.parametrize("layer", range(4))
def test_vectors_act_in_layers_of_every_kind(name: str, layer: int) -> None:
    x = decoders.prompt(2)
    model, bare = decoders.make(name), decoders.make(name)
    adapters = decoders.fill(attach(model, TaskVectorConfig(layers=(layer,))))
    (vector,) = adapters.state_dict().values()

    def hook(module: Any, args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, x["input_ids"].shape[1] - 1] = vector
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    bare.get_decoder().layers[layer].register_forward_hook(hook)
    expected = decoders.answer(bare, x, use_cache=False)[1]
    torch.testing.assert_close(decoders.answer(model, x)[1], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("encoder", [True, False])
def test_encoders_are_refused(encoder: bool) -> None:
    """Of text, and of pictures of pages: T5 and UDOP, whose decoders have cross-attention of the same class."""
    from transformers import T5Config, T5ForConditionalGeneration, UdopConfig, UdopForConditionalGeneration

    sizes = {"vocab_size": zoo.VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    made: Callable[[], Any] = (
        (lambda: T5ForConditionalGeneration(T5Config(**sizes)))
        if encoder
        else (lambda: UdopForConditionalGeneration(UdopConfig(**sizes)))
    )
    for config in decoders.METHODS:
        with pytest.raises(ValueError, match=r"model must be a decoder alone, and .* has an encoder"):
            attach(made(), config)
