"""Decoders that adapters refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from icl.adapters import attach
from tests.icl import decoders, zoo


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
