"""The text decoder of a vision-language model: its layers and their attention, found by what they are, not by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

# Values kept of each tensor in a fingerprint, and how far a base of another precision may be from them.
_VALUES = 8
_RELATIVE, _ABSOLUTE = 1e-2, 1e-3


@dataclass(frozen=True)
class Shape:
    """Query heads, their width, and the width of the residual stream."""

    heads: int
    head_dim: int
    width: int


@dataclass(frozen=True)
class DecoderLayer:
    index: int
    module: nn.Module
    attention: nn.Module
    shape: Shape

    @property
    def device(self) -> torch.device:
        return next(self.attention.parameters()).device


class Decoder:
    """The layers with self-attention, in order; cross-attention and vision towers are not among them.

    ``ValueError`` if the model has none, or computes attention outside the interface of transformers.
    """

    def __init__(self, model: nn.Module):
        find = getattr(model, "get_decoder", None)
        decoder = find() if find is not None else None
        if decoder is None or not hasattr(decoder, "set_attn_implementation"):
            raise ValueError(
                f"attach: model must be one of transformers with a text decoder, got {type(model).__name__}"
            )
        self.module: Any = decoder
        self.layers = [
            DecoderLayer(i, module, attention, _shape(attention, decoder))
            for i, (module, attention) in enumerate(_pairs(decoder))
        ]
        if not self.layers:
            raise ValueError(
                f"attach: found no self-attention with a layer_idx in the decoder of {type(model).__name__}"
            )
        self.config: Any = self.layers[0].attention.config

    def fingerprint(self) -> dict[str, Any]:
        """What tells one base from another: class, sizes, and a few values of embeddings, queries and norms."""
        return {
            "architecture": type(self.module).__name__,
            "layers": len(self.layers),
            **asdict(self.layers[0].shape),
            "values": dict(self._samples()),
        }

    def mismatch(self, other: dict[str, Any]) -> str | None:
        """Why adapters made for a base with the fingerprint ``other`` do not belong here, or ``None`` if they do.

        Precision does not matter: values are compared as far as bfloat16 tells them, and those that are not floating
        point (weights of 4 bits) are not compared.
        """
        mine = self.fingerprint()
        for key, value in mine.items():
            if key != "values" and value != other.get(key):
                return f"{key} is {value}, and was {other.get(key)}"
        for name, values in mine["values"].items():
            theirs = other.get("values", {}).get(name)
            if theirs is not None and not torch.allclose(
                torch.tensor(values), torch.tensor(theirs), rtol=_RELATIVE, atol=_ABSOLUTE
            ):
                return f"the weights differ, first in {name}"
        return None

    def _samples(self) -> Iterator[tuple[str, list[float]]]:
        embedding = self.module.get_input_embeddings().weight
        yield "embedding", _sample(embedding[len(embedding) // 2])
        for layer in self.layers:
            for name, parameter in islice(layer.attention.named_parameters(), 1):
                if parameter.is_floating_point() and "lora" not in name:
                    yield f"{layer.index}.{name.replace('base_layer.', '')}", _sample(parameter)


def _sample(parameter: Tensor) -> list[float]:
    flat = parameter.detach().reshape(-1)
    return [float(v) for v in flat[:: max(1, len(flat) // _VALUES)][:_VALUES].float()]


def _pairs(decoder: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    for stack in decoder.modules():
        if not isinstance(stack, nn.ModuleList):
            continue
        for layer in stack:
            found = [module for module in layer.modules() if _is_target(module)]
            if len(found) == 1:
                yield layer, found[0]


def _is_target(module: nn.Module) -> bool:
    # Whatever is_causal says: that of PaliGemma, which sees its prompt both ways, is False. Cross-attention has none,
    # or says what it is.
    return (
        isinstance(getattr(module, "layer_idx", None), int)
        and hasattr(module, "is_causal")
        and not getattr(module, "is_cross_attention", False)
        and hasattr(module, "config")
    )


def _shape(attention: Any, decoder: Any) -> Shape:
    config = attention.config
    heads = getattr(attention, "num_heads", None) or config.num_attention_heads
    width = config.hidden_size
    return Shape(heads, getattr(attention, "head_dim", None) or width // heads, width)
