"""Vision-language models by name, each with its processor."""

from __future__ import annotations

from typing import Any

import torch
import transformers


def load_model(name: str) -> tuple[Any, Any]:
    """A vision-language model and its processor, on a GPU if there is one.

    ``name`` is a path or a name on the hub for transformers' auto classes, "testbed", or "testbed:" and what
    :func:`icl.testbed.load` takes. Code that comes with a model is not run.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    head, _, weights = name.partition(":")
    if head == "testbed":
        from icl import testbed

        small: Any
        small, words = testbed.load(weights or "base")
        small.config.name_or_path = name
        return small.to(device), words
    processor = transformers.AutoProcessor.from_pretrained(name)
    if not isinstance(processor, transformers.ProcessorMixin):
        raise ValueError(f"model: {name} has no processor of images and text, but a {type(processor).__name__}")
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(name, dtype="auto")
    return model.to(device).eval(), processor
