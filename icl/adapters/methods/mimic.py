"""MimIC (arXiv 2504.08851): the shift that demonstrations cause in each head, along a learned direction.

    out = SA + mu v,   mu = Z1 / (Z1 + Z2),   log Z1 = q.w + b

Z2 is the sum of exp(score) over the keys that the query sees, so mu falls where the prompt itself has much to attend
to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from icl.adapters.base import AdapterConfig, AdapterLayer
from icl.attention import LayerShape
from icl.common.configuration import configuration
from icl.losses import Objective

_STD = 0.02
_VARIANCE = 1e-6


class _Layer(AdapterLayer):
    """Starts next to the identity: shifts of a thousandth."""

    sees_rotation = True

    def __init__(self, config: MimICConfig, shape: LayerShape):
        super().__init__()
        self.config = config
        heads = 1 if config.direction == "layer" else shape.heads
        self.direction = nn.Parameter(torch.randn(heads, shape.head_dim) * _VARIANCE**0.5)
        if config.mass == "query":
            self.weight = nn.Parameter(torch.randn(shape.heads, shape.head_dim) * _STD)
        self.bias = nn.Parameter(torch.zeros(shape.heads))

    def shift(self, query: Tensor, output: Tensor, mass: Callable[[Tensor], Tensor]) -> Tensor:
        if self.config.mass == "query":
            share = mass((query.float() @ self.weight[..., None])[..., 0] + self.bias[:, None]).transpose(1, 2)
        else:
            share = torch.sigmoid(self.bias)
        return output.float() + share[..., None] * self.direction


@configuration
class MimICConfig(AdapterConfig):
    """2 dh + 1 parameters a head.

    Args:
        direction: "head", a shift v for each head, or "layer", one for all heads of a layer.
        mass: "query", mu as above, or "constant", one for each head whatever the query.
    """

    direction: Literal["head", "layer"] = "head"
    mass: Literal["query", "constant"] = "query"

    method: ClassVar[str] = "mimic"
    layer_type: ClassVar[type] = _Layer
    objective: ClassVar[Objective] = Objective(alignment=1.0, ce=0.5)
