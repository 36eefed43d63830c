"""A record of what the layers of a decoder put out in a pass."""

from __future__ import annotations

import torch
from torch import Tensor

from icl.attention import AttentionScores


class ActivationRecord:
    """Filled by each pass inside ``with adapters.record(...) as record``; the last one stays. All by layer.

    Attributes:
        hidden: outputs of the decoder layers (B, T, D), after any change an adapter makes to them; (B, S, D) if they
            were asked for at positions (B, S).
        heads: outputs of the attention heads (B, T, H, dh), before they are projected and summed.
        attention: for the queries at the positions (B, S) that were asked for, the softmax over all keys that are no
            virtual ones (B, H, S, Tk), float32.
    """

    def __init__(self, hidden: bool | Tensor, heads: bool, attention: Tensor | None):
        self._hidden, self._heads, self._positions = hidden, heads, attention
        self.hidden: dict[int, Tensor] = {}
        self.heads: dict[int, Tensor] = {}
        self.attention: dict[int, Tensor] = {}

    def add_hidden(self, index: int, hidden: Tensor) -> None:
        """Record the output of a decoder layer, as far as it was asked for."""
        if isinstance(self._hidden, Tensor):
            # Taken here, so that no more of a long prompt is held in memory.
            self.hidden[index] = hidden.take_along_dim(self._hidden[..., None].to(hidden.device), 1)
        elif self._hidden:
            self.hidden[index] = hidden

    def add_attention(self, index: int, scores: AttentionScores, output: Tensor) -> None:
        """Record what the attention of a layer computes, as far as it was asked for."""
        if self._heads:
            self.heads[index] = output
        if self._positions is not None:
            rows = torch.arange(len(self._positions), device=self._positions.device)[:, None]
            self.attention[index] = scores.probabilities().transpose(1, 2)[rows, self._positions].transpose(1, 2)
