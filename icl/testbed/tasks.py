"""The tasks as datasets: what an adapter or a choice of demonstrations has to get right (docs/testbed.md).

A row has the image to name (``query``), the ``answer``, and two prompts as messages for ``apply_chat_template``: the
``teacher``'s, with demonstrations that settle the answer, and the ``student``'s, which lacks them. The last message of
both is the query's, and the same. ``demonstrations`` are the teacher's, as records. All images of a row are of its
split, and no demonstration is the query.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, DatasetDict, Features, Image, Value

from icl.testbed import images
from icl.testbed.vocabulary import DIGITS, END, WORDS

SPLITS = ("train", "dev", "test")
SHOTS = 16
UNSEEN = (7, 8, 9)
_CLASSES_IN_CONFLICT = 4

_CONTENT = [{"type": Value("string"), "text": Value("string"), "image": Image()}]
_MESSAGES = [{"role": Value("string"), "content": _CONTENT}]
FEATURES = Features(
    {
        "id": Value("string"),
        "query": Image(),
        "digit": Value("int64"),
        "demonstrations": [{"image": Image(), "answer": Value("string")}],
        "teacher": _MESSAGES,
        "student": _MESSAGES,
        "answer": Value("string"),
    }
)

Shown = list[tuple[int, str]]
"""Demonstrations: images of the split, each with the word that it is given."""


class TaskExample(NamedTuple):
    """What is before a query, and what is right: ``None`` if it is not told."""

    answer: str | None
    teacher: Shown
    student: Sequence[tuple[int, str]] = ()
    options: Sequence[str] = ()


class TaskSampler:
    """The random choices of a task in one split."""

    def __init__(self, task: str, seed: int, split: str):
        self.split, self.labels = split, images.load_digits(split).labels.numpy()
        # numpy keeps the stream of RandomState for good. What a task hides is the same in all splits.
        self.hidden = np.random.RandomState(zlib.crc32(f"{task}/{seed}".encode()))
        self.random = np.random.RandomState(zlib.crc32(f"{task}/{seed}/{split}".encode()))

    def hidden_words(self, n: int) -> list[str]:
        return [str(word) for word in self.hidden.choice(WORDS, n, replace=False)]

    def words(self, n: int, of: Sequence[str] = WORDS) -> list[str]:
        return [str(word) for word in self.random.choice(of, n, replace=False)]

    def images(self, digit: int, n: int, query: int) -> list[int]:
        """n images of the digit that are not the query."""
        others = np.flatnonzero(self.labels == digit)
        return [int(i) for i in self.random.choice(others[others != query], n, replace=False)]

    def demonstrations(self, query: int, names: Sequence[str]) -> Shown:
        """Other images with the names of their digits, the query's digit among them."""
        chosen = self.random.choice(len(self.labels) - 1, SHOTS, replace=False)
        chosen += chosen >= query
        if self.labels[query] not in self.labels[chosen]:
            chosen[self.random.randint(SHOTS)] = self.images(self.labels[query], 1, query)[0]
        return [(int(i), names[self.labels[i]]) for i in chosen]

    def conflict(self, query: int, first: Sequence[str], second: Sequence[str]) -> tuple[Shown, Shown]:
        """Two demonstrations of each of a few digits, the query's with the first words, under both words."""
        others = self.random.permutation(np.setdiff1d(range(10), self.labels[query]))[: _CLASSES_IN_CONFLICT - 1]
        pairs = [self.images(digit, 2, query) for digit in (self.labels[query], *others)]
        return [(a, word) for (a, _), word in zip(pairs, first)], [(b, word) for (_, b), word in zip(pairs, second)]

    def shuffled(self, shown: Shown) -> Shown:
        return [shown[i] for i in self.random.permutation(len(shown))]


Task = Callable[[TaskSampler], Callable[[int], TaskExample | None]]
"""Fixes what is hidden, then makes an example of each query, or none."""


def _naming(names: Callable[[TaskSampler], list[str]]) -> Task:
    def task(draw: TaskSampler) -> Callable[[int], TaskExample]:
        words = names(draw)
        return lambda query: TaskExample(words[draw.labels[query]], draw.demonstrations(query, words))

    return task


def _ten(draw: TaskSampler) -> list[str]:
    return draw.hidden_words(10)


def _parity(draw: TaskSampler) -> list[str]:
    return draw.hidden_words(2) * 5


def _many_to_one(draw: TaskSampler) -> list[str]:
    return [str(word) for word in draw.hidden.permutation((draw.hidden_words(4) * 3)[:10])]


def _successor(draw: TaskSampler) -> list[str]:
    return [*DIGITS[1:], DIGITS[0]]


