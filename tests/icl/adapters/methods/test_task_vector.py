"""Task vectors against the same written as hooks on a model without adapters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from icl.adapters import (
    TaskVectorConfig,
    attach,
    fit,
)
from tests.icl import zoo
from tests.icl.hooked import (
    LENGTH,
    decoder_layers,
    hooked,
    logits,
    prompts,
    states,
)


def replaced(vectors: Tensor, layer: int, ends: Sequence[int], i: int, h: Tensor) -> Tensor:
    if i != layer:
        return h
    h = h.clone()
    for row, end in enumerate(ends):
        h[row, end] = vectors[layer]
    return h


def test_task_vector_is_the_mean_at_the_best_layer(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    given = prompts(name)
    vectors = torch.cat([states(model, x)[:, :, -1] for x in given["teacher"]], 1).mean(1)
    likelihoods = []
    for layer in range(len(vectors)):
        with hooked(decoder_layers(model), partial(replaced, vectors, layer, [-1, -1])):
            scores = [logits(model, x)[:, -1].log_softmax(-1)[[0, 1], answer] for x, answer in given["dev"]]
        likelihoods.append(float(torch.cat(scores).sum()))
    best = int(np.argmax(likelihoods))
    adapters = attach(model, TaskVectorConfig())
    done: list[int] = []
    fit(adapters, **given, progress=done.append)
    assert done == [2] * (2 + 2 * len(vectors))
    assert adapters["default"][0].config.layers == (best,)

    # Right-padded, so that prompts end in different places.
    x = zoo.inputs(name, length=LENGTH, padding="none")
    x["attention_mask"][0, -3:] = 0
    ends = [LENGTH - 4, LENGTH - 1]
    before = states(model, x)
    adapters.detach()
    plain = states(model, x)
    with hooked(decoder_layers(model), partial(replaced, vectors, best, ends)):
        wanted = logits(model, x)
    adapters = attach(model, TaskVectorConfig(layers=(best,)))
    fit(adapters, teacher=given["teacher"])
    torch.testing.assert_close(logits(model, x), wanted, rtol=1e-5, atol=1e-5)
    changed = (states(model, x)[best] != plain[best]).any(-1)
    assert changed.nonzero().tolist() == [[0, ends[0]], [1, ends[1]]]
    assert torch.equal(before, states(model, x))
    adapters.detach()


def test_right_answers_come_before_their_likelihood() -> None:
    model = zoo.make("llava")
    given = prompts("llava")
    vectors = torch.cat([states(model, x)[:, :, -1] for x in given["teacher"]], 1).mean(1)
    for layer in range(len(vectors)):
        with hooked(decoder_layers(model), partial(replaced, vectors, layer, [-1, -1])):
            tokens = [logits(model, x)[:, -1].argmax(-1) for x, _ in given["dev"]]
        # Two of four as this layer has it, two as likely as can be without being right.
        adapters = attach(model, TaskVectorConfig())
        dev = [(given["dev"][0][0], tokens[0]), given["dev"][1]]
        fit(adapters, teacher=given["teacher"], dev=dev)
        (chosen,) = adapters["default"][0].config.layers or ()
        with hooked(decoder_layers(model), partial(replaced, vectors, chosen, [-1, -1])):
            assert torch.equal(logits(model, dev[0][0])[:, -1].argmax(-1), tokens[0])
        adapters.detach()
