"""Function vectors against the same written as hooks on a model without adapters."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from icl.adapters import (
    FunctionVectorConfig,
    attach,
    fit,
)
from icl.attention.decoder import Decoder
from tests.icl import zoo
from tests.icl.adapted import FAMILIES
from tests.icl.hooked import (
    arguments,
    decoder_layers,
    hooked,
    logits,
    prompts,
)


@pytest.mark.parametrize(
    ("name", "text"), [*((name, {}) for name in FAMILIES), ("llava", {"attention_bias": True})], ids=str
)
def test_function_vector_is_what_the_heads_with_most_effect_add(name: str, text: dict[str, Any]) -> None:
    model = zoo.make(name, **text)
    given, layers = prompts(name), Decoder(model).layers
    H, width = layers[0].shape.heads, layers[0].shape.head_dim
    projections: list[Any] = [layer.attention.o_proj for layer in layers]
    inputs: dict[int, list[Tensor]] = {}

    def keep(i: int, out: Tensor) -> Tensor:
        inputs.setdefault(i, []).append(out[:, -1])
        return out

    with hooked(projections, keep, inputs=True):
        for x in given["teacher"]:
            logits(model, x)
    means = torch.stack([torch.cat(inputs[i]).mean(0) for i in sorted(inputs)]).view(len(layers), H, width)

    def patched(layer: int, head: int, i: int, out: Tensor) -> Tensor:
        out = out.clone()
        if i == layer:
            out[:, -1, head * width : (head + 1) * width] = means[layer, head]
        return out

    def likely() -> Tensor:
        return torch.cat([logits(model, x)[:, -1].softmax(-1)[[0, 1], answer] for x, answer in given["dev"]])

    effects, plain = torch.zeros(len(layers), H), likely()
    for layer in range(len(layers)):
        for head in range(H):
            with hooked(projections, partial(patched, layer, head), inputs=True):
                effects[layer, head] = (likely() - plain).mean()
    vector = torch.zeros(layers[0].shape.width)
    for index in effects.flatten().argsort(descending=True)[:3].tolist():
        layer, head = divmod(index, H)
        vector += projections[layer].weight[:, head * width : (head + 1) * width].detach() @ means[layer, head]

    adapters = attach(model, FunctionVectorConfig(heads=3))
    done: list[int] = []
    fit(adapters, **given, progress=done.append)
    assert done == [2] * (2 + 2 * (1 + len(layers) * H))
    (place,) = adapters["default"][0].layers
    assert place == str(len(layers) // 3)
    got = adapters["default"][0].state_dict()[f"layers.{place}.vector"]
    torch.testing.assert_close(got, vector, rtol=1e-4, atol=1e-5)

    x = arguments(name)
    out = logits(model, x)
    adapters.detach()

    def added(i: int, h: Tensor) -> Tensor:
        h = h.clone()
        h[:, -1] += vector * (i == len(layers) // 3)
        return h

    with hooked(decoder_layers(model), added):
        torch.testing.assert_close(out, logits(model, x), rtol=1e-4, atol=1e-4)
