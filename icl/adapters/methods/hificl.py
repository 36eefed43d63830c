"""HiFICL (arXiv 2603.12760): virtual demonstrations, keys and values learned from the answers alone, without a teacher.

    out = softmax over [K_A K_B ; K] with values [V_A V_B ; V]

for each query head. Virtual keys get no rotation: they are as near to one token as to another.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from icl.adapters.base import AdapterConfig, AdapterLayer
from icl.attention import LayerShape, Prefix
from icl.common.configuration import PositiveInt, configuration

_STD = 0.01


class _Layer(AdapterLayer):
    sees_rotation = True

    def __init__(self, config: HiFICLConfig, shape: LayerShape):
        super().__init__()
        self.config = config
        self.key = _Rows(config, shape, _STD, config.factorise in ("both", "keys"))
        self.value = _Rows(config, shape, 0.0, config.factorise in ("both", "values"))
        if config.start == "identity":
            self.gate = nn.Parameter(torch.zeros(shape.heads))

    def prefix(self) -> Prefix:
        gate = self.gate if self.config.start == "identity" else None
        return Prefix(self.key(), self.value(), gate, self.config.mass == "added")


class _Rows(nn.Module):
    """(H, n, dh), as a product of two factors or free, with the same distribution at the start."""

    def __init__(self, config: HiFICLConfig, shape: LayerShape, std: float, factorised: bool):
        super().__init__()
        n, r = config.tokens, config.rank
        self.left = nn.Parameter(torch.randn(shape.heads, n, r)) if factorised else None
        scale = std if factorised else std * r**0.5
        self.right = nn.Parameter(torch.randn(shape.heads, r if factorised else n, shape.head_dim) * scale)

    def forward(self) -> Tensor:
        return self.right if self.left is None else self.left @ self.right


@configuration
class HiFICLConfig(AdapterConfig):
    """2 (n r + r dh) parameters a head.

    Args:
        tokens: virtual keys and values for each head, n.
        rank: of their factors, r.
        factorise: which of keys and values are products of two factors; the others are free.
        start: "paper" puts virtual keys before the others at once, which takes mass from them although the values are
            zero; "identity" mixes them in by a gate for each head that starts at zero, at the cost of a second pass
            over the keys.
        mass: "shared" by virtual and other keys as one softmax does, or "added": the others keep all of theirs.
    """

    tokens: PositiveInt = 8
    rank: PositiveInt = 8
    factorise: Literal["both", "keys", "values", "none"] = "both"
    start: Literal["paper", "identity"] = "paper"
    mass: Literal["shared", "added"] = "shared"

    method: ClassVar[str] = "hificl"
    layer_type: ClassVar[type] = _Layer

    def __post_init__(self) -> None:
        if self.mass == "added" and self.start == "identity":
            raise ValueError('HiFICLConfig: mass "added" is the identity at the start already; start must be "paper"')