def _options(draw: TaskSampler) -> Callable[[int], TaskExample]:
    words = _ten(draw)

    def example(query: int) -> TaskExample:
        answer = words[draw.labels[query]]
        wrong = draw.words(3, [word for word in words if word != answer])
        return TaskExample(answer, draw.demonstrations(query, words), options=draw.words(4, [answer, *wrong]))

    return example


def _last_block(draw: TaskSampler) -> Callable[[int], TaskExample]:
    def example(query: int) -> TaskExample:
        words = draw.words(2 * _CLASSES_IN_CONFLICT)
        shown, other = draw.conflict(query, words[:_CLASSES_IN_CONFLICT], words[_CLASSES_IN_CONFLICT:])
        shown, other = draw.shuffled(shown), draw.shuffled(other)
        return TaskExample(words[0], shown, student=other + shown)

    return example


def _set_conflict(draw: TaskSampler) -> Callable[[int], TaskExample]:
    order = [str(word) for word in draw.hidden.permutation(WORDS)]
    right, wrong = order[: len(order) // 2], order[len(order) // 2 :]

    def example(query: int) -> TaskExample:
        words = draw.words(_CLASSES_IN_CONFLICT, right)
        shown, other = draw.conflict(query, words, draw.words(_CLASSES_IN_CONFLICT, wrong))
        mixed = draw.shuffled(shown + other)
        return TaskExample(words[0], [pair for pair in mixed if pair in shown], student=mixed)

    return example


def _unseen_classes(draw: TaskSampler) -> Callable[[int], TaskExample | None]:
    words = _ten(draw)

    def example(query: int) -> TaskExample | None:
        unseen, train = draw.labels[query] in UNSEEN, draw.split == "train"
        if not (unseen or train):
            return None
        return TaskExample(None if unseen and train else words[draw.labels[query]], draw.demonstrations(query, words))

    return example


def _corrupted(draw: TaskSampler) -> Callable[[int], TaskExample]:
    words = _ten(draw)

    def example(query: int) -> TaskExample:
        shown = draw.demonstrations(query, words)
        corrupted = set(draw.random.choice(SHOTS, SHOTS // 2, replace=False))
        student = [
            (i, draw.words(1, [w for w in words if w != word])[0] if n in corrupted else word)
            for n, (i, word) in enumerate(shown)
        ]
        return TaskExample(words[draw.labels[query]], shown, student=student)

    return example


TASKS: dict[str, Task] = {
    "fixed_map": _naming(_ten),
    "parity": _naming(_parity),
    "many_to_one": _naming(_many_to_one),
    "successor": _naming(_successor),
    "options": _options,
    "last_block": _last_block,
    "set_conflict": _set_conflict,
    "unseen_classes": _unseen_classes,
    "corrupted": _corrupted,
}


def load_task(name: str, seed: int = 0) -> DatasetDict:
    """Splits "train", "dev" and "test" of a task (:func:`load_split`)."""
    return DatasetDict({split: load_split(name, split, seed) for split in SPLITS})


def load_split(name: str, split: str, seed: int = 0) -> Dataset:
    """A row for every image of the split that the task asks about. ``seed`` fixes what the task hides."""
    source = images.load_digits(split)
    files = [{"bytes": source.png(i), "path": None} for i in range(len(source))]
    return Dataset.from_list(list(rows(name, split, seed, files)), features=FEATURES)


def rows(name: str, split: str, seed: int, pictures: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Those of :func:`load_split`, with ``pictures`` for the images of the split."""
    if name not in TASKS:
        raise ValueError(f"load_split: name must be one of {', '.join(TASKS)}, got {name!r}")
    source = images.load_digits(split)
    example_of = TASKS[name](TaskSampler(name, seed, split))
    for query in range(len(source)):
        example = example_of(query)
        if example is None:
            continue
        options = [_text("".join(word + END for word in example.options))] if example.options else []
        asked = [{"role": "user", "content": [*options, _image(pictures[query])]}]
        teacher, student = ([(pictures[i], word) for i, word in shown] for shown in (example.teacher, example.student))
        yield {
            "id": f"{split}-{query}",
            "query": pictures[query],
            "digit": int(source.labels[query]),
            "demonstrations": [{"image": file, "answer": word} for file, word in teacher],
            "teacher": _chat(teacher) + asked,
            "student": _chat(student) + asked,
            "answer": example.answer,
        }


def _text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words, "image": None}


def _image(file: Any) -> dict[str, Any]:
    return {"type": "image", "text": None, "image": file}


def _chat(shown: list[tuple[Any, str]]) -> list[dict[str, Any]]:
    messages = []
    for file, word in shown:
        messages.append({"role": "user", "content": [_image(file)]})
        messages.append({"role": "assistant", "content": [_text(word)]})
    return messages
