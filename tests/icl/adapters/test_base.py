"""Configurations of methods: which layers they act on, and how many parameters they have."""

from __future__ import annotations

import pytest
import torch

from icl.adapters import HyperICLConfig, attach, attached
from tests.icl import decoders, zoo
from tests.icl.adapted import frozen, run, strengthen


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


def test_layers_are_chosen() -> None:
    model, x = frozen(), zoo.inputs("idefics2")
    with attach(model, HyperICLConfig()).record() as stock:
        run(model, x)
    attached(model).detach()
    adapters = strengthen(attach(model, HyperICLConfig(layers=(1,))))
    assert [part.at(i) is None for part in adapters["default"] for i in range(3)] == [True, False, True]
    with adapters.record() as record:
        run(model, x)
    assert torch.equal(record.hidden[0], stock.hidden[0])
    assert (record.hidden[1] - stock.hidden[1]).abs().max() > 1e-3
