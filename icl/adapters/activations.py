"""What the layers of a decoder put out in a pass."""

from __future__ import annotations

import torch
from torch import Tensor

from icl.attention import AttentionScores


class ActivationRecord:
    """Filled by each pass inside ``with adapters.record(...) as seen``; the last one stays. All by layer.

    Attributes:
        hidden: outputs of the decoder layers (B, T, D), after any change an adapter makes to them; (B, S, D) if they
            were asked for at places (B, S).
        heads: outputs of the attention heads (B, T, H, dh), before they are projected and summed.
        attention: for the queries at the places (B, S) that were asked for, the softmax over all keys that are no
            virtual ones (B, H, S, Tk), float32.
    """

    def __init__(self, hidden: bool | Tensor, heads: bool, attention: Tensor | None):
        self._hidden, self._heads, self._places = hidden, heads, attention
        self.hidden: dict[int, Tensor] = {}
        self.heads: dict[int, Tensor] = {}
        self.attention: dict[int, Tensor] = {}

    def hidden_of(self, index: int, hidden: Tensor) -> None:
        if isinstance(self._hidden, Tensor):
            # taken here, so that no more of a long prompt is kept
            self.hidden[index] = hidden.take_along_dim(self._hidden[..., None].to(hidden.device), 1)
        elif self._hidden:
            self.hidden[index] = hidden

    def attention_of(self, index: int, scores: AttentionScores, output: Tensor) -> None:
        if self._heads:
            self.heads[index] = output
        if self._places is not None:
            rows = torch.arange(len(self._places), device=self._places.device)[:, None]
            self.attention[index] = scores.probabilities().transpose(1, 2)[rows, self._places].transpose(1, 2)
