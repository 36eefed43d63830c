"""A pass through the decoder: which adapters act in it, where it stands in the prompt, and whether all of it happened.

What a ``with`` block chooses holds for the thread or task that it stands in, so that requests can be served side by
side (:class:`ScopedValues`). A pass reads it once, when it starts. Layers look at their thread's pass
(:class:`PassTracker`); those that a backward pass computes again, in a thread of autograd's own, look at the last one
that started anywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from icl.adapters.activations import ActivationRecord
    from icl.adapters.base import AdapterLayer

AdapterNames = tuple[str, ...]
HookPoint = tuple[str, int]
"""What has to be reached in every pass: ("layer", index), ("attention", index), or a method's own."""

_VALUES: ContextVar[Mapping[tuple[int, str], Any]] = ContextVar("icl_adapters", default={})  # noqa: B039
_NUMBERS = count()


class ScopedValues:
    """Values of one model's adapters that hold inside ``with`` blocks, for this thread or task alone."""

    def __init__(self) -> None:
        self._number = next(_NUMBERS)
        # Of each block that is open in any thread and that a pass elsewhere may have been meant for, the value's name
        # and who opened it.
        self._open: list[tuple[str, str]] = []

    def __deepcopy__(self, memo: Any) -> ScopedValues:
        return ScopedValues()

    def __reduce__(self) -> Any:
        return ScopedValues, ()

    def get(self, name: str, default: Any = None) -> Any:
        return _VALUES.get().get((self._number, name), default)

    def has(self, name: str) -> bool:
        return (self._number, name) in _VALUES.get()

    def assign(self, name: str, value: Any) -> None:
        """Change a value until the block that set it ends."""
        _VALUES.set({**_VALUES.get(), (self._number, name): value})

    def _restore(self, name: str, had: bool, before: Any) -> None:
        if had:
            self.assign(name, before)
        else:
            _VALUES.set({key: value for key, value in _VALUES.get().items() if key != (self._number, name)})

    @contextmanager
    def setting(self, name: str, value: Any, by: str | None = None) -> Iterator[None]:
        """``value`` inside the block. ``by`` is the method that :meth:`check` asks other threads to call as well."""
        had, before, depth = self.has(name), self.get(name), f"depth of {name}"
        outside = self.get(depth, 0)
        self.assign(name, value)
        self.assign(depth, outside + 1)
        if by is not None:
            self._open.append((name, by))
        try:
            yield
        finally:
            if by is not None:
                self._open.remove((name, by))
            inside = self.get(depth, 0)
            if inside > outside:  # else a block around this one has ended, and put back what was before
                self._restore(name, had, before)
                self._restore(depth, outside > 0, outside)
            if by is not None and inside != outside + 1:
                raise RuntimeError(
                    f"adapters: a block of `{by}` ended before another one that began inside of it, and what ran in "
                    "between had the wrong choice: generators must not yield inside of such blocks"
                )

    def check(self) -> None:
        """``RuntimeError`` where a block is open in another thread or task, and none in this one.

        Whoever starts ``generate`` in a thread of its own, to stream from it, expects the choice made around it.
        """
        elsewhere = list(self._open)
        if elsewhere and not any(self.has(name) for name, _ in elsewhere):
            raise RuntimeError(
                f"adapters: `{elsewhere[0][1]}` holds in the thread or task that called it, which is another one: call "
                "it in the one that runs the model, around that call"
            )


@dataclass(eq=False)
class PromptLayout:
    """Where the prompts of a batch end, in places that count what is in the cache: known to ``generate``."""

    length: int
    ends: Tensor | None = None
    """(B,), of prompts that are padded on the right; ``None`` where all end in their last place."""
    padding: Tensor | None = None
    """(B,), tokens of padding on the left; ``None`` for none."""
    masked: bool = False
    """Whether ends and padding are known; else the masks of passes tell them."""
    counts_padding: bool | None = None
    """Whether the positions that a single row came with count its padding, once its first pass has shown."""

    @staticmethod
    def from_mask(length: int, mask: Tensor | None) -> PromptLayout:
        """``mask`` (B, length or more) says which tokens are there; of fewer it tells the padding alone."""
        if not isinstance(mask, Tensor) or mask.ndim != 2 or not length:
            return PromptLayout(length)
        if mask.shape[1] < length:
            padding = left_padding(mask)
            return PromptLayout(length, None, padding if bool(padding.any()) else None, masked=True)
        mask = mask[:, :length]
        ends = last_places(mask)
        padding = left_padding(mask)
        all_end = bool((ends == length - 1).all())
        return PromptLayout(length, None if all_end else ends, padding if bool(padding.any()) else None, masked=True)


