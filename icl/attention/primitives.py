"""Attention of the text decoder with room for adapters: one function and one mask function, known to transformers.

Four things can be done to softmax(s q k' + mask) v, and every method is made of them (METHODS in docs/adapters.md):

- the query is transformed,
- virtual keys and values stand before the others, visible to all queries, without a place in the cache,
- a bias is added to the scores, as further columns of queries and keys,
- the output is shifted, with the mass that a further score would take.

Where no adapter is in use, the call goes to the function that transformers would have called, with the same arguments.
All four work on what that function takes, so eager, sdpa, flash and flex attention run underneath.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from icl.attention import internals
from icl.attention.scores import AttentionFunction, AttentionScores, ModuleView, Prefix

# transformers looks for the names of its own functions inside ours, so ours hold none of them.
ATTENTION_NAMES = {
    "eager": "icl_e",
    "sdpa": "icl_s",
    "flash_attention_2": "icl_f2",
    "flash_attention_3": "icl_f3",
    "flash_attention_4": "icl_f4",
    "flex_attention": "icl_x",
}
_SITE = "_icl_site"


class AttentionPrimitives(Protocol):
    """What a layer of an adapter may do to attention. ``rows`` (B,) says for which requests, ``None`` for all."""

    def transform_query(self, query: Tensor, scaling: float) -> Tensor:
        """(B, H, T, dh) to the same, float32."""

    def prefix(self) -> Prefix | None: ...

    def score_bias(self, query: Tensor, keys: int) -> tuple[Tensor, Tensor] | None:
        """Factors (B, H, T, m) and (B, 1, keys, m) of what is added to the scores, after scaling."""

    def shift(self, query: Tensor, output: Tensor, mass: Callable[[Tensor], Tensor]) -> Tensor:
        """The output (B, T, H, dv), shifted. ``mass`` takes log-scores (B, H, T) to their share of the softmax."""


class AttentionSite(Protocol):
    """Stands on an attention module, and knows which layers of which adapters are in use."""

    @property
    def model(self) -> nn.Module:
        """Named in errors."""

    def uses(self, query: Tensor, key: Tensor) -> Sequence[tuple[AttentionPrimitives, Tensor | None]]:
        """Raises ``IncompatibleModelError`` if these are not what attention of this layer gets."""

    def observe(self, scores: AttentionScores, output: Tensor) -> None:
        """Sees what went into the softmax and what came out, (B, T, H, dv)."""


def put_site(module: nn.Module, site: AttentionSite) -> None:
    """Make room for adapters on an attention module. Not a submodule: the model's own parameters stay what they are."""
    module.__dict__[_SITE] = site


def has_site(module: nn.Module) -> bool:
    return _SITE in module.__dict__


def remove_site(module: nn.Module) -> AttentionSite | None:
    """Who had been put there."""
    site: AttentionSite | None = module.__dict__.pop(_SITE, None)
    return site


def base_of(name: str) -> str:
    """What runs underneath an implementation's name. ``ValueError`` for one that has no mask function we know of."""
    for base, ours in ATTENTION_NAMES.items():
        if name in (base, ours):
            return base
    raise ValueError(f"attention: adapters run on {', '.join(ATTENTION_NAMES)}, and this model is set to {name!r}")


def _stock(name: str, module: nn.Module) -> tuple[AttentionFunction, Any]:
    """The function that transformers would have called, and the module as it would have seen it."""
    # Only flash asks which of its kinds it is.
    seen = ModuleView(module, config=internals.ConfigFor(module.config, name)) if "flash" in name else module
    return internals.stock_attention(name, module), seen


def _attention(
    name: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    base, seen = _stock(name, module)
    site: AttentionSite | None = module.__dict__.get(_SITE)
    if site is None:
        return base(seen, query, key, value, attention_mask, **kwargs)
    uses = site.uses(query, key)
    scaling = kwargs[internals.SCALING] = internals.scaling_of(module, query, kwargs, site.model)
    original = query
    for layer, rows in uses:
        query = _chosen(layer.transform_query(query, scaling), query, rows)
    scores = AttentionScores(name, base, seen, query, key, value, attention_mask, kwargs)
    if (wrong := scores.wrong_mask()) is not None:
        raise internals.incompatible(site.model, f"attention gets a mask that is {wrong}")
    prefixes = []
    for layer, rows in uses:
        bias = layer.score_bias(original, key.shape[2])
        if bias is not None:
            left = bias[0] if rows is None else bias[0] * rows[:, None, None, None]
            scores = scores.biased(left / scaling, bias[1])
        prefix = layer.prefix()
        if prefix is not None:
            prefixes.append((prefix, rows))
    output, weights = _with_prefixes(scores, prefixes)
    wanted = (len(query), query.shape[2], query.shape[1], value.shape[-1])
    if not isinstance(output, Tensor) or output.shape != wanted:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise internals.incompatible(site.model, f"attention puts out {got} where (B, T, H, dv) = {wanted} belongs")
    for layer, rows in uses:
        shifted = layer.shift(original, output, scores.mass)
        output = _chosen(shifted, output, rows)
    site.observe(scores, output)
    return output, weights


def _chosen(new: Tensor, old: Tensor, rows: Tensor | None) -> Tensor:
    if new is old:
        return old
    new = new.to(old.dtype)
    return new if rows is None else torch.where(rows[:, None, None, None], new, old)


def _with_prefixes(
    scores: AttentionScores, prefixes: list[tuple[Prefix, Tensor | None]]
) -> tuple[Tensor, Tensor | None]:
    """Attention with all virtual keys in one softmax, as one prompt in front of them would do it."""
    if not prefixes:
        return scores.attend()
    joint = [(p, rows) for p, rows in prefixes if p.gate is None and not p.added]
    output, weights = scores.attend(joint)
    for p, rows in prefixes:
        if p.added:
            mine = scores.replace(value=torch.zeros_like(scores.value)).attend([(p, rows)])[0]
            output = output + (mine if rows is None else mine * rows[:, None, None, None])
        elif p.gate is not None:
            mine = scores.attend([*joint, (p, rows)])[0]
            output = output + p.gate[:, None].to(output.dtype) * (mine - output)
    return output, weights


for _base, _ours in ATTENTION_NAMES.items():
    if _base in internals.attention_bases():  # flash_attention_4 is of later releases
        internals.register_attention(_ours, partial(_attention, _base), _base)
