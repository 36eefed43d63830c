"""LoRA (Hu et al., 2022) through peft, the baseline that changes projections of the base: W x + (alpha / r) B A x."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from icl.adapters.base import Adapter, AdapterConfig, Layer, positive
from icl.adapters.decoder import Decoder, DecoderLayer, Shape

# Of adapters inside peft's layers, where a model may have some of its own.
_NAMES = (f"icl{i}" for i in count())


@dataclass(frozen=True)
class LoRAConfig(AdapterConfig):
    """r (in + out) parameters a projection.

    Args:
        rank: r.
        alpha: of the scale alpha / r.
        targets: names of linear maps in the decoder layers, or ends of names ("q_proj", "mlp.up_proj"); ``None`` for
            all in self-attention.
    """

    rank: int = 8
    alpha: int = 16
    targets: tuple[str, ...] | None = None

    method: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        positive("LoRAConfig", rank=self.rank, alpha=self.alpha)

    def build(self, decoder: Decoder) -> Adapter:
        return LoRA(self, decoder)

    def layer(self, shape: Shape) -> Layer:
        return _Factors()


class _Factors(Layer):
    """A and B of each projection in a decoder layer, the modules that peft has."""

    def __init__(self) -> None:
        super().__init__()
        self.projections = nn.ModuleDict()


class LoRA(Adapter):
    """The identity at the start: B is zero."""

    config: LoRAConfig

    def __init__(self, config: LoRAConfig, decoder: Decoder):
        super().__init__(config, decoder)
        self.name = next(_NAMES)
        self.targets = [(target, _names(target, config.targets)) for target in config.chosen(decoder)]
        self.requests: Sequence[bool] = ()
        self._rows: dict[tuple[int, torch.device], Tensor] = {}

    def at(self, index: int) -> Layer | None:
        return None  # peft's layers do it all

    def install(self, model: nn.Module) -> None:
        for target, names in self.targets:
            factors = cast(_Factors, self.layers[str(target.index)])
            for name, wrapped in self._injected(target.module, names):
                pair = nn.ModuleDict({"A": wrapped.lora_A[self.name], "B": wrapped.lora_B[self.name]})
                pair.to(target.device, torch.float32)
                pair["B"].register_forward_hook(self._chosen)
                factors.projections[name.replace(".", "/")] = pair

    def uninstall(self, model: nn.Module) -> None:
        for root, name, wrapped in self._wrapped():
            wrapped.delete_adapter(self.name)
            if not wrapped.lora_A:
                parent, _, leaf = name.rpartition(".")
                setattr(root.get_submodule(parent), leaf, wrapped.base_layer)

    def switch(self, requests: Sequence[bool]) -> None:
        self.requests, self._rows = requests, {}
        for _, _, wrapped in self._wrapped():
            others = [name for name in wrapped.active_adapters if name != self.name]
            _activate(wrapped, [*others, self.name] if any(requests) else others)

    def _wrapped(self) -> Iterator[tuple[nn.Module, str, Any]]:
        for target, names in self.targets:
            for name in names:
                yield target.module, name, target.module.get_submodule(name)

    def _injected(self, root: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        modules = {name: root.get_submodule(name) for name in names}
        active = {name: m.active_adapters for name, m in modules.items() if isinstance(m, LoraLayer)}
        # peft leaves its configuration on what it changes, and takes one that it finds there for its own.
        before = root.__dict__.pop("peft_config", None)
        wanted = LoraConfig(
            r=self.config.rank, lora_alpha=self.config.alpha, target_modules="|".join(map(re.escape, names))
        )
        inject_adapter_in_model(wanted, root, self.name)
        del root.__dict__["peft_config"]
        if before is not None:
            root.__dict__["peft_config"] = before
        for name in names:
            wrapped = root.get_submodule(name)
            _activate(wrapped, [*active.get(name, ()), self.name])
            yield name, wrapped

    def _chosen(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """The correction, without that of requests which do not use it."""
        if all(self.requests):
            return None
        key = len(output), output.device
        if key not in self._rows:
            repeats, rest = divmod(len(output), len(self.requests))
            if rest:
                raise ValueError(f"use: rows has {len(self.requests)} choices for a batch of {len(output)}")
            self._rows[key] = torch.tensor(self.requests, device=output.device).repeat_interleave(repeats)
        return output.where(self._rows[key].view(-1, *[1] * (output.ndim - 1)), 0)


def _activate(wrapped: Any, names: list[str]) -> None:
    """Has peft's layer use these. Unlike with peft alone, what is not in use is trainable still."""
    trained = [(parameter, parameter.requires_grad) for parameter in wrapped.parameters()]
    wrapped.set_adapter(names)
    for parameter, flag in trained:
        parameter.requires_grad_(flag)


def _names(target: DecoderLayer, targets: Sequence[str] | None) -> list[str]:
    """Linear maps in a decoder layer, those that have a LoRA already among them."""
    inside = {id(module) for module in target.attention.modules()}
    found, skipped = [], "\0"
    for name, module in target.module.named_modules():
        if name.startswith(skipped) or not isinstance(module, (nn.Linear, LoraLayer)):
            continue
        if isinstance(module, LoraLayer):
            skipped = f"{name}."
        if id(module) in inside if targets is None else any(f".{name}".endswith(f".{end}") for end in targets):
            found.append(name)
    if not found:
        wanted = "in self-attention" if targets is None else f"named {', '.join(targets)}"
        raise ValueError(f"attach: LoRA found no linear maps {wanted} in decoder layer {target.index}")
    return found
