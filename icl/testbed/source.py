"""The testbed as a named source of models ("testbed", "testbed:base-2") and of data ("testbed:options/dev")."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
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
    """Of a task of the testbed, whose rows bring their demonstrations; the seed decides what it hides."""

    def __init__(self, task: str, split: str):
        if task not in TASKS:
            raise ValueError(f"{_NAME}:{task}: the task must be one of {', '.join(TASKS)}")
        if split not in SPLITS:
            raise ValueError(f"{_NAME}:{task}/{split}: the split must be one of {', '.join(SPLITS)}")
        self.task, self.split = task, split
        self._made: dict[int, list[Example]] = {}

    def examples(self, shots: int | None, strategy: Strategy = "random", seed: int = 0) -> list[Example]:
        if strategy != "random":
            raise ValueError(f"{_NAME}:{self.task} brings its demonstrations: strategy must be random, got {strategy}")
        examples = self._examples(seed)
        return examples if shots is None else [_last(example, shots) for example in examples]

    def _examples(self, seed: int) -> list[Example]:
        if seed not in self._made:
            self._made[seed] = [Example.from_task(row) for row in load_split(self.task, self.split, seed)]
        return self._made[seed]

    def digest(self, seed: int) -> str:
        # images come with the package, by the same numbers
        texts = [
            (e.id, e.references, [part.get("text") for message in e.teacher for part in message["content"]])
            for e in self._examples(seed)
        ]
        return digest(json.dumps(texts))

    def depends_on_seed(self, shots: int, strategy: Strategy) -> bool:
        return True

    def references(self, seed: int) -> Iterator[tuple[str, Sequence[str]]]:
        return ((f"example {example.id}", example.references) for example in self._examples(seed))

    def settings(self, shots: int) -> dict[str, str]:
        return {"data": f"{self.task}/{self.split}"}

    def refuse_overlap(self) -> None:
        """Demonstrations are part of each row."""


def _last(example: Example, shots: int) -> Example:
    """With the last demonstrations of the teacher alone: a message of the user and one of the assistant each."""
    *shown, query = example.teacher
    if 2 * shots > len(shown):
        raise ValueError(f"example {example.id}: shots must be at most {len(shown) // 2}, which it brings, got {shots}")
    teacher = [*shown[len(shown) - 2 * shots :], query]
    return dataclasses.replace(example, teacher=teacher)
