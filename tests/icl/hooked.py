"""Methods written as hooks on a model without adapters, and prompts to fit vectors to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icl.adapters import (
    Adapters,
    FunctionVectorConfig,
    InContextVectorConfig,
    TaskVectorConfig,
)
from icl.attention.decoder import Decoder
from tests.icl import zoo

FITTED = (TaskVectorConfig(), FunctionVectorConfig(heads=3), InContextVectorConfig())


LENGTH = 20


Change = Callable[[int, Tensor], Tensor]


def arguments(name: str, **asked: Any) -> zoo.Inputs:
    x = zoo.inputs(name, length=LENGTH, **asked)
    return {**x, **zoo.positions(x)}


@torch.no_grad()
def logits(model: PreTrainedModel, x: zoo.Inputs) -> Tensor:
    out: Tensor = model(**x).logits
    return out


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    return [layer.module for layer in Decoder(model).layers]


@contextmanager
def hooked(modules: Sequence[nn.Module], change: Change, inputs: bool = False) -> Iterator[None]:
    """The modules' outputs, or inputs, changed: what the methods do, without the library."""

    def after(i: int, module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(i, output[0]), *output[1:])
        return change(i, output)

    def before(i: int, module: nn.Module, args: Any) -> Any:
        return (change(i, args[0]), *args[1:])

    hooks = [
        m.register_forward_pre_hook(partial(before, i)) if inputs else m.register_forward_hook(partial(after, i))
        for i, m in enumerate(modules)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def states(model: PreTrainedModel, x: zoo.Inputs) -> Tensor:
    """(L, B, T, D)"""
    outputs: dict[int, Tensor] = {}
    with hooked(decoder_layers(model), lambda i, h: outputs.setdefault(i, h)):
        model(**x)
    return torch.stack([outputs[i] for i in sorted(outputs)])


def randomise(adapters: Adapters, name: str = "default", scale: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(1)
    for part in adapters[name]:
        for tensor in part.state_dict().values():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=scale)


def prompts(name: str) -> dict[str, list[Any]]:
    """Batches of two lengths."""
    teacher = [arguments(name, seed=1), zoo.inputs(name, length=24, padding="none", seed=2)]
    student = [arguments(name, seed=3), zoo.inputs(name, length=14, padding="none", seed=4)]
    generator = torch.Generator().manual_seed(0)
    dev = [(x, torch.randint(zoo.WORDS, zoo.VOCABULARY, (2,), generator=generator)) for x in student]
    return {"teacher": teacher, "student": student, "dev": dev}


def live_formula(h: Tensor, direction: Tensor, alpha: Tensor) -> Tensor:
    h, shifted = h.double(), h.double() + alpha.double() * direction.double()
    return (shifted * (h.square().sum(-1) / shifted.square().sum(-1)).sqrt()[..., None]).float()
