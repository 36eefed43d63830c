"""Attention of the text decoder with room for adapters: one function and one mask function, known to transformers.

Four things can be done to softmax(s q k' + mask) v, and every method is made of them (docs/adapters.md):

- the query is transformed,
- virtual keys and values stand before the others, visible to all queries, without a place in the cache,
- a bias is added to the scores, as further columns of queries and keys,
- the output is shifted, with the mass that a further score would take.

Where no adapter is in use, the call goes to the function that transformers would have called, with the same arguments.
All four work on what that function takes, so eager, sdpa, flash and flex attention run underneath.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from icl.attention import internals
from icl.attention.scores import AttentionFunction, AttentionScores, Prefix

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


class AttentionPrimitives:
    """The changes that a layer of an adapter may make to attention: none, until it overrides one of these."""

    def transform_query(self, query: Tensor, scaling: float) -> Tensor:
        """Return the query (B, H, T, dh), changed; float32 or as it is."""
        return query

    def prefix(self) -> Prefix | None:
        """Return virtual keys and values, which stand before the others."""
        return None

    def score_bias(self, query: Tensor, keys: int) -> tuple[Tensor, Tensor] | None:
        """Return factors (B, H, T, m) and (B, 1, keys, m) of what is added to the scores, after scaling."""
        return None

    def shift(self, query: Tensor, output: Tensor, mass: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the output (B, T, H, dv), changed.

        ``mass`` takes log-scores (B, H, T) of a further key to the share of the softmax that it would take.
        """
        return output


class AttentionSite(Protocol):
    """Stands on an attention module, and knows which layers of which adapters are in use."""

    @property
    def model(self) -> nn.Module:
        """The model that errors name."""

    def uses(self, query: Tensor, key: Tensor) -> Sequence[tuple[AttentionPrimitives, Tensor | None]]:
        """Return the layers in use, each with the rows (B,) of its requests, or ``None`` for all.

        Raises ``IncompatibleModelError`` if query and key are not what attention of this layer gets.
        """

    def observe(self, scores: AttentionScores, output: Tensor) -> None:
        """See the inputs of the softmax, and what came out of it, (B, T, H, dv)."""


def put_site(module: nn.Module, site: AttentionSite | None) -> None:
    """Make room for adapters on an attention module, or with ``None`` take it away.

    Not a submodule: the model's own parameters stay what they are.
    """
    module.__dict__[_SITE] = site
    if site is None:
        del module.__dict__[_SITE]


def site_of(module: nn.Module) -> AttentionSite | None:
    """Return the site on an attention module, if there is one."""
    return module.__dict__.get(_SITE)


def base_of(name: str) -> str:
    """Return the implementation underneath a name. ``ValueError`` for one that has no mask function we know of."""
    for base, ours in ATTENTION_NAMES.items():
        if name in (base, ours):
            return base
    raise ValueError(f"attention: adapters run on {', '.join(ATTENTION_NAMES)}, and this model is set to {name!r}")


def _attention(
    name: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    function: AttentionFunction = internals.stock_attention(name, module)
    # Only flash asks which of its kinds it is.
    view: Any = internals.with_attention(module, name) if "flash" in name else module
    site = site_of(module)
    if site is None:
        return function(view, query, key, value, attention_mask, **kwargs)
    uses = site.uses(query, key)
    scaling = kwargs[internals.SCALING] = internals.scaling_of(module, query, kwargs, site.model)
    original = query
    for layer, rows in uses:
        query = _change_rows(query, layer.transform_query(query, scaling), rows)
    scores = AttentionScores(name, function, view, query, key, value, attention_mask, kwargs)
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
    output, weights = _attend_with_prefixes(scores, prefixes)
    shape = (len(query), query.shape[2], query.shape[1], value.shape[-1])
    if not isinstance(output, Tensor) or output.shape != shape:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise internals.incompatible(site.model, f"attention puts out {got} where (B, T, H, dv) = {shape} belongs")
    for layer, rows in uses:
        output = _change_rows(output, layer.shift(original, output, scores.mass), rows)
    site.observe(scores, output)
    return output, weights


def _change_rows(old: Tensor, new: Tensor, rows: Tensor | None) -> Tensor:
    """Return ``new``, in the type of ``old``, at these rows (B,), and ``old`` at all others."""
    if new is old:
        return old
    new = new.to(old.dtype)
    return new if rows is None else torch.where(rows[:, None, None, None], new, old)


def _attend_with_prefixes(
    scores: AttentionScores, prefixes: list[tuple[Prefix, Tensor | None]]
) -> tuple[Tensor, Tensor | None]:
    """Attend with all virtual keys in one softmax, as one prompt in front of them would do it."""
    joint = [(p, rows) for p, rows in prefixes if p.gate is None and not p.added]
    output, weights = scores.attend(joint)
    for p, rows in prefixes:
        if p.added:
            mine = replace(scores, value=torch.zeros_like(scores.value)).attend([(p, rows)])[0]
            output = output + (mine if rows is None else mine * rows[:, None, None, None])
        elif p.gate is not None:
            mine = scores.attend([*joint, (p, rows)])[0]
            output = output + p.gate[:, None].to(output.dtype) * (mine - output)
    return output, weights


for _base, _ours in ATTENTION_NAMES.items():
    internals.register_attention(_ours, partial(_attention, _base), _base)
