"""A pass through the decoder: which adapters act in it, where it stands in the prompt, and whether all of it happened.

A pass reads what ``with`` blocks have set (:mod:`icl.adapters.scoped_values`) once, when it starts. Layers look at
their thread's pass (:class:`PassTracker`); those that a backward pass computes again, in a thread of autograd's own,
look at the last one that started anywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from icl.adapters.activations import ActivationRecord
    from icl.adapters.base import AdapterLayer

AdapterNames = tuple[str, ...]
HookPoint = tuple[str, int]
"""A place that every pass has to reach: ("layer", index), ("attention", index), or a method's own."""


class PassInputs(NamedTuple):
    """The tokens (B, T) or their embeddings (B, T, D), and what the call has beside them, in two dimensions alone."""

    tokens: Tensor
    labels: Tensor | None
    mask: Tensor | None


@dataclass(eq=False)
class PromptLayout:
    """Where the prompts of a batch end, in positions that count what is in the cache: known to ``generate``."""

    length: int
    ends: Tensor | None = None
    """(B,), of prompts that are padded on the right; ``None`` where all end in their last position."""
    padding: Tensor | None = None
    """(B,), tokens of padding on the left; ``None`` for none."""
    masked: bool = False
    """True where ends and padding are final; else the masks of passes say where they are."""
    counts_padding: bool | None = None
    """True where the positions that a single row came with count its padding; ``None`` before its first pass."""

    @staticmethod
    def from_mask(length: int, mask: Tensor | None) -> PromptLayout:
        """Return the layout by a mask (B, T); one of fewer tokens than ``length`` tells the padding alone."""
        if not isinstance(mask, Tensor) or mask.ndim != 2 or not length:
            return PromptLayout(length)
        mask = mask[:, :length]
        ends, padding = last_positions(mask), left_padding(mask)
        whole = mask.shape[1] < length or bool((ends == length - 1).all())
        return PromptLayout(length, None if whole else ends, padding if bool(padding.any()) else None, masked=True)


