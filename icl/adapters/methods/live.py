"""LIVE (learnable in-context vectors, NeurIPS 2024): a direction for each layer, along which hidden states turn.

    h' = (h + alpha V) |h| / |h + alpha V|

at the output of the decoder layer, at every token: demonstrations shift states in a common direction, here learned.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from icl.adapters.base import AdapterConfig, AdapterLayer
from icl.adapters.forward_pass import ForwardPass
from icl.attention import LayerShape
from icl.common.configuration import configuration
from icl.losses import Objective

_STD = 0.01
_ALPHA = 0.1


class _Layer(AdapterLayer):
    """Starts next to the identity."""

    def __init__(self, config: LIVEConfig, shape: LayerShape):
        super().__init__()
        self.direction = nn.Parameter(torch.randn(shape.width) * _STD)
        self.alpha = nn.Parameter(torch.tensor(_ALPHA))

    def residual(self, hidden: Tensor, step: ForwardPass) -> Tensor:
        return turn(hidden.float(), self.alpha * self.direction)


def turn(hidden: Tensor, shift: Tensor) -> Tensor:
    """Return ``hidden + shift`` (..., D) with the norm that ``hidden`` had; exactly ``hidden`` for a shift of 0.

    Zero where ``hidden`` is, and where the shift cancels it. Gradients are finite everywhere.
    """
    moved = hidden + shift
    norm = vector_norm(moved, dim=-1, keepdim=True)
    scale: Tensor = vector_norm(hidden, dim=-1, keepdim=True) / norm.where(norm > 0, 1)
    return moved * scale


@configuration
class LIVEConfig(AdapterConfig):
    """d + 1 parameters a layer."""

    method: ClassVar[str] = "live"
    layer_type: ClassVar[type] = _Layer
    needs_attention: ClassVar[bool] = False
    objective: ClassVar[Objective] = Objective(logits=1.0, ce=0.5)
