"""The base of every method: a configuration, and a layer of parameters for each layer of the decoder.

:class:`AdapterConfig` builds an :class:`Adapter`, which holds one :class:`AdapterLayer` for each layer that it acts on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from icl.adapters.forward_pass import ForwardPass, HookPoint
from icl.attention import AttentionPrimitives, Decoder, DecoderLayer
from icl.common.configuration import brief, configuration, parse
from icl.losses import Objective

if TYPE_CHECKING:
    from icl.adapters.container import Adapters

METHODS: dict[str, type[AdapterConfig]] = {}
_NUMBERS = count()


class AdapterLayer(nn.Module, AttentionPrimitives):
    """The part of an adapter at one layer of the decoder: the identity, until a method overrides something."""

    sees_rotation = False
    """True for a layer that looks at queries or keys by themselves, and so sees the positions they were rotated by."""
    needs_end = False
    """True for a layer that acts at the end of the prompt alone, so that a pass must know where that is."""
    hook_points: frozenset[HookPoint] = frozenset()
    """The places that the layer hooks itself, and that every pass which uses it has to reach."""

    def residual(self, hidden: Tensor, step: ForwardPass) -> Tensor:
        """Return the output of the decoder layer (B, T, D), changed."""
        return hidden


class Adapter(nn.Module):
    """A method on a decoder: its layers by index, float32, each on the device of the decoder's layer."""

    def __init__(self, config: AdapterConfig, decoder: Decoder):
        super().__init__()
        self.config = config
        self.key = f"{config.method} {next(_NUMBERS)}"
        """The adapter's key in :attr:`ForwardPass.notes`."""
        self.layers = nn.ModuleDict()
        for target in config.select_layers(decoder):
            self.layers[str(target.index)] = config.layer_type(config, target.shape).to(target.device, torch.float32)

    def at(self, index: int) -> AdapterLayer | None:
        """Return the part at a layer of the decoder."""
        return cast("AdapterLayer | None", self.layers._modules.get(str(index)))

    def acting(self) -> Iterable[AdapterLayer]:
        """Return all of its layers."""
        return (cast(AdapterLayer, layer) for layer in self.layers.values())

    def install(self, adapters: Adapters) -> None:
        """Act on being attached: for methods that stand elsewhere than in layers."""

    def uninstall(self) -> None:
        """Undo :meth:`install`."""


@configuration
class AdapterConfig:
    """The options of a method; each subclass registers itself in ``METHODS``.

    ``layers`` are the indices of the decoder's layers that get one, ``None`` for all that the method can act on. Those
    are all layers for a method that changes their outputs, and for one that changes attention those that have softmax
    attention: in hybrid decoders, whose other layers are linear, state-space or convolutional, some of them.
    """

    layers: tuple[int, ...] | None = None

    method: ClassVar[str]
    adapter_type: ClassVar[type[Adapter]] = Adapter
    layer_type: ClassVar[type]
    """A subclass of :class:`AdapterLayer`, made of the configuration and the shape of a layer."""
    needs_attention: ClassVar[bool] = True
    """True for a method that changes attention, and not what a layer puts out."""
    objective: ClassVar[Objective] = Objective()
    fitted: ClassVar[bool] = False
    """True for a method that is read off the base (:func:`icl.adapters.fit`), and not trained."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        METHODS[cls.method] = cls

    def build(self, decoder: Decoder) -> Adapter:
        """Return the method on a decoder, as it starts."""
        return self.adapter_type(self, decoder)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON has it, with the name of the method."""
        return {"method": self.method, **dataclasses.asdict(self)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> AdapterConfig:
        """Return the configuration that :meth:`to_dict` describes.

        ``ValueError`` for an unknown method or field, and for a value of another type.
        """
        values = dict(values)
        method = values.pop("method", None)
        if not isinstance(method, str) or method not in METHODS:
            raise ValueError(f"adapter: method must be one of {', '.join(sorted(METHODS))}, got {brief(method)}")
        return parse(method, METHODS[method], values)

    def select_layers(self, decoder: Decoder) -> list[DecoderLayer]:
        """Return the layers that get one. ``ValueError`` for an index out of range, or one the method cannot act on."""
        count = len(decoder.layers)
        for i in self.layers or ():
            if not 0 <= i < count:
                raise ValueError(f"attach: layers must be from 0 to {count - 1}, got {i}")
            if self.needs_attention and decoder.layers[i].attention is None:
                able = ", ".join(str(layer.index) for layer in decoder.layers if layer.attention is not None)
                raise ValueError(
                    f"attach: layers of {self.method} must have softmax attention, which layer {i} of this decoder "
                    f"lacks; these have it: {able}"
                )
        able_to = [layer for layer in decoder.layers if layer.attention is not None or not self.needs_attention]
        return [layer for layer in able_to if self.layers is None or layer.index in self.layers]
