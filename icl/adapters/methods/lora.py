"""LoRA (Hu et al., 2022), the baseline that changes projections of the base: W x + (alpha / r) B A x.

The product is added to what a projection puts out. Nothing of the base is replaced, so that its names, files and
weights stay its own, whoever holds them: offloaded, of 4 bits, or inside a layer of peft.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.hooks import RemovableHandle

from icl.adapters.base import Adapter, AdapterConfig, AdapterLayer
from icl.adapters.forward_pass import HookPoint
from icl.attention import Decoder, DecoderLayer, LayerShape, internals
from icl.common.configuration import PositiveInt, configuration

if TYPE_CHECKING:
    from icl.adapters.container import Adapters


class _Matrix(nn.Module):
    """A weight in a class of its own, so that whoever replaces linear maps (peft, quantisers) leaves it alone."""

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, columns))


class _Factors(AdapterLayer):
    """A and B of each projection in a decoder layer."""

    def __init__(self, config: LoRAConfig, shape: LayerShape):
        super().__init__()
        self.scale = config.alpha / config.rank
        self.projections = nn.ModuleDict()


class LoRA(Adapter):
    """The identity at the start: B is zero."""

    config: LoRAConfig
    _handles: list[RemovableHandle]

    def __init__(self, config: LoRAConfig, decoder: Decoder):
        super().__init__(config, decoder)
        self.targets = [
            (each, name) for each in config.select_layers(decoder) for name in _find_projections(each, config.targets)
        ]
        modules = [target.module.get_submodule(name) for target, name in self.targets]
        if len(set(modules)) < len(modules):
            raise ValueError("attach: LoRA found one linear map in several decoder layers, and cannot tell them apart")
        for target, name in self.targets:
            module: Any = target.module.get_submodule(name)
            A = _Matrix(config.rank, module.in_features)
            nn.init.kaiming_uniform_(A.weight, a=math.sqrt(5))
            pair = nn.ModuleDict({"A": A, "B": _Matrix(module.out_features, config.rank)})
            self._factors(target).projections[_without_dots(name)] = pair.to(target.device)

    def _factors(self, target: DecoderLayer) -> _Factors:
        return cast(_Factors, self.layers[str(target.index)])

    def install(self, adapters: Adapters) -> None:
        """Put hooks on the projections."""
        self._handles = []
        for target, name in self.targets:
            factors, module = self._factors(target), target.module.get_submodule(name)
            point = (f"projection {name} of {self.key}", target.index)
            # Of experts, which stand in lists, not all run.
            if not any(part.isdigit() for part in name.split(".")):
                factors.hook_points |= {point}
            hook = partial(_add, adapters, factors, factors.projections[_without_dots(name)], point)
            self._handles.append(module.register_forward_hook(hook))

    def uninstall(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()


def _add(
    adapters: Adapters, factors: _Factors, pair: Any, point: HookPoint, module: nn.Module, args: Any, output: Tensor
) -> Tensor | None:
    """Return the output with the correction, for requests that use it."""
    step, (_, index) = adapters.step, point
    step.reached.add(point)
    for layer, rows in step.uses(index, len(output), output.device):
        if layer is factors:
            x = args[0].to(pair["A"].weight.dtype)
            change = linear(linear(x, pair["A"].weight), pair["B"].weight) * factors.scale
            if rows is not None:
                if len(output) != step.batch:
                    raise ValueError(
                        "use: rows cannot be told apart where a projection gets tokens of all requests in one list, as "
                        "experts do: use one adapter for all, or LoRA on other projections"
                    )
                change = change.where(rows.view(-1, *[1] * (change.ndim - 1)), 0)
            return (output + change).to(output.dtype)
    return None


def _without_dots(name: str) -> str:
    """Return a module's name without dots, which stand between names."""
    return name.replace(".", "/")


def _find_projections(target: DecoderLayer, targets: Sequence[str] | None) -> list[str]:
    """Return the names of linear maps in a decoder layer, as such or inside a layer of peft around one."""
    kinds = internals.projection_types()
    inside = set() if target.attention is None else {id(module) for module in target.attention.modules()}
    names: list[str] = []
    skipped = "\0"
    for name, module in target.module.named_modules():
        if name.startswith(skipped) or not isinstance(module, kinds):
            continue
        skipped = f"{name}."
        if id(module) in inside if targets is None else any(f".{name}".endswith(f".{end}") for end in targets):
            names.append(name)
    if not names:
        where = "in self-attention" if targets is None else f"named {', '.join(targets)}"
        raise ValueError(f"attach: LoRA found no linear maps {where} in decoder layer {target.index}")
    return names


@configuration
class LoRAConfig(AdapterConfig):
    """r (in + out) parameters a projection.

    Args:
        rank: r.
        alpha: of the scale alpha / r.
        targets: names of linear maps in the decoder layers, or ends of names ("q_proj", "mlp.up_proj"); ``None`` for
            all in self-attention.
    """

    rank: PositiveInt = 8
    alpha: PositiveInt = 16
    targets: tuple[str, ...] | None = None

    method: ClassVar[str] = "lora"
    adapter_type: ClassVar[type[Adapter]] = LoRA
    layer_type: ClassVar[type] = _Factors
