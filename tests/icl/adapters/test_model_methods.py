"""Methods of the model that adapters stand in front of: saved whole, copied, given back, or refused."""

from __future__ import annotations

import copy
import inspect
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from icl.adapters import (
    AdapterConfig,
    Adapters,
    HyperICLConfig,
    LoRAConfig,
    TaskVectorConfig,
    attach,
    attached,
)
from tests.icl import decoders
from tests.icl.decoders import TOLERANCE
from tests.icl.passes import LAYER, adapted


@pytest.mark.parametrize("config", decoders.METHODS, ids=decoders.method)
def test_a_whole_model_is_saved_and_loaded(config: AdapterConfig, tmp_path: Path) -> None:
    model, x = decoders.make(), decoders.prompt(2)
    adapters = decoders.fill(attach(model, config))
    expected = decoders.answer(model, x)[1]
    with adapters.off():
        bare = decoders.answer(model, x)[1]

    other = decoders.make(seed=1)
    attach(other, config)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(decoders.answer(other, x)[1], expected, rtol=0, atol=0)

    model.save_pretrained(tmp_path / "with state", state_dict=model.state_dict())
    model.save_pretrained(tmp_path)
    for folder in (tmp_path, tmp_path / "with state"):
        again, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        again.generation_config = model.generation_config
        again.requires_grad_(False).eval()
        torch.testing.assert_close(decoders.answer(again, x)[1], bare, **TOLERANCE)
        Adapters.from_pretrained(again, folder / "adapters" / "default")
        torch.testing.assert_close(decoders.answer(again, x)[1], expected, **TOLERANCE)
    assert attached(model) is adapters
    torch.testing.assert_close(decoders.answer(model, x)[1], expected, rtol=0, atol=0)


def test_copies_and_pickles_are_models_of_their_own() -> None:
    model, x = decoders.make(), decoders.prompt(2)
    decoders.fill(attach(model, [HyperICLConfig(), LoRAConfig(), TaskVectorConfig(layers=(1,))]))
    expected = decoders.answer(model, x)[1]
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        torch.testing.assert_close(decoders.answer(twin, x)[1], expected, rtol=0, atol=0)
        others = attached(twin)
        assert others is not None
        assert others.model is twin
        decoders.fill(others, seed=6)
        assert (decoders.answer(twin, x)[1] - expected).abs().max() > 0.05
        torch.testing.assert_close(decoders.answer(model, x)[1], expected, rtol=0, atol=0)


def test_methods_of_the_model_look_as_they_did_and_come_back() -> None:
    model = decoders.make()

    def own(*args: Any, **kwargs: Any) -> str:
        return "own"

    signature = inspect.signature(model.generate)
    adapters = attach(model, HyperICLConfig())
    assert inspect.signature(model.generate) == signature
    assert model.generate.__doc__ == type(model).generate.__doc__
    adapters.detach()
    assert not {"generate", "save_pretrained"} & model.__dict__.keys()
    model.generate = own  # by somebody else
    adapters = attach(model, HyperICLConfig())
    assert model.generate(torch.ones(1, 1, dtype=torch.long)) == "own"
    adapters.detach()
    assert model.generate is own


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
