"""LIVE against its formula, written as hooks on a model without adapters."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from icl.adapters import (
    LIVEConfig,
    attach,
)
from icl.adapters.methods.live import turn
from tests.icl import zoo
from tests.icl.hooked import (
    arguments,
    decoder_layers,
    hooked,
    live_formula,
    logits,
    randomise,
)


def test_live_is_its_formula(family: tuple[str, PreTrainedModel]) -> None:
    name, model = family
    x = arguments(name)
    adapters = attach(model, LIVEConfig())
    randomise(adapters, scale=1.0)
    layers = [(layer.direction.detach(), layer.alpha.detach()) for layer in adapters["default"][0].layers.values()]
    out = logits(model, x)
    adapters.detach()
    plain = logits(model, x)
    with hooked(decoder_layers(model), lambda i, h: live_formula(h, *layers[i])):
        wanted = logits(model, x)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)
    assert (wanted - plain).abs().max() > 0.1


def test_live_starts_near_the_identity() -> None:
    model = zoo.make("idefics2")
    x = arguments("idefics2")
    plain = logits(model, x)
    adapters = attach(model, LIVEConfig())
    assert 0 < (logits(model, x) - plain).abs().max() < 0.05
    assert all(layer.alpha.item() == pytest.approx(0.1) for layer in adapters["default"][0].layers.values())
    assert LIVEConfig().objective.logits == 1
    assert LIVEConfig().objective.ce == 0.5


def test_turned_keeps_the_norm_and_has_finite_gradients() -> None:
    hidden = torch.randn(5, 8)
    hidden[1] = 0
    shift = torch.randn(8)
    hidden[2] = -shift
    hidden[3] *= 1e4
    hidden[4] *= 1e-12
    hidden, shift = hidden.requires_grad_(), shift.requires_grad_()
    out = turn(hidden, shift)
    torch.testing.assert_close(out.norm(dim=-1)[[0, 1, 3, 4]], hidden.norm(dim=-1)[[0, 1, 3, 4]])
    assert torch.equal(out[1:3], torch.zeros(2, 8))
    assert torch.equal(turn(hidden, torch.zeros(8)), hidden)
    for gradient in torch.autograd.grad(out.square().sum() + out.sum(), [hidden, shift]):
        assert gradient.isfinite().all()
