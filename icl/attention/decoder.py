"""The text decoder of a vision-language model: its layers and their attention, identified by structure, not by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from icl.attention import internals

# Values of each tensor in a fingerprint, and how far a base of another precision may be from them.
_VALUES = 8
_RELATIVE, _ABSOLUTE = 1e-2, 1e-3


@dataclass(frozen=True)
class LayerShape:
    """The number of query heads, their width, and the width of the residual stream."""

    heads: int
    head_dim: int
    width: int


@dataclass(frozen=True)
class DecoderLayer:
    """A layer of the decoder, with its attention."""

    index: int
    """The model's own, by which a hybrid decoder counts layers of every kind."""
    module: nn.Module
    attention: nn.Module | None
    """Softmax attention among the tokens of the prompt; ``None`` in layers that have another kind, or none."""
    shape: LayerShape
    """The shape of the attention, or of that in other layers where this one has none."""

    @property
    def device(self) -> torch.device:
        """The device that the layer computes on."""
        return internals.execution_device(self.module if self.attention is None else self.attention)


class Decoder:
    """The layers of the text decoder, in order; not among them are vision towers, and gated cross-attention in between.

    Raises:
        ValueError: if the model has none, has an encoder, or computes attention outside the interface of transformers.
    """

    def __init__(self, model: nn.Module):
        decoder = internals.decoder_of(model)
        internals.probe(model, decoder)
        self.module: Any = decoder
        self.layers = _find_layers(decoder, type(model).__name__)
        self.config: Any = next(layer.attention.config for layer in self.layers if layer.attention is not None)

    def fingerprint(self) -> dict[str, Any]:
        """Return class, sizes, and a few values of embeddings, queries and norms, which tell one base from another."""
        return {
            "architecture": type(self.module).__name__,
            "layers": len(self.layers),
            **asdict(self.layers[0].shape),
            "values": dict(self._samples()),
        }

    def mismatch(self, other: dict[str, Any]) -> str | None:
        """Return why adapters for a base with the fingerprint ``other`` do not belong here, or ``None`` if they do.

        Precision does not matter: values are compared as far as bfloat16 tells them, and those that are not floating
        point (weights of 4 bits) are not compared.
        """
        mine = self.fingerprint()
        for key, value in mine.items():
            if key != "values" and value != other.get(key):
                return f"{key} is {value}, and was {other.get(key)}"
        for name, values in mine["values"].items():
            theirs = other["values"].get(name, values)
            if len(theirs) != len(values) or not torch.allclose(
                torch.tensor(values), torch.tensor(theirs), rtol=_RELATIVE, atol=_ABSOLUTE
            ):
                return f"the weights differ, first in {name}"
        return None

    def _samples(self) -> Iterator[tuple[str, list[float]]]:
        embedding = internals.value_of(self.module.get_input_embeddings(), "weight")
        yield "embedding", _sample(embedding[len(embedding) // 2])
        for layer in self.layers:
            if layer.attention is None:
                continue
            for name, parameter in islice(layer.attention.named_parameters(), 1):
                if parameter.is_floating_point() and "lora" not in name:
                    value = internals.value_of(layer.attention, name)
                    yield f"{layer.index}.{name.replace('base_layer.', '')}", _sample(value)


def _sample(parameter: Tensor) -> list[float]:
    flat = parameter.detach().reshape(-1)
    return [float(v) for v in flat[:: max(1, len(flat) // _VALUES)][:_VALUES].float()]


def _find_layers(decoder: nn.Module, name: str) -> list[DecoderLayer]:
    """Return all of the one list of layers whose members have self-attention, also those that have none."""
    stacks = [stack for stack in decoder.modules() if isinstance(stack, nn.ModuleList)]
    attentive = {
        stack: attentions for stack in stacks if any(attentions := [_find_attentions(layer) for layer in stack])
    }
    # Lists within a layer are of experts, or of blocks that make one up.
    inner = {module for stack in attentive for layer in stack for module in layer.modules()}
    candidates = [(stack, attentions) for stack, attentions in attentive.items() if stack not in inner]
    if not candidates:
        raise ValueError(f"attach: found no self-attention with a layer_idx in the decoder of {name}")
    stack, attentions = candidates[0]
    if len(candidates) > 1 or any(len(several) > 1 for several in attentions):
        raise ValueError(
            f"attach: layers of the decoder of {name} have more than one self-attention each, or stand in more than "
            "one list, and adapters cannot tell which is meant"
        )
    shapes = [_shape_of(attention) for several in attentions for attention in several]
    return [
        DecoderLayer(i, module, several[0] if several else None, _shape_of(several[0]) if several else shapes[0])
        for i, (module, several) in enumerate(zip(stack, attentions))
    ]


def _find_attentions(layer: nn.Module) -> list[nn.Module]:
    return [module for module in layer.modules() if internals.is_self_attention(module)]


def _shape_of(attention: Any) -> LayerShape:
    return LayerShape(*internals.heads_of(attention), attention.config.hidden_size)
