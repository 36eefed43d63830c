"""One softmax of attention: its scores, its mask, and virtual keys before the others, on whatever computes it.

A single decoded token under eager or sdpa is computed by our own formula, which does not copy the cache; anything else
goes to the function that transformers would have called, with virtual keys concatenated before the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import pad, softmax

from icl.attention import internals

# Flash kernels take widths of whole multiples of it.
_WIDTH = 8

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


@dataclass
class Prefix:
    """``n`` virtual keys (H, n, dh) and values (H, n, dv), a set for each query head, which get no rotation.

    ``gate`` (H,) mixes what attention gives without them (0) and with them (1); ``None`` is 1. With ``added`` their
    part adds to the output and takes nothing from the others'.
    """

    key: Tensor
    value: Tensor
    gate: Tensor | None = None
    added: bool = False


@dataclass
class AttentionScores:
    """The inputs of one softmax, and who computes it: queries (B, H, T, dh), keys, values (B, Hkv, Tk, .), a mask."""

    name: str
    function: AttentionFunction
    module: Any
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Any
    kwargs: dict[str, Any]

    def biased(self, left: Tensor, right: Tensor) -> AttentionScores:
        """Return them with columns that add left right' to q k'."""
        heads = self.key.shape[1]
        width = -left.shape[-1] % _WIDTH
        left = pad(left.to(self.query.dtype), (0, width)).expand(*self.query.shape[:3], -1)
        right = pad(right.to(self.key.dtype), (0, width)).expand(len(self.key), heads, -1, -1)
        return replace(self, query=torch.cat([self.query, left], -1), key=torch.cat([self.key, right], -1))

    def mass(self, log_score: Tensor) -> Tensor:
        """Return exp(log_score) / (exp(log_score) + sum over the visible keys of exp(score)): (B, H, T), float32."""
        if self._explicit:
            return torch.sigmoid(log_score.float() - torch.logsumexp(self._compute(), -1))
        # A key that only the further column sees, with a one where all others' values have zeros.
        heads, log_score = self.query.shape[1], log_score[..., None] / self.kwargs[internals.SCALING]
        augmented = self.biased(log_score, self.key.new_zeros(1, 1, self.key.shape[2], 1))
        key = self.query.new_zeros(heads, 1, augmented.key.shape[-1])
        key[..., self.key.shape[-1]] = 1
        value = torch.zeros_like(self.value)
        further = Prefix(key, value.new_ones(heads, 1, value.shape[-1]))
        share = replace(augmented, value=value).attend([(further, None)])[0]
        return share[..., 0].transpose(1, 2).float()

    def probabilities(self) -> Tensor:
        """Return the softmax of the scores (B, H, T, Tk), float32, without virtual keys.

        ``ValueError`` where the model's attention changes scores by more than a scale and a mask (Gemma 2, gpt-oss).
        """
        if not self._is_plain or ("flash" in self.name and self.kwargs.get("sliding_window") is not None):
            raise ValueError(
                f"record: attention of {type(self.module).__name__} is more than a softmax of scaled and masked scores "
                "(softcap, sinks, a window under flash), and is not recorded"
            )
        return softmax(self._compute(), -1)

    def attend(self, prefixes: Sequence[tuple[Prefix, Tensor | None]] = ()) -> tuple[Tensor, Tensor | None]:
        """Return the output (B, T, H, dv), and the weights of all but virtual keys if the function underneath has them.

        Each prefix comes with the rows (B,) of the requests that see it, or ``None`` for all.
        """
        if not prefixes:
            return self.function(self.module, self.query, self.key, self.value, self.mask, **self.kwargs)
        if self._explicit:
            return self._attend_explicitly(prefixes)
        return self._attend_concatenated(prefixes)

    @property
    def _explicit(self) -> bool:
        """True where scores are few: those of one token, computed as they are, without a copy of the cache."""
        few = self.query.shape[2] == 1 and not self.kwargs.get("dropout")
        return few and self.name in ("eager", "sdpa") and self._is_plain

    @property
    def _is_plain(self) -> bool:
        """True where :meth:`_compute` gives the function's own scores, which may take more into account than we do."""
        return all(self.kwargs.get(name) is None for name in internals.may_change_scores(self.function))

    def wrong_mask(self) -> str | None:
        """Describe a mask that is none of those that transformers gives this implementation; else ``None``."""
        mask = self.mask
        if mask is None:
            return None
        if not isinstance(mask, Tensor):
            return None if self.name == "flex_attention" and hasattr(mask, "mask_mod") else f"a {type(mask).__name__}"
        B, H, T, _ = self.query.shape
        if "flash" in self.name:
            right = mask.ndim == 2 and len(mask) == B
        else:
            right = mask.ndim == 4 and mask.shape[0] in (1, B) and mask.shape[1] in (1, H)
            # eager and sdpa cut a longer one where the cache has room left
            right = right and mask.shape[2] in (1, T) and mask.shape[3] >= self.key.shape[2]
            right = right and (mask.dtype == torch.bool or mask.is_floating_point())
        return None if right else f"{mask.dtype} of shape {tuple(mask.shape)}"

    @property
    def _causal(self) -> bool:
        """True where no mask means a triangle, rather than that all is visible."""
        causal = self.kwargs.get("is_causal")
        causal = getattr(self.module, "is_causal", True) if causal is None else causal
        return bool(causal) and self.query.shape[2] > 1 and self.name not in ("eager", "flex_attention")

    def _compute(self) -> Tensor:
        """Return q k' s (B, H, T, Tk), float32, -inf where a key is not visible."""
        B, H, T, width = self.query.shape
        grouped = self.query.reshape(B, self.key.shape[1], -1, width)
        scaling: float = self.kwargs[internals.SCALING]
        scores = (grouped @ self.key.transpose(-1, -2)).view(B, H, T, -1).float() * scaling
        mask = self._full_mask()
        if mask is None:
            return scores
        if mask.dtype == torch.bool:
            return scores.masked_fill(~mask, -torch.inf)
        return scores + mask

    def _full_mask(self) -> Tensor | None:
        """Return a mask that broadcasts to (B, H, T, Tk); ``None`` if all keys are visible."""
        queries, keys = self.query.shape[2], self.key.shape[2]
        if isinstance(self.mask, Tensor) and self.mask.ndim == 4:
            return self.mask[..., :keys]
        if self.mask is None and not self._causal:
            return None
        # sdpa starts the triangle at the first key, flash ends it at the last.
        offset = keys - queries if "flash" in self.name else 0
        causal = torch.ones(queries, keys, dtype=torch.bool, device=self.query.device).tril(offset)
        if self.mask is None:
            return causal
        if isinstance(self.mask, Tensor):
            return causal & self.mask[:, None, None, -keys:].bool()
        B, H = self.query.shape[:2]
        b, h, q, k = (
            torch.arange(n, device=self.query.device).view([-1 if i == j else 1 for j in range(4)])
            for i, n in enumerate((B, H, queries, keys))
        )
        return cast(Tensor, self.mask.mask_mod(b, h, q, k))

    def _attend_explicitly(self, prefixes: Sequence[tuple[Prefix, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
        B, H, T, _ = self.query.shape
        key, value, rows = _join(prefixes, self.query, self.value)
        virtual = (self.query @ key.transpose(-1, -2)).float() * self.kwargs[internals.SCALING]
        if rows is not None:
            virtual = virtual.masked_fill(~rows[:, None, None], -torch.inf)
        shares = softmax(torch.cat([virtual, self._compute()], -1), -1).to(self.value.dtype)
        ours, others = shares.split([key.shape[1], self.key.shape[2]], -1)
        grouped = others.reshape(B, self.value.shape[1], -1, others.shape[-1])
        output = (grouped @ self.value).view(B, H, T, -1) + ours @ value
        return output.transpose(1, 2).contiguous(), others if self.name == "eager" else None

    def _attend_concatenated(self, prefixes: Sequence[tuple[Prefix, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
        B, H, T, _ = self.query.shape
        virtual_key, virtual_value, rows = _join(prefixes, self.query, self.value)
        flash, mask, query = "flash" in self.name, self.mask, self.query
        triangle = mask is None and rows is None and self._causal
        # Of the cache, whose room for more sdpa cuts off on its own.
        keys = T if triangle and not flash else self.key.shape[2]
        n, groups = virtual_key.shape[1], H // self.key.shape[1]
        key, value = (
            torch.cat([virtual.expand(B, -1, -1, -1), real[:, :, :keys].repeat_interleave(groups, 1)], 2)
            for virtual, real in ((virtual_key, self.key), (virtual_value, self.value))
        )
        if keys == T > 1 and (triangle or flash):
            # As many queries before the others keep the triangle of "causal" a triangle, which needs no mask.
            query = pad(query, (0, 0, n, 0))
        if flash:
            mask = self._flash_mask(mask, rows, n)
        elif self.name == "flex_attention" and not isinstance(mask, Tensor):
            mask = _block_mask(mask, rows, n, B, T, keys + n, query.device)
        elif mask is not None or rows is not None:
            mask = self._wider_mask(rows, n)
        module = internals.AttributeView(self.module, num_key_value_groups=1)
        output, weights = self.function(module, query, key, value, mask, **self.kwargs)
        return output[:, -T:], None if weights is None or weights.ndim < 4 else weights[:, :, -T:, n:]

    def _flash_mask(self, mask: Tensor | None, rows: Tensor | None, n: int) -> Tensor | None:
        window = internals.window_of(self.function, self.kwargs)
        if window is not None and window < self.key.shape[2]:
            raise ValueError(
                f"attention: virtual keys are out of sight in a window of {window} with {self.key.shape[2]} keys under "
                f"{self.name}; use sdpa"
            )
        if mask is None and rows is None:
            return None
        if mask is None:
            mask = torch.ones(len(self.query), self.key.shape[2], dtype=torch.long, device=self.query.device)
        visible = mask.new_ones(len(mask), n) if rows is None else rows.to(mask.dtype)
        return torch.cat([visible, mask], 1)

    def _wider_mask(self, rows: Tensor | None, n: int) -> Tensor:
        T = self.query.shape[2]
        mask = self._full_mask()
        if mask is None:
            mask = torch.ones(1, 1, T, self.key.shape[2], dtype=torch.bool, device=self.query.device)
        mask = mask.view(*[1] * (4 - mask.ndim), *mask.shape)
        visible = torch.ones(1, n, dtype=torch.bool, device=mask.device) if rows is None else rows
        if mask.dtype != torch.bool:
            zero = mask.new_zeros(())
            visible = torch.where(visible, zero, torch.full_like(zero, torch.finfo(mask.dtype).min))
        elif self.name == "eager":
            zero = torch.zeros((), dtype=self.query.dtype, device=mask.device)
            mask, visible = (torch.where(m, zero, -torch.inf) for m in (mask, visible))
        batch = max(len(mask), len(visible))
        visible = visible[:, None, None].expand(batch, mask.shape[1], T, n)
        return torch.cat([visible, mask.expand(batch, -1, -1, -1)], -1)


def _join(
    prefixes: Sequence[tuple[Prefix, Tensor | None]], query: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return keys (H, n, width) and values of all prefixes, and which of them each request sees (B, n)."""
    further = query.shape[-1] - prefixes[0][0].key.shape[-1]
    keys = [(pad(p.key, (0, further)) if further else p.key).to(query.dtype) for p, _ in prefixes]
    values = [p.value.to(value.dtype) for p, _ in prefixes]
    if len(prefixes) == 1 and prefixes[0][1] is None:
        return keys[0], values[0], None
    rows = None
    if any(some is not None for _, some in prefixes):
        all_rows = torch.ones(len(query), dtype=torch.bool, device=query.device)
        each = [(all_rows if some is None else some)[:, None].expand(-1, p.key.shape[1]) for p, some in prefixes]
        rows = torch.cat(each, 1)
    return torch.cat(keys, 1), torch.cat(values, 1), rows


def _block_mask(
    mask: Any, rows: Tensor | None, n: int, batch: int, queries: int, keys: int, device: torch.device
) -> Any:
    """Return the block mask of flex attention, with n keys before the others that all queries see."""

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        virtual = k < n
        allowed = virtual if rows is None else virtual & rows[b, k.clamp(max=n - 1)]
        other = (k - n).clamp(min=0)
        return allowed | (~virtual if mask is None else ~virtual & mask.mask_mod(b, h, q, other))

    return create_block_mask(visible, batch, None, queries, keys, device=device)
