"""Conditions: each is refused or means in the bank what Python makes of the same rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from icl.bank.anchor_bank import AnchorBank
from icl.bank.schema import BankError

N = 20
TEXTS = [f"text {i}" for i in range(N - 1)] + ['she said "no" -- OR 1 = 1;']
TASKS = ["ocr", "vqa"] * (N // 2)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> AnchorBank:
    """At the depths 0, 0.1, 0.2 and so on."""
    radius = (torch.arange(N, dtype=torch.float64) / 10).sinh()
    rows = {
        "id": [f"r{i}" for i in range(N)],
        "text": TEXTS,
        "task": TASKS,
        "lower": TASKS,
        "point": torch.stack([radius, 0 * radius], 1),
    }
    return AnchorBank.build(tmp_path_factory.mktemp("filters") / "bank", rows)


REFUSED = [
    "\"task\" != 'vqa'", "\"task\" = 'vqa'", 'task = "vqa"', "depth > 1 OR \"tasc\" = 'vqa'", "\"task\" IN ('vqa')",
    "1 = 1", "true", "NOT false", "(TRUE)", "null IS NULL", "'task' = 'task'", "'it''s' = 'it''s'", "1 + 1 = 2",
    "task = 'vqa' OR 1 = 1", "task = 'none' OR 'a' BETWEEN 'a' AND 'b'", "NOT (task = 'vqa' AND 1 = 2)",
    "((task = 'none') OR ((true)))", "depth BETWEEN 0 AND 1 OR 'x' = 'x'",
    "length('abc') = 3", "lower('A') = 'a'", "'x' IN ('x', 'y')", "(1 = 1) IS TRUE", "CAST(1 AS text) = '1'",
    "1::text = '1'", "date '2020-01-01' = date '2020-01-01'", "x'41' = 'A'",
    "", "  ", "1 = 1 -- task", "1 = 1 /* task */", "1 = 1; task = 'vqa'", "task = ?", "task = :task", "task = $1",
    "1 = 1) OR (task = 'none'", "(task = 'none'", "1 = 1 ORDER BY task", "1 = 1 GROUP BY task", "1 = 1 LIMIT depth",
    "nothing = 3", "task = nothing", "task =", "task", "task = 'a\\' OR 1=1 --'", "task = 'vqa",
    None, 3, b"task = 'vqa'",
]  # fmt: skip


@pytest.mark.parametrize("condition", REFUSED)
def test_refused_everywhere(bank: AnchorBank, condition: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: bank.where(condition),
        lambda: bank.delete(condition),
        lambda: bank.delete(where=condition),
    ]
    if condition is not None:  # search: no condition
        calls.append(lambda: bank.search(torch.zeros(1, 2), 3, where=condition))
    for call in calls:
        with pytest.raises(BankError) as told:
            call()
        assert ".rs:" not in str(told.value)
    assert len(AnchorBank.open(bank.folder)) == N


ACCEPTED: list[tuple[str, Callable[[int], bool]]] = [
    ("task = 'ocr'", lambda i: TASKS[i] == "ocr"),
    ("`task`='ocr'", lambda i: TASKS[i] == "ocr"),
    ("TASK <> 'ocr'", lambda i: TASKS[i] != "ocr"),
    ("'ocr' = task", lambda i: TASKS[i] == "ocr"),
    ("lower = 'ocr'", lambda i: TASKS[i] == "ocr"),
    ("lower(task) IN ('ocr', 'none')", lambda i: TASKS[i] == "ocr"),
    ("NOT task = 'ocr' AND depth > 1.05", lambda i: TASKS[i] != "ocr" and i > 10),
    ("depth BETWEEN 0.25 AND 0.55 AND task = 'vqa'", lambda i: 3 <= i <= 5 and TASKS[i] == "vqa"),
    ("NOT (depth BETWEEN 0.25 AND 0.55 OR task = 'vqa')", lambda i: not (3 <= i <= 5 or TASKS[i] == "vqa")),
    ("(task = 'ocr') = (depth > 0.95)", lambda i: (TASKS[i] == "ocr") == (i > 9)),
    ("(depth + 1) * 2 > 3.9", lambda i: i > 9),
    ("id LIKE 'r1_' AND (id NOT IN ('r10', 'r11'))", lambda i: i > 11),
    ("text = 'she said \"no\" -- OR 1 = 1;'", lambda i: i == N - 1),
    ("text LIKE '%OR 1%'", lambda i: i == N - 1),
    ("image IS NULL", lambda i: True),
    ("id IS NULL", lambda i: False),
]


@pytest.mark.parametrize(("condition", "holds"), ACCEPTED)
def test_accepted(bank: AnchorBank, condition: str, holds: Callable[[int], bool]) -> None:
    want = [i for i in range(N) if holds(i)]
    assert bank.where(condition).tolist() == want
    hits = bank.search(torch.zeros(1, 2), N, where=condition)
    assert hits.rows.tolist() == [want]


def test_ids_and_conditions_are_different_arguments(tmp_path: Path) -> None:
    names = ["a", "b", "it's", 'in "quotes"', "1", "true", "id = 'a'", "é%_", ""]
    bank = AnchorBank.build(tmp_path / "bank", {"id": names, "point": torch.rand(len(names), 2)})
    for ids in ("a", "id = 'a'", [1], [None], ["a", 1], 1, [b"a"], ["a", ["b"]], None):
        with pytest.raises(BankError, match="ids"):
            bank.delete(ids)  # type: ignore[arg-type]
    with pytest.raises(BankError, match="either ids, a list of texts, or where"):
        bank.delete(["a"], where="id = 'b'")
    assert len(AnchorBank.open(bank.folder)) == len(names)
    assert bank.delete([]) == 0
    assert bank.delete(ids=["none", "A", "%"]) == 0
    assert bank.delete(["a", "a", "none"]) == 1
    for left, name in enumerate(reversed(names[1:])):
        assert bank.rows_of("id", name).tolist() == [len(names) - 2 - left]
        assert bank.delete(ids=(name,)) == 1
    assert len(bank) == 0
    assert bank.search(torch.zeros(2, 2), 3).rows.shape == (2, 0)
    assert bank.where("id IS NOT NULL").tolist() == []
    assert bank.take([]).num_rows == 0
    with pytest.raises(BankError, match="rows must be none, because the bank is empty, got 0 to 0"):
        bank.take([0])
    bank.compact()
    assert bank.append({"id": ["later"], "point": torch.zeros(1, 2)}) == 1
    assert bank.search(torch.zeros(1, 2), 3).rows.tolist() == [[0]]
