"""Hyper-ICL (arXiv 2606.04434): attention is redirected to what demonstrations would have made it look at.

A low-rank term, gated by the query, is added to the scores of every head: softmax(S + diag(g) (Q Uq)(K Uk)' / sqrt(r)).
Folded into the query it is exact, and neither keys nor cache nor mask change:

    q~ = q + g / (s sqrt(r)) (q Uq) Uk'
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from icl.adapters.base import AdapterConfig, AdapterLayer
from icl.attention import LayerShape
from icl.common.configuration import PositiveInt, configuration
from icl.losses import Objective

_STD = 0.02


class _Layer(AdapterLayer):
    """Starts as the identity: Uk is zero."""

    sees_rotation = True

    def __init__(self, config: HyperICLConfig, shape: LayerShape):
        super().__init__()
        self.config = config
        heads, width = shape.heads, shape.head_dim
        self.query_factor = nn.Parameter(torch.randn(heads, width, config.rank) * _STD)
        self.key_factor = nn.Parameter(torch.zeros(heads, width, config.rank))
        if config.gate == "token":
            self.gate_weight = nn.Parameter(torch.zeros(heads, width))
        self.gate_bias = nn.Parameter(torch.zeros(1 if config.gate == "layer" else heads))

    def transform_query(self, query: Tensor, scaling: float) -> Tensor:
        if self.config.correct == "output":
            return query
        wide = query.float()
        return wide + self._correction(wide, self._gate(wide) / scaling)

    def shift(self, query: Tensor, output: Tensor, mass: Callable[[Tensor], Tensor]) -> Tensor:
        if self.config.correct == "scores":
            return output
        wide = output.transpose(1, 2).float()
        return (wide + self._correction(wide, self._gate(query.float()))).transpose(1, 2)

    def _correction(self, x: Tensor, gate: Tensor) -> Tensor:
        # The gate goes to the few numbers between the factors.
        inner = (x @ self.query_factor) * (gate / math.sqrt(self.config.rank))
        return inner @ self.key_factor.transpose(1, 2)

    def _gate(self, query: Tensor) -> Tensor:
        """(B, H, T, 1), or what broadcasts to it."""
        bias = self.gate_bias[:, None, None]
        if self.config.gate == "token":
            direction = layer_norm(query, query.shape[-1:])
            return torch.sigmoid(direction @ self.gate_weight[..., None] + bias)
        return torch.sigmoid(bias)


@configuration
class HyperICLConfig(AdapterConfig):
    """2 dh r + dh + 1 parameters a head.

    Args:
        rank: of the correction, r.
        gate: "token", a gate for each query from its direction; "head", one for each head; "layer", one for each layer.
        correct: "scores", or "output" for the same correction of what a head puts out instead.
    """

    rank: PositiveInt = 4
    gate: Literal["token", "head", "layer"] = "token"
    correct: Literal["scores", "output"] = "scores"

    method: ClassVar[str] = "hyper_icl"
    layer_type: ClassVar[type] = _Layer
    objective: ClassVar[Objective] = Objective(anchor=1.0, ce=0.5)
