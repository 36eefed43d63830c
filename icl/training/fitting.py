"""Methods without training, fitted to examples: prompts of teacher and student, and answers to choose by."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from icl.adapters import Adapters, fit
from icl.data import Example, Examples
from icl.prompts import IGNORED, Collator

_BATCH = 16


def fit_examples(adapters: Adapters, collator: Collator, train: Examples, dev: Examples | None = None) -> None:
    """Set the vectors of the adapter "default" (:func:`icl.adapters.fit`).

    Layers and heads that are chosen by answers are chosen by ``dev``, or by ``train`` if there is none. For a function
    vector the demonstrations of these get each other's answers.
    """
    device = adapters.model.device
    teacher, student = [], []
    for batch in _batches([train[i] for i in range(len(train))]):
        inputs = collator([dataclasses.replace(example, answer=None) for example in batch])
        teacher.append(_without_labels(inputs["teacher"], device))
        student.append(_without_labels(inputs["student"], device))
    examples = train if dev is None else dev
    corrupt = any(part.config.method == "function_vector" for part in adapters["default"])
    answered: list[tuple[Any, Tensor]] = []
    for batch in _batches([example for i in range(len(examples)) if (example := examples[i]).answer is not None]):
        labels = collator(batch)["student"]["labels"]
        first = labels.gather(1, (labels != IGNORED).int().argmax(1, keepdim=True))[:, 0]
        inputs = collator([dataclasses.replace(shuffle_answers(e) if corrupt else e, answer=None) for e in batch])
        answered.append((_without_labels(inputs["teacher" if corrupt else "student"], device), first))
    fit(adapters, teacher=teacher, student=student, dev=answered)


def _batches(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    return (examples[start : start + _BATCH] for start in range(0, len(examples), _BATCH))


def _without_labels(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a prompt's inputs on a device. They are padded after their end, where no token sees it."""
    return {name: value.to(device) for name, value in inputs.items() if name != "labels"}


def shuffle_answers(example: Example) -> Example:
    """Return an example, each demonstration with the answer of the next: the task cannot be read off them."""
    places = [i for i, message in enumerate(example.teacher) if message["role"] == "assistant"]
    teacher = list(example.teacher)
    for place, other in zip(places, [*places[1:], *places[:1]]):
        teacher[place] = example.teacher[other]
    return dataclasses.replace(example, teacher=teacher)
