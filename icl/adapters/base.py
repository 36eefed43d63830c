"""What a method is: a configuration, and a layer of parameters for each layer of the decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from icl.adapters.forward_pass import ForwardPass, HookPoint
from icl.attention import Decoder, DecoderLayer, LayerShape, Prefix
from icl.common.configuration import brief, build
from icl.losses import Objective

if TYPE_CHECKING:
    from icl.adapters.container import Adapters

METHODS: dict[str, type[AdapterConfig]] = {}
_NUMBERS = count()


class AdapterLayer(nn.Module):
    """What an adapter does at one layer of the decoder: nothing, until a method overrides one of these."""

    sees_rotation = False
    """Whether the layer looks at queries or keys by themselves, and so sees the positions that they were rotated by."""
    needs_end = False
    """Whether the layer acts at the end of the prompt alone, so that a pass must know where that is."""
    places: frozenset[HookPoint] = frozenset()
    """What the layer hooks itself, and has to be reached in every pass that uses it."""

    def transform_query(self, query: Tensor, scaling: float) -> Tensor:
        return query

    def prefix(self) -> Prefix | None:
        return None

    def score_bias(self, query: Tensor, keys: int) -> tuple[Tensor, Tensor] | None:
        return None

    def shift(self, query: Tensor, output: Tensor, mass: Callable[[Tensor], Tensor]) -> Tensor:
        return output

    def residual(self, hidden: Tensor, step: ForwardPass) -> Tensor:
        """The output of the decoder layer (B, T, D), changed."""
        return hidden


@dataclass(frozen=True)
class AdapterConfig:
    """``layers`` are the indices of the decoder's layers that get one, ``None`` for all that the method can act on.

    Those are all layers for a method that changes their outputs, and for one that changes attention those that have
    softmax attention: in hybrid decoders, whose other layers are linear, state-space or convolutional, some of them.
    """

    layers: tuple[int, ...] | None = None

    method: ClassVar[str]
    needs_attention: ClassVar[bool] = True
    """Whether the method changes attention, and not what a layer puts out."""
    objective: ClassVar[Objective] = Objective()
    fitted: ClassVar[bool] = False
    """Whether it is read off the base (:func:`icl.adapters.fit`), and not trained."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        METHODS[cls.method] = cls

    def build(self, decoder: Decoder) -> Adapter:
        return Adapter(self, decoder)

    def layer(self, shape: LayerShape) -> AdapterLayer:
        raise TypeError(f"attach: {type(self).__name__} has no layers of its own")

    def to_dict(self) -> dict[str, Any]:
        return {"method": self.method, **dataclasses.asdict(self)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> AdapterConfig:
        """The configuration of a method by name.

        ``ValueError`` for a method or a field that is not known, and for a value of another type.
        """
        values = dict(values)
        method = values.pop("method", None)
        if not isinstance(method, str) or method not in METHODS:
            raise ValueError(f"adapter: method must be one of {', '.join(sorted(METHODS))}, got {brief(method)}")
        return build(method, METHODS[method], values)

    def chosen(self, decoder: Decoder) -> list[DecoderLayer]:
        count = len(decoder.layers)
        if self.layers is not None and not isinstance(self.layers, tuple):
            raise ValueError(f"attach: layers must be a tuple of indices or None, got {self.layers!r}")
        for i in self.layers or ():
            if type(i) is not int or not 0 <= i < count:
                raise ValueError(f"attach: layers must be from 0 to {count - 1}, got {i}")
            if self.needs_attention and decoder.layers[i].attention is None:
                able = ", ".join(str(layer.index) for layer in decoder.layers if layer.attention is not None)
                raise ValueError(
                    f"attach: layers of {self.method} must have softmax attention, which layer {i} of this decoder "
                    f"lacks; these have it: {able}"
                )
        able_to = [layer for layer in decoder.layers if layer.attention is not None or not self.needs_attention]
        return [layer for layer in able_to if self.layers is None or layer.index in self.layers]


def one_of(owner: str, name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{owner}: {name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def positive(owner: str, **sizes: int) -> None:
    for name, value in sizes.items():
        if type(value) is not int or value <= 0:  # True is an int too
            raise ValueError(f"{owner}: {name} must be a positive int, got {value!r}")


class Adapter(nn.Module):
    """A method on a decoder: its layers by index, float32, each on the device of the decoder's."""

    def __init__(self, config: AdapterConfig, decoder: Decoder):
        super().__init__()
        self.config = config
        self.key = f"{config.method} {next(_NUMBERS)}"
        """By which :attr:`ForwardPass.notes` are the adapter's."""
        self.layers = nn.ModuleDict()
        for target in config.chosen(decoder):
            self.layers[str(target.index)] = config.layer(target.shape).to(target.device, torch.float32)

    def at(self, index: int) -> AdapterLayer | None:
        return cast("AdapterLayer | None", self.layers._modules.get(str(index)))

    def acting(self) -> Iterable[AdapterLayer]:
        """All of its layers."""
        return (cast(AdapterLayer, layer) for layer in self.layers.values())

    def install(self, adapters: Adapters) -> None:
        """Called on attaching, as :meth:`uninstall` is on removal: for methods that stand elsewhere than in layers."""

    def uninstall(self) -> None:
        pass
