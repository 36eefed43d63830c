"""Attention under adapters as the papers print it: every score in a matrix, in float64, nothing folded, nothing fused.

It shares no code with ``icl``: of an adapter it takes configuration and parameters, of a call queries, keys, values and
which keys are visible.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from icl.adapters import Adapters, HiFICLConfig, HyperICLConfig, MimICConfig

# Relative to the largest value: of outputs, 16 roundings of float32, whose sums the processor orders; and of gradients.
OUTPUT, GRADIENT = 2e-6, 1e-5
_NAME = "literal"
_SELF_ATTENTION = re.compile(r"model\.((language_model|text_model)\.)?layers\.(\d+)\.self_attn")


@dataclass
class Method:
    """A layer of an adapter: what it is, and its parameters, float64 and leaves of a graph of their own."""

    config: Any
    parameters: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.parameters[name]


def methods(adapters: Adapters, index: int) -> list[Method]:
    """Those in use at a layer of the decoder, in order."""
    parts = [part for name in adapters.names if name in adapters.active for part in adapters[name]]
    return [
        Method(part.config, {k: v.detach().double().requires_grad_() for k, v in layer.named_parameters()})
        for part in parts
        if (layer := part.at(index)) is not None
    ]


def targets(model: nn.Module) -> list[tuple[int, nn.Module]]:
    """Self-attention of the text decoder, with the number of its layer."""
    named = [(_SELF_ATTENTION.fullmatch(name), module) for name, module in model.named_modules()]
    return [(int(match[3]), module) for match, module in named if match]


def attention(
    methods: Sequence[Method], query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scaling: float
) -> Tensor:
    """(B, T, H, dv), from queries (B, H, T, dh), keys and values (B, Hkv, Tk, .), and ``visible`` (..., T, Tk)."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))

    def scores(keys: Tensor) -> Tensor:
        S = scaling * query @ keys.mT
        for m in methods:
            if isinstance(m.config, HyperICLConfig) and m.config.correct == "scores":
                A, B = query @ m["query_factor"], keys @ m["key_factor"]
                S = S + _gate(m, query) * (A @ B.mT) / m.config.rank**0.5
        return S

    visible_scores = scores(key).masked_fill(~visible, -torch.inf)
    prefixes = [m for m in methods if isinstance(m.config, HiFICLConfig)]

    def softmax_with(chosen: Sequence[Method]) -> tuple[list[Tensor], Tensor]:
        """What each prefix adds to the output, and what the keys themselves do."""
        virtual = [scores(_product(m, "key").expand(len(query), -1, -1, -1)) for m in chosen]
        all_scores = torch.cat([*virtual, visible_scores], -1)
        P = torch.exp(all_scores - all_scores.amax(-1, keepdim=True))
        P = P / P.sum(-1, keepdim=True)
        *shares, own = P.split([*(v.shape[-1] for v in virtual), key.shape[2]], -1)
        return [share @ _product(m, "value") for share, m in zip(shares, chosen)], own @ value

    shared = [m for m in prefixes if m.config.mass == "shared" and m.config.start == "paper"]
    of_prefixes, of_keys = softmax_with(shared)
    out = sum(of_prefixes, of_keys)
    for m in prefixes:
        if m.config.mass == "added":
            out = out + softmax_with([m])[0][0]
        elif m.config.start == "identity":
            of_prefixes, of_keys = softmax_with([*shared, m])
            g = m["gate"][:, None, None]
            out = (1 - g) * out + g * sum(of_prefixes, of_keys)
    for m in methods:
        if isinstance(m.config, MimICConfig):
            log_z1 = m["bias"][:, None]
            if m.config.mass == "query":
                log_z2 = torch.log(torch.exp(visible_scores).sum(-1))
                log_z1 = torch.einsum("bhtd,hd->bht", query, m["weight"]) + log_z1
                mu = torch.exp(log_z1) / (torch.exp(log_z1) + torch.exp(log_z2))
            else:
                mu = 1 / (1 + torch.exp(-log_z1))
            out = out + mu[..., None] * m["direction"][:, None]
        elif isinstance(m.config, HyperICLConfig) and m.config.correct == "output":
            low = out @ m["query_factor"] @ m["key_factor"].mT
            out = out + _gate(m, query) * low / m.config.rank**0.5
    return out.transpose(1, 2)


def _gate(m: Method, query: Tensor) -> Tensor:
    logit = m["gate_bias"][:, None, None]
    if m.config.gate == "token":
        centred = query - query.mean(-1, keepdim=True)
        direction = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        logit = logit + torch.einsum("bhtd,hd->bht", direction, m["gate_weight"])[..., None]
    return 1 / (1 + torch.exp(-logit))


def _product(m: Method, which: str) -> Tensor:
    if m.config.factorise in ("both", which + "s"):
        return m[which + ".left"] @ m[which + ".right"]
    return m[which + ".right"]


def visible(mask: Tensor | None, queries: int, keys: int, causal: bool) -> Tensor:
    """Which keys a query sees, from a mask of eager or sdpa attention: (..., T, Tk).

    None is all, or for ``causal`` the triangle that starts at the first key.
    """
    if mask is None:
        everything = torch.ones(queries, keys, dtype=torch.bool)
        return everything.tril() if causal and queries > 1 else everything
    return mask[..., :keys] if mask.dtype == torch.bool else mask[..., :keys] == 0


def install(model: PreTrainedModel, adapters: Adapters) -> dict[int, list[Method]]:
    """Has the text decoder of ``model``, a stock one, compute attention here, under a copy of these adapters."""
    numbered = {i: methods(adapters, i) for i, _ in targets(model)}
    layers = {module: numbered[i] for i, module in targets(model)}

    def forward(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        mask = visible(mask, query.shape[2], key.shape[2], causal=False)
        # Padding sees nothing, and nobody sees what it gets.
        mask = mask | ~mask.any(-1, keepdim=True)
        q, k, v = (x.double() for x in (query, key, value))
        return attention(layers.get(module, []), q, k, v, mask, scaling).to(query.dtype), None

    AttentionInterface.register(_NAME, forward)
    AttentionMaskInterface.register(_NAME, eager_mask)
    model.get_decoder().set_attn_implementation({"": _NAME})
    return numbered


class Call(NamedTuple):
    """Of an attention module, as its layer made it."""

    layer: int
    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    kwargs: dict[str, Any]

    @property
    def kind(self) -> tuple[Any, ...]:
        mask = None if self.mask is None else (self.mask.dtype, self.mask.flatten(2).all(-1).any().item())
        window = getattr(self.module, "sliding_window", None)
        return window, self.query.shape[2] > 1, self.key.shape[2] > self.query.shape[2], mask

    @property
    def visible(self) -> Tensor:
        module: Any = self.module
        causal = module.is_causal and module.config._attn_implementation in ("sdpa", "icl_s")
        return visible(self.mask, self.query.shape[2], self.key.shape[2], causal)
