"""The testbed as a named source of models ("testbed", "testbed:base-2") and of data ("testbed:options/dev")."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from icl.common.choices import Strategy
from icl.common.files import digest
from icl.data import Example
from icl.testbed.model import load, weights_folder
from icl.testbed.tasks import SPLITS, TASKS, load_split
from icl.training import Split

_NAME = "testbed"


def load_model(weights: str) -> tuple[Any, Any]:
    """Return the small model with these weights, "base" by default, and its processor."""
    model, processor = load(weights or "base")
    model.config.name_or_path = f"{_NAME}:{weights}" if weights else _NAME
    return model, processor


def model_folder(weights: str) -> Path:
    """Return the folder of these weights."""
    return weights_folder(weights or "base")


def open_split(name: str, split: str) -> TaskSplit:
    """Open a split of a task, which may name it: "options/dev"."""
    task, _, named = name.partition("/")
    return TaskSplit(task, named or split)


class TaskSplit(Split):
    """A split of one of the testbed's tasks, whose rows bring their demonstrations; the seed decides what it hides."""

    def __init__(self, task: str, split: str):
        if task not in TASKS:
            raise ValueError(f"{_NAME}:{task}: the task must be one of {', '.join(TASKS)}")
        if split not in SPLITS:
            raise ValueError(f"{_NAME}:{task}/{split}: the split must be one of {', '.join(SPLITS)}")
        self.task, self.split = task, split
        self._load = cache(lambda seed: [Example.from_task(row) for row in load_split(task, split, seed)])

    def examples(self, shots: int | None, strategy: Strategy = "random", seed: int = 0) -> list[Example]:
        """Return the examples with their last ``shots`` demonstrations. ``ValueError`` if they bring fewer."""
        if strategy != "random":
            raise ValueError(f"{_NAME}:{self.task} brings its demonstrations: strategy must be random, got {strategy}")
        examples: list[Example] = self._load(seed)
        return examples if shots is None else [_keep_last(example, shots) for example in examples]

    def digest(self, seed: int) -> str:
        """Return a digest of ids, answers and texts; images come with the package, by the same numbers."""
        texts = [
            (e.id, e.references, [part.get("text") for message in e.teacher for part in message["content"]])
            for e in self._load(seed)
        ]
        return digest(json.dumps(texts))

    def depends_on_seed(self, shots: int, strategy: Strategy) -> bool:
        """Return ``True``: the seed decides what a task hides."""
        return True

    def references(self, seed: int) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield where each example is, and its right answers."""
        return ((f"example {example.id}", example.references) for example in self._load(seed))

    def settings(self, shots: int) -> dict[str, str]:
        """Return the task and the split."""
        return {"data": f"{self.task}/{self.split}"}

    def refuse_overlap(self) -> None:
        """Refuse nothing: demonstrations are part of each row, and never the query."""


def _keep_last(example: Example, shots: int) -> Example:
    """Return the example with its teacher's last demonstrations, each a user's message and an assistant's."""
    *demonstrations, query = example.teacher
    most = len(demonstrations) // 2
    if shots > most:
        raise ValueError(f"example {example.id}: shots must be at most {most}, which it brings, got {shots}")
    return dataclasses.replace(example, teacher=[*demonstrations[len(demonstrations) - 2 * shots :], query])
