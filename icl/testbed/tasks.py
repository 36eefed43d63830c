"""The testbed's tasks as datasets: what an adapter or a choice of demonstrations has to get right (docs/testbed.md).

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

from icl.testbed.images import load_digits
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

Demonstrations = list[tuple[int, str]]
"""Images of the split, each with the word that it is given."""


class TaskExample(NamedTuple):
    """A query, the demonstrations before it, and the right answer: ``None`` if it is hidden."""

    answer: str | None
    teacher: Demonstrations
    student: Sequence[tuple[int, str]] = ()
    options: Sequence[str] = ()


class TaskSampler:
    """The random choices of a task in one split."""

    def __init__(self, task: str, seed: int, split: str):
        self.split, self.labels = split, load_digits(split).labels.numpy()
        # numpy keeps the stream of RandomState for good. What a task hides is the same in all splits.
        self.hidden = np.random.RandomState(zlib.crc32(f"{task}/{seed}".encode()))
        self.random = np.random.RandomState(zlib.crc32(f"{task}/{seed}/{split}".encode()))

    def hidden_words(self, n: int) -> list[str]:
        """Draw n words of what the task hides."""
        return [str(word) for word in self.hidden.choice(WORDS, n, replace=False)]

    def words(self, n: int, choices: Sequence[str] = WORDS) -> list[str]:
        """Draw n different words."""
        return [str(word) for word in self.random.choice(choices, n, replace=False)]

    def images(self, digit: int, n: int, query: int) -> list[int]:
        """Draw n images of the digit that are not the query."""
        others = np.flatnonzero(self.labels == digit)
        return [int(row) for row in self.random.choice(others[others != query], n, replace=False)]

    def demonstrations(self, query: int, names: Sequence[str]) -> Demonstrations:
        """Draw other images with the names of their digits, the query's digit among them."""
        rows = self.random.choice(len(self.labels) - 1, SHOTS, replace=False)
        rows += rows >= query
        if self.labels[query] not in self.labels[rows]:
            rows[self.random.randint(SHOTS)] = self.images(self.labels[query], 1, query)[0]
        return [(row, names[self.labels[row]]) for row in rows.tolist()]

    def conflict(
        self, query: int, first: Sequence[str], second: Sequence[str]
    ) -> tuple[Demonstrations, Demonstrations]:
        """Draw two demonstrations of each of a few digits, the query's with the first words, under both words."""
        others = self.random.permutation(np.setdiff1d(range(10), self.labels[query]))[: _CLASSES_IN_CONFLICT - 1]
        pairs = [self.images(digit, 2, query) for digit in (self.labels[query], *others)]
        return [(a, word) for (a, _), word in zip(pairs, first)], [(b, word) for (_, b), word in zip(pairs, second)]

    def shuffle(self, demonstrations: Demonstrations) -> Demonstrations:
        """Return the demonstrations in another order."""
        return [demonstrations[i] for i in self.random.permutation(len(demonstrations))]


Task = Callable[[TaskSampler], Callable[[int], TaskExample | None]]
"""A function that fixes what is hidden, and returns one that makes an example of a query, or none."""


def _make_naming(draw_names: Callable[[TaskSampler], list[str]]) -> Task:
    """Return the task of naming digits by the words that are drawn."""

    def task(sampler: TaskSampler) -> Callable[[int], TaskExample]:
        words = draw_names(sampler)
        return lambda query: TaskExample(words[sampler.labels[query]], sampler.demonstrations(query, words))

    return task


def _draw_ten(sampler: TaskSampler) -> list[str]:
    return sampler.hidden_words(10)


def _draw_many_to_one(sampler: TaskSampler) -> list[str]:
    return [str(word) for word in sampler.hidden.permutation((sampler.hidden_words(4) * 3)[:10])]


def _make_options(sampler: TaskSampler) -> Callable[[int], TaskExample]:
    words = _draw_ten(sampler)

    def make(query: int) -> TaskExample:
        answer = words[sampler.labels[query]]
        wrong = sampler.words(3, [word for word in words if word != answer])
        demonstrations = sampler.demonstrations(query, words)
        return TaskExample(answer, demonstrations, options=sampler.words(4, [answer, *wrong]))

    return make


def _make_last_block(sampler: TaskSampler) -> Callable[[int], TaskExample]:
    def make(query: int) -> TaskExample:
        words = sampler.words(2 * _CLASSES_IN_CONFLICT)
        pairs = sampler.conflict(query, words[:_CLASSES_IN_CONFLICT], words[_CLASSES_IN_CONFLICT:])
        last, first = map(sampler.shuffle, pairs)
        return TaskExample(words[0], last, student=first + last)

    return make


