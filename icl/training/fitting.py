"""Methods without training, from examples: prompts of teacher and student, and answers to choose layers or heads by."""

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

    Those that are chosen by answers are chosen by ``dev``, or by ``train`` if there is none. For a function vector its
    demonstrations get each other's answers.
    """
    # prompts of the collator are padded after their end, where no token sees it
    device = adapters.model.device
    rows = [train[i] for i in range(len(train))]
    teacher, student = [], []
    for batch in _batches(rows):
        inputs = collator([dataclasses.replace(example, answer=None) for example in batch])
        teacher.append(_prompts(inputs["teacher"], device))
        student.append(_prompts(inputs["student"], device))
    asked = train if dev is None else dev
    answered: list[tuple[Any, Tensor]] = []
    corrupt = any(part.config.method == "function_vector" for part in adapters["default"])
    for batch in _batches([example for i in range(len(asked)) if (example := asked[i]).answer is not None]):
        prompts = [dataclasses.replace(shuffle_answers(e) if corrupt else e, answer=None) for e in batch]
        labels = collator(batch)["student"]["labels"]
        first = labels.gather(1, (labels != IGNORED).int().argmax(1, keepdim=True))[:, 0]
        answered.append((_prompts(collator(prompts)["teacher" if corrupt else "student"], device), first))
    fit(adapters, teacher=teacher, student=student, dev=answered)


def _batches(rows: Sequence[Example]) -> Iterator[Sequence[Example]]:
    return (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))


def _prompts(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) for name, value in inputs.items() if name != "labels"}


def shuffle_answers(example: Example) -> Example:
    """Each demonstration with the answer of the next: the task cannot be read off them."""
    places = [i for i, message in enumerate(example.teacher) if message["role"] == "assistant"]
    teacher = list(example.teacher)
    for place, other in zip(places, [*places[1:], *places[:1]]):
        teacher[place] = example.teacher[other]
    return dataclasses.replace(example, teacher=teacher)