@dataclass(eq=False)
class ForwardPass:
    """One pass, as the layers of adapters see it."""

    requests: Sequence[AdapterNames] = ((),)
    plan: Sequence[Sequence[tuple[AdapterLayer, str | None]]] = ()
    """By layer of the decoder, the layers of adapters that act there, each with the name that it was loaded by.

    Without a name it acts for all requests."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Values that methods were given for these prompts, by :attr:`Adapter.key`."""
    record: ActivationRecord | None = None
    batch: int = 0
    """Rows of this pass."""
    past: int = 0
    """Tokens in the cache before this pass."""
    cached: bool = False
    """True if a cache came with the call."""
    end: Tensor | None = None
    """(B,): the position in this pass of the last token of the prompt, the one that the first token of the answer is
    read from. Outside the pass where it does not reach it; ``None`` if no prompt does."""
    unplaced: str | None = None
    """Why it is not known where the prompt ends."""
    length: int = 0
    """Tokens of the prompt, those in the cache included; 0 where it does not end in this pass."""
    acted: bool = False
    """True once something was changed at the end of the prompt alone."""
    reached: set[HookPoint] = field(default_factory=set)
    _rows: dict[tuple[str, int, torch.device], Tensor] = field(default_factory=dict)

    def uses(self, index: int, batch: int, device: torch.device) -> list[tuple[AdapterLayer, Tensor | None]]:
        """Return the layers of adapters at a layer of the decoder, each with the rows (batch,) of its requests."""
        return [(layer, self._rows_of(name, batch, device)) for layer, name in self.plan[index]] if self.plan else []

    def _rows_of(self, name: str | None, batch: int, device: torch.device) -> Tensor | None:
        """Return which rows (batch,) use an adapter, or ``None`` if all do."""
        if name is None or all(name in request for request in self.requests):
            return None
        key = (name, batch, device)
        if key not in self._rows:
            if batch % len(self.requests):
                raise ValueError(f"use: rows has {len(self.requests)} choices for a batch of {batch}")
            uses = torch.tensor([name in request for request in self.requests], device=device)
            self._rows[key] = uses.repeat_interleave(batch // len(self.requests))
        return self._rows[key]

    def locate_end(self, inputs: PassInputs, prompt: PromptLayout | None, cached_prompt: int | None) -> None:
        """Set :attr:`end` and :attr:`length`, or :attr:`unplaced`.

        Args:
            inputs: of this pass.
            prompt: of ``generate``.
            cached_prompt: the length of the prompt that is known to have ended in the cache, or ``None``.
        """
        (batch, tokens), device = inputs.tokens.shape[:2], inputs.tokens.device
        if prompt is not None:
            self._locate_end_of(prompt, batch, tokens, cached_prompt, device)
            return
        last = torch.full((batch,), tokens - 1, device=device)
        if inputs.mask is not None and inputs.mask.shape[1] == tokens:
            last = last_positions(inputs.mask)
        if inputs.labels is not None and bool((answered := inputs.labels != -100).any()):
            # Rows without an answer are prompts.
            self.end = torch.where(answered.any(1), answered.int().argmax(1) - 1, last)
            self.length = self.past + tokens
            if bool((self.end < 0).any()):
                self.unplaced = "labels begin with the first token, and leave none to the prompt"
        elif self.past == 0:
            self.length, self.end = tokens, last
        elif tokens > 1:
            self.unplaced = f"{tokens} tokens follow {self.past} in the cache, and may belong to prompt or answer"
        elif cached_prompt is None:
            self.unplaced = "the cache was filled in a pass that these adapters had no part in"

    def _locate_end_of(
        self, prompt: PromptLayout, batch: int, tokens: int, cached_prompt: int | None, device: torch.device
    ) -> None:
        if cached_prompt is not None and cached_prompt != prompt.length:
            self.unplaced = f"the first {cached_prompt} tokens in the cache were read as a prompt of their own"
        elif cached_prompt is None and self.past >= prompt.length:
            self.unplaced = "all of the prompt was in the cache before"
        elif cached_prompt is None and self.past + tokens >= prompt.length:
            # With prompts padded on the right, an earlier pass may have reached the end of some.
            self.length = prompt.length
        if prompt.ends is not None:
            repeats, rest = divmod(batch, len(prompt.ends))
            if rest:
                self.unplaced = f"masks of {len(prompt.ends)} prompts do not tell where {batch} end"
                return
            self.end = prompt.ends.to(device).repeat_interleave(repeats) - self.past
        elif self.past < prompt.length <= self.past + tokens:
            self.end = torch.full((batch,), prompt.length - 1 - self.past, device=device)


def last_positions(mask: Tensor) -> Tensor:
    """Return the last position of a mask (B, T) that is set, (B,)."""
    return (mask.bool() * torch.arange(mask.shape[1], device=mask.device)).argmax(1)


def left_padding(mask: Tensor) -> Tensor:
    """Return the number of zeros that a mask (B, T) starts with, (B,)."""
    return (mask.bool().cumsum(1) == 0).sum(1)


class PassTracker(threading.local):
    """The pass of each thread, and the last one of any."""

    def __init__(self, last: list[ForwardPass]) -> None:
        # Every thread runs this with the same list.
        self.last = last
        self.current: ForwardPass | None = None
        self.call: Mapping[str, Any] | None = None
        """Arguments of the model, until its decoder starts."""

    def __deepcopy__(self, memo: Any) -> PassTracker:
        return PassTracker([ForwardPass()])

    def __reduce__(self) -> Any:
        return PassTracker, ([ForwardPass()],)

    def start(self, started: ForwardPass) -> None:
        """Make a pass the one of this thread."""
        self.current = self.last[0] = started

    @property
    def now(self) -> ForwardPass:
        """The pass that runs in this thread, or ran last."""
        return self.last[0] if self.current is None else self.current

    def forget(self, record: ActivationRecord) -> None:
        """Record nothing more, and hold on to nothing that was."""
        for each in (self.current, self.last[0]):
            if each is not None and each.record is record:
                each.record = None