@dataclass(eq=False)
class ForwardPass:
    """One pass, as the layers of adapters see it."""

    requests: Sequence[AdapterNames] = ((),)
    plan: Sequence[Sequence[tuple[AdapterLayer, str]]] = ()
    """By layer of the decoder, the layers of adapters that act there, each with the name that it was loaded by."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What methods were told for these prompts."""
    record: ActivationRecord | None = None
    batch: int = 0
    """Rows of this pass."""
    past: int = 0
    """Tokens in the cache before this pass."""
    end: Tensor | None = None
    """(B,): the place in this pass of the last token of the prompt, the one that the first token of the answer is read
    from. Outside the pass where it does not reach it; ``None`` if no prompt does."""
    unplaced: str | None = None
    """Why it is not known where the prompt ends."""
    cached: bool = False
    """Whether a cache came with the call."""
    length: int = 0
    """Tokens of the prompt, those in the cache included; 0 where it does not end in this pass."""
    acted: bool = False
    """Whether something was changed at the end of the prompt alone."""
    reached: set[HookPoint] = field(default_factory=set)
    _rows: dict[tuple[str, int, torch.device], Tensor] = field(default_factory=dict)

    def uses(self, index: int, batch: int, device: torch.device) -> list[tuple[AdapterLayer, Tensor | None]]:
        """The layers of adapters at a layer of the decoder, each with the rows (batch,) of its requests, or all."""
        return [(layer, self.rows(name, batch, device)) for layer, name in self.plan[index]] if self.plan else []

    def rows(self, name: str, batch: int, device: torch.device) -> Tensor | None:
        if all(name in request for request in self.requests):
            return None
        key = (name, batch, device)
        if key not in self._rows:
            if batch % len(self.requests):
                raise ValueError(f"use: rows has {len(self.requests)} choices for a batch of {batch}")
            chosen = torch.tensor([name in request for request in self.requests], device=device)
            self._rows[key] = chosen.repeat_interleave(batch // len(self.requests))
        return self._rows[key]

    def place(
        self, batch: int, tokens: int, prompt: PromptLayout | None, told: Mapping[str, Tensor], ended: Any
    ) -> None:
        """Find :attr:`end` in a pass of (batch, tokens), on the device of the tokens.

        Args:
            prompt: of ``generate``.
            told: labels and mask of the call, as far as it has some of two dimensions, and a tensor on the device.
            ended: the length of the prompt that is known to have ended in the cache, or ``None``.
        """
        device = told["tokens"].device
        if prompt is not None:
            self._place_in(prompt, batch, tokens, ended, device)
            return
        mask = told.get("mask")
        whole = torch.full((batch,), tokens - 1, device=device)
        last = last_places(mask) if mask is not None and mask.shape[1] == tokens else whole
        if "labels" in told and bool((answered := told["labels"] != -100).any()):
            # rows without an answer are prompts
            self.end = torch.where(answered.any(1), answered.int().argmax(1) - 1, last)
            self.length = self.past + tokens
            if bool((self.end < 0).any()):
                self.unplaced = "labels begin with the first token, and leave none to the prompt"
        elif self.past == 0:
            self.length, self.end = tokens, last
        elif tokens > 1:
            self.unplaced = f"{tokens} tokens follow {self.past} in the cache, and may belong to prompt or answer"
        elif ended is None:
            self.unplaced = "the cache was filled in a pass that these adapters had no part in"

    def _place_in(self, prompt: PromptLayout, batch: int, tokens: int, ended: Any, device: torch.device) -> None:
        if ended is not None and ended != prompt.length:
            self.unplaced = f"the first {ended} tokens in the cache were read as a prompt of their own"
        elif ended is None and self.past >= prompt.length:
            self.unplaced = "all of the prompt was in the cache before"
        elif ended is None and self.past + tokens >= prompt.length:
            # With prompts padded on the right, an earlier pass may have reached the end of some.
            self.length = prompt.length
        reaches = self.past < prompt.length <= self.past + tokens
        if prompt.ends is not None:
            repeats, rest = divmod(batch, len(prompt.ends))
            if rest:
                self.unplaced = f"masks of {len(prompt.ends)} prompts do not tell where {batch} end"
                return
            self.end = prompt.ends.to(device).repeat_interleave(repeats) - self.past
        elif reaches:
            self.end = torch.full((batch,), prompt.length - 1 - self.past, device=device)


def last_places(mask: Tensor) -> Tensor:
    """(B,): the last place of a mask (B, T) that is set."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return (mask.bool() * places).argmax(1)


def left_padding(mask: Tensor) -> Tensor:
    """(B,): the zeros that a mask (B, T) starts with."""
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
        self.current = self.last[0] = started

    @property
    def now(self) -> ForwardPass:
        return self.last[0] if self.current is None else self.current

    def forget(self, record: ActivationRecord) -> None:
        """Record nothing more, and hold on to nothing that was."""
        for each in (self.current, self.last[0]):
            if each is not None and each.record is record:
                each.record = None
