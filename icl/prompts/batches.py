"""Batches put together from examples that were collated one by one, once: for small data and many epochs.

On a small model the processor takes longer than the model, and makes the same of an example in every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from icl.data import Example
from icl.prompts.collator import IGNORED, Collator

CollatedBatch = dict[str, Any]
_OF_TEACHER = ("teacher", "teacher_positions", "digest")


class CollatedExamples(Dataset[CollatedBatch]):
    """Examples as ``collator`` makes them, each a batch of its own, held in memory once made.

    Several trainers can share one. ``ValueError`` for examples that change with the epoch, as those with random
    demonstrations do.
    """

    def __init__(self, examples: Any, collator: Collator):
        if hasattr(examples, "set_epoch"):
            raise ValueError("CollatedExamples: examples must stay the same, and these change with the epoch")
        self.examples, self.collator = examples, collator
        self._made: dict[int, CollatedBatch] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> CollatedBatch:
        if index not in self._made:
            self._made[index] = self.collator([self.examples[index]])
        return self._made[index]


class BatchMerger:
    """What ``collator`` would have made of all examples at once, from those of :class:`CollatedExamples`.

    Examples that are not collated yet are, and what it would not have made of the teacher's prompts is left out.

    >>> from icl import testbed
    >>> rows, (_, processor) = testbed.load_task("options")["test"], testbed.load()
    >>> collator, examples = Collator(processor), [Example.from_task(row) for row in rows.select(range(3))]
    >>> merged, wanted = BatchMerger(collator)(list(CollatedExamples(examples, collator))), collator(examples)
    >>> all(torch.equal(value, merged["teacher"][name]) for name, value in wanted["teacher"].items())
    True
    """

    def __init__(self, collator: Collator):
        self.collator = collator

    def __call__(self, items: Sequence[Example | CollatedBatch]) -> CollatedBatch:
        parts = [self.collator([item]) if isinstance(item, Example) else item for item in items]
        names = [name for name in parts[0] if self.collator.teacher or name not in _OF_TEACHER]
        return {name: self._merged([part[name] for part in parts], name) for name in names}

    def _merged(self, parts: Sequence[Any], name: str) -> Any:
        if isinstance(parts[0], Mapping):
            return {key: self._merged([part[key] for part in parts], key) for key in parts[0]}
        if isinstance(parts[0], Tensor):
            fill = {"input_ids": self.collator.tokenizer.pad_token_id, "labels": IGNORED}.get(name, 0)
            return _rows(parts, fill)
        return [value for part in parts for value in part]


def _rows(parts: Sequence[Tensor], fill: int) -> Tensor:
    """One after the other, filled up behind to the longest: tokens, images of a row, and images and patches in a row.

    Processors do no more to a batch than this, whatever the first axis is.
    """
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) == 1:
        return torch.cat(list(parts))
    shape = [max(sizes) for sizes in zip(*shapes)]
    missing = ([(0, size - own) for size, own in zip(shape, part.shape[1:])] for part in parts)
    widths = [[width for both in reversed(each) for width in both] for each in missing]
    return torch.cat([pad(part, by, value=fill) if any(by) else part for part, by in zip(parts, widths)])
