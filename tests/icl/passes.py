"""Passes of a tiny decoder in all ways that a prompt can be read, and what a vector does to a bare model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl.adapters import AdapterConfig, Adapters, attach
from icl.attention.internals import cache_in, outputs_of
from tests.icl import decoders

LENGTH, NEW, LAYER = 14, 5, 1


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


def filled(model: Any, x: dict[str, Tensor], tokens: int) -> Any:
    with torch.no_grad():
        out = model(**{name: value[:, :tokens] for name, value in x.items()}, use_cache=True)
    return cache_in(outputs_of(out))
