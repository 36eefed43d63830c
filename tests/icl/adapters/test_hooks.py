"""What hooks read off a pass and change: positions of padded rows, states of layers of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from icl.adapters import AdapterConfig, TaskVectorConfig, attach
from icl.attention.internals import cache_in, outputs_of
from tests.icl import decoders, zoo
from tests.icl.decoders import CACHE, TOLERANCE
from tests.icl.passes import LAYER, LENGTH, NEW, WAYS, adapted


def test_a_decoder_called_past_its_model_is_refused(x: dict[str, Tensor]) -> None:
    model, _, _ = adapted(TaskVectorConfig(layers=(LAYER,)))
    with pytest.raises(ValueError, match="the decoder was called past its model"):
        model.forward(**x)


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


def test_states_that_the_model_tells_are_those_of_its_layers() -> None:
    """Also where it was asked for them before adapters were attached, and watches its layers since."""
    x = decoders.prompt(2)
    for first in (True, False):
        model = decoders.make()
        if first:
            model(**x, output_hidden_states=True)
        adapters = decoders.fill(attach(model, TaskVectorConfig(layers=(1,))))
        vector = adapters.state_dict()["loaded.default.0.layers.1.vector"]
        states = model(**x, output_hidden_states=True).hidden_states
        torch.testing.assert_close(states[2][:, -1], vector.expand(2, -1))
