"""Vision-language models by name, each with its processor."""

from __future__ import annotations

from typing import Any

import torch
import transformers


def load_model(name: str) -> tuple[Any, Any]:
    """A vision-language model and its processor, on a GPU if there is one.

    ``name`` is a path or a name on the hub for transformers' auto classes, "testbed", or "testbed:" and what
    :func:`icl.testbed.load` takes. Code that comes with a model is not run.

    Raises ``ValueError`` for a model without a processor of images and text, and for one whose processor takes packages
    that are not installed: those that read videos as well (Qwen2-VL, SmolVLM) take the extra "video".
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    head, _, weights = name.partition(":")
    if head == "testbed":
        from icl import testbed

        small: Any
        small, words = testbed.load(weights or "base")
        small.config.name_or_path = name
        return small.to(device), words
    processor = _processor(name)
    if not isinstance(processor, transformers.ProcessorMixin):
        raise ValueError(f"model: {name} has no processor of images and text, but a {type(processor).__name__}")
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(name, dtype="auto")
    return model.to(device).eval(), processor


# Packages that some processors import once they are made, by how their errors call them.
_FOR_VIDEO = ("torchvision", "num2words")


def _processor(name: str) -> Any:
    try:
        return transformers.AutoProcessor.from_pretrained(name)
    except (ImportError, ValueError) as error:
        missing = [package for package in _FOR_VIDEO if package in str(error).lower()]
        if not missing:
            raise
        raise ValueError(
            f"model: the processor of {name} needs {missing[0]}, which is not installed: "
            "pip install 'hyperbolic-icl[video]', with a torchvision for the torch that is there"
        ) from error
