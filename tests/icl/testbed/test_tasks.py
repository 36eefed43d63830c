"""The tasks of the testbed: every row is what docs/testbed.md says."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from icl.testbed import TASKS, images, load_task, tasks
from icl.testbed.vocabulary import DIGITS, END, WORDS


def names_of(rows: list[dict[str, Any]]) -> dict[int, set[str]]:
    """Which answers each digit has."""
    found: dict[int, set[str]] = {}
    for row in rows:
        found.setdefault(row["digit"], set()).add(row["answer"])
    return found


def rows_of(task: str, split: str = "test", seed: int = 0) -> list[dict[str, Any]]:
    """With images as the PNG files that are stored."""
    rows: list[dict[str, Any]] = tasks.load_split(task, split, seed).data.to_pylist()
    return rows


def digits_of(split: str) -> dict[bytes, int]:
    source = images.load_digits(split)
    return {source.png(i): int(source.labels[i]) for i in range(len(source))}


def shown_in(messages: list[dict[str, Any]], digits: dict[bytes, int]) -> list[tuple[int, str]]:
    """The digits of a prompt's demonstrations with their words."""
    pairs = zip(messages[:-1:2], messages[1:-1:2])
    return [(digits[part["image"]["bytes"]], b["content"][0]["text"]) for a, b in pairs for part in a["content"]]


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task(name: str) -> None:
    for split, number in (("dev", 120), ("test", 240)):
        rows, digits = rows_of(name, split), digits_of(split)
        assert rows == rows_of(name, split)
        assert len(rows) == (number * 3 // 10 if name == "unseen_classes" else number)
        for row in rows:
            query = row["query"]["bytes"]
            assert digits[query] == row["digit"]
            assert row["teacher"][-1] == row["student"][-1]
            assert row["student"][-1]["content"][-1]["image"]["bytes"] == query
            teacher = shown_in(row["teacher"], digits)  # a KeyError if from another split
            assert teacher == [(digits[d["image"]["bytes"]], d["answer"]) for d in row["demonstrations"]]
            assert (row["digit"], row["answer"]) in teacher
            assert shown_in(row["student"], digits) or len(row["student"]) == 1
            before = row["teacher"][:-1] + row["student"][:-1]
            assert query not in {p["image"]["bytes"] for m in before for p in m["content"] if p["image"]}


def test_task_as_dataset() -> None:
    task = load_task("options", seed=2)
    assert {split: len(rows) for split, rows in task.items()} == {"train": 1437, "dev": 120, "test": 240}
    row = task["train"][5]
    assert row["query"].size == row["teacher"][0]["content"][0]["image"].size == (8, 8)
    assert np.array_equal(np.asarray(row["query"]), images.load_digits("train").pixels[5].numpy())
    with pytest.raises(ValueError, match="'mc4'"):
        load_task("mc4")


@pytest.mark.parametrize("name", ["fixed_map", "parity", "many_to_one", "successor"])
def test_hidden_maps(name: str) -> None:
    named = names_of(rows_of(name) + rows_of(name, "dev"))
    assert all(len(words) == 1 for words in named.values())
    words = [named[digit].copy().pop() for digit in range(10)]
    number = {"fixed_map": 10, "parity": 2, "many_to_one": 4, "successor": 10}[name]
    assert len(set(words)) == number
    if name == "parity":
        assert words == words[:2] * 5
    if name == "successor":
        assert words == [DIGITS[(digit + 1) % 10] for digit in range(10)]
    else:
        assert set(words) <= set(WORDS)
        assert names_of(rows_of(name, seed=1)) != named


def test_options() -> None:
    rows = rows_of("options")
    words = {row["answer"] for row in rows}
    places = Counter()
    for row in rows:
        text = row["student"][-1]["content"][0]["text"]
        *options, nothing = text.split(END)
        assert nothing == ""
        assert len(set(options)) == 4
        assert set(options) <= words, "what is no name of any digit would give itself away"
        places[options.index(row["answer"])] += 1
        assert len(row["student"]) == 1
    assert max(places.values()) / len(rows) < 0.4


def test_conflicts() -> None:
    labels = digits_of("test")
    for row in rows_of("last_block"):
        student, teacher = shown_in(row["student"], labels), shown_in(row["teacher"], labels)
        assert student[4:] == teacher
        assert sorted(digit for digit, _ in student[:4]) == sorted(digit for digit, _ in teacher)
        assert len({word for _, word in student}) == 8
        assert len({digit for digit, _ in teacher}) == 4
    right: set[str] = set()
    wrong: set[str] = set()
    for row in rows_of("set_conflict"):
        student, teacher = shown_in(row["student"], labels), shown_in(row["teacher"], labels)
        assert [pair for pair in student if pair in teacher] == teacher
        other = [pair for pair in student if pair not in teacher]
        assert sorted(digit for digit, _ in other) == sorted(digit for digit, _ in teacher)
        right.update(word for _, word in teacher)
        wrong.update(word for _, word in other)
    assert not right & wrong
    assert len(right) == len(wrong) == 32


def test_unseen_classes() -> None:
    assert {row["digit"] for row in rows_of("unseen_classes")} == {7, 8, 9}
    answers = names_of(rows_of("unseen_classes", "train"))
    assert [answers[digit] for digit in (7, 8, 9)] == [{None}] * 3
    assert all(len(answers[digit]) == 1 and None not in answers[digit] for digit in range(7))
    told = {d["answer"] for row in rows_of("unseen_classes") for d in row["demonstrations"]}
    assert len(told) == 10, "the teacher is shown all classes"


def test_corrupted() -> None:
    labels = digits_of("test")
    for row in rows_of("corrupted"):
        student, teacher = shown_in(row["student"], labels), shown_in(row["teacher"], labels)
        assert [digit for digit, _ in student] == [digit for digit, _ in teacher]
        assert sum(a != b for a, b in zip(student, teacher)) == 8 == len(teacher) / 2