def _make_set_conflict(sampler: TaskSampler) -> Callable[[int], TaskExample]:
    order: list[str] = sampler.hidden.permutation(WORDS).tolist()
    right, wrong = order[: len(order) // 2], order[len(order) // 2 :]

    def make(query: int) -> TaskExample:
        words = sampler.words(_CLASSES_IN_CONFLICT, right)
        followed, other = sampler.conflict(query, words, sampler.words(_CLASSES_IN_CONFLICT, wrong))
        mixed = sampler.shuffle(followed + other)
        return TaskExample(words[0], [pair for pair in mixed if pair in followed], student=mixed)

    return make


def _make_unseen_classes(sampler: TaskSampler) -> Callable[[int], TaskExample | None]:
    words = _draw_ten(sampler)

    def make(query: int) -> TaskExample | None:
        unseen, train = sampler.labels[query] in UNSEEN, sampler.split == "train"
        if not (unseen or train):
            return None
        answer = None if unseen and train else words[sampler.labels[query]]
        return TaskExample(answer, sampler.demonstrations(query, words))

    return make


def _make_corrupted(sampler: TaskSampler) -> Callable[[int], TaskExample]:
    words = _draw_ten(sampler)

    def make(query: int) -> TaskExample:
        demonstrations = sampler.demonstrations(query, words)
        corrupted = set(sampler.random.choice(SHOTS, SHOTS // 2, replace=False))
        student = [
            (row, sampler.words(1, [other for other in words if other != word])[0] if i in corrupted else word)
            for i, (row, word) in enumerate(demonstrations)
        ]
        return TaskExample(words[sampler.labels[query]], demonstrations, student=student)

    return make


TASKS: dict[str, Task] = {
    "fixed_map": _make_naming(_draw_ten),
    "parity": _make_naming(lambda sampler: sampler.hidden_words(2) * 5),
    "many_to_one": _make_naming(_draw_many_to_one),
    "successor": _make_naming(lambda sampler: [*DIGITS[1:], DIGITS[0]]),
    "options": _make_options,
    "last_block": _make_last_block,
    "set_conflict": _make_set_conflict,
    "unseen_classes": _make_unseen_classes,
    "corrupted": _make_corrupted,
}


def load_task(name: str, seed: int = 0) -> DatasetDict:
    """Return the splits "train", "dev" and "test" of a task (:func:`load_split`)."""
    return DatasetDict({split: load_split(name, split, seed) for split in SPLITS})


def load_split(name: str, split: str, seed: int = 0) -> Dataset:
    """Return a row for every image of the split that the task asks about. ``seed`` fixes what the task hides."""
    images = load_digits(split)
    files = [{"bytes": images.png(i), "path": None} for i in range(len(images))]
    return Dataset.from_list(list(make_rows(name, split, seed, files)), features=FEATURES)


def make_rows(name: str, split: str, seed: int, pictures: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of :func:`load_split`, with ``pictures`` for the images of the split."""
    if name not in TASKS:
        raise ValueError(f"load_split: name must be one of {', '.join(TASKS)}, got {name!r}")
    sampler = TaskSampler(name, seed, split)
    make_example = TASKS[name](sampler)
    for query, digit in enumerate(sampler.labels.tolist()):
        example = make_example(query)
        if example is None:
            continue
        options = [_write_text("".join(word + END for word in example.options))] if example.options else []
        question = {"role": "user", "content": [*options, _write_image(pictures[query])]}
        teacher, student = ([(pictures[i], word) for i, word in pairs] for pairs in (example.teacher, example.student))
        yield {
            "id": f"{split}-{query}",
            "query": pictures[query],
            "digit": digit,
            "demonstrations": [{"image": picture, "answer": word} for picture, word in teacher],
            "teacher": [*_write_chat(teacher), question],
            "student": [*_write_chat(student), question],
            "answer": example.answer,
        }


def _write_text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words, "image": None}


def _write_image(picture: Any) -> dict[str, Any]:
    return {"type": "image", "text": None, "image": picture}


def _write_chat(pairs: list[tuple[Any, str]]) -> Iterator[dict[str, Any]]:
    """Yield the messages of demonstrations: a user shows a picture, and the assistant names it."""
    for picture, word in pairs:
        yield {"role": "user", "content": [_write_image(picture)]}
        yield {"role": "assistant", "content": [_write_text(word)]}
