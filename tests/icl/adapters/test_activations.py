"""Records of a pass: not kept, and refused where attention is more than a softmax."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from icl.adapters import (
    HyperICLConfig,
    attach,
)
from tests.icl import decoders


def test_no_pass_holds_on_to_what_was_recorded() -> None:
    model, x = decoders.make(), decoders.prompt(2)
    adapters = attach(model, HyperICLConfig())
    with adapters.record() as record:
        model(**x)
    assert len(record.hidden) == 4
    assert adapters.step.record is None
    model(**x)
    assert len(record.hidden) == 4
    assert isinstance(record.hidden[0], Tensor)


def test_attention_with_more_than_a_mask_is_not_recorded() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {**decoders.TEXT, "head_dim": 16, "sliding_window": 200, "attn_logit_softcapping": 1.0}
    model: Any = Gemma2ForCausalLM(Gemma2Config(**sizes)).eval()
    model.set_attn_implementation("eager")
    adapters = attach(model, HyperICLConfig())
    x = decoders.prompt(2)
    places = torch.tensor([[13], [13]])
    with adapters.record(attention=places), pytest.raises(ValueError, match="is more than a softmax of scaled"):
        model(**x)
