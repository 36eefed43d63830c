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
"""The dictionary that :class:`icl.prompts.Collator` makes."""
_OF_TEACHER = ("teacher", "teacher_positions", "digest")


class CollatedExamples(Dataset[CollatedBatch]):
    """Examples as ``collator`` makes them, each a batch of its own, held in memory from its first use on.

    Several trainers can share one.

    Raises:
        ValueError: the examples change with the epoch, as those with random demonstrations do.
    """

    def __init__(self, examples: Any, collator: Collator):
        if hasattr(examples, "set_epoch"):
            raise ValueError("CollatedExamples: examples must stay the same, and these change with the epoch")
        self.examples, self.collator = examples, collator
        self._batches: dict[int, CollatedBatch] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> CollatedBatch:
        if index not in self._batches:
            self._batches[index] = self.collator([self.examples[index]])
        return self._batches[index]


class BatchMerger:
    """Merge the batches of :class:`CollatedExamples` into what ``collator`` makes of all their examples at once.

    Examples that are not collated yet are, and what ``collator`` does not make of the teacher's prompts is left out.

    >>> from icl import testbed
    >>> rows, (_, processor) = testbed.load_task("options")["test"], testbed.load()
    >>> collator, examples = Collator(processor), [Example.from_task(row) for row in rows.select(range(3))]
    >>> merged, at_once = BatchMerger(collator)(list(CollatedExamples(examples, collator))), collator(examples)
    >>> all(torch.equal(value, merged["teacher"][name]) for name, value in at_once["teacher"].items())
    True
    """

    def __init__(self, collator: Collator):
        self.collator = collator

    def __call__(self, items: Sequence[Example | CollatedBatch]) -> CollatedBatch:
        """Return the batch of all items."""
        batches = [self.collator([item]) if isinstance(item, Example) else item for item in items]
        names = [name for name in batches[0] if self.collator.teacher or name not in _OF_TEACHER]
        return {name: self._merge([batch[name] for batch in batches], name) for name in names}

    def _merge(self, values: Sequence[Any], name: str) -> Any:
        if isinstance(values[0], Mapping):
            return {key: self._merge([value[key] for value in values], key) for key in values[0]}
        if isinstance(values[0], Tensor):
            fill = {"input_ids": self.collator.tokenizer.pad_token_id, "labels": IGNORED}.get(name, 0)
            return _concatenate(values, fill)
        return [item for value in values for item in value]


def _concatenate(tensors: Sequence[Tensor], fill: int) -> Tensor:
    """Concatenate tensors, padded behind to the longest: tokens, images of a row, or images and patches in a row.

    Processors do no more to a batch than this, whatever the first axis is.
    """
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors))]
    padded = []
    for tensor in tensors:
        missing = [size - own for size, own in zip(shape, tensor.shape[1:])]
        # pad takes the last axis first, and of each how much is added before and behind
        widths = [width for size in reversed(missing) for width in (0, size)]
        padded.append(pad(tensor, widths, value=fill) if any(missing) else tensor)
    return torch.cat(padded)
