"""In-context vectors against the same written as hooks on a model without adapters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl.adapters import (
    InContextVectorConfig,
    attach,
    fit,
)
from tests.icl.hooked import (
    arguments,
    decoder_layers,
    hooked,
    logits,
    prompts,
    states,
)


def test_in_context_vector_is_the_main_direction(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    given = prompts(name)
    pairs = zip(given["teacher"], given["student"])
    moved = torch.cat([states(model, a)[:, :, -1] - states(model, b)[:, :, -1] for a, b in pairs], 1)
    rows = moved.transpose(0, 1).flatten(1).double().numpy()
    direction = np.linalg.eigh(rows.T @ rows)[1][:, -1]
    direction *= np.sign(direction @ rows.mean(0))
    parts = torch.from_numpy(direction).view(len(moved), -1)
    parts /= parts.norm(dim=1, keepdim=True)

    adapters = attach(model, InContextVectorConfig(strength=0.4))
    fit(adapters, teacher=given["teacher"], student=given["student"])
    vectors = torch.stack([layer.vector for layer in adapters["default"][0].layers.values()])
    torch.testing.assert_close(vectors.double(), parts, rtol=0, atol=1e-4)
    x = arguments(name)
    out = logits(model, x)
    adapters.detach()

    def formula(i: int, h: Tensor) -> Tensor:
        h = h.double()
        norm = h.norm(dim=-1, keepdim=True)
        direction = h / norm + 0.4 * parts[i]
        return (direction / direction.norm(dim=-1, keepdim=True) * norm).float()

    with hooked(decoder_layers(model), formula):
        torch.testing.assert_close(out, logits(model, x), rtol=1e-3, atol=1e-3)
