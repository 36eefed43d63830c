"""Numbers and points that are none: each is refused by name, wherever a bank takes it."""

from typing import Any

import numpy as np
import pytest
import torch

from icl.bank.anchor_bank import AnchorBank
from icl.bank.schema import BankError
from icl.bank.selection.queries import Queries
from icl.bank.selection.select_rows import select
from tests.icl.banks import numbered_rows

N = 12


@pytest.mark.parametrize(
    "numbers",
    [
        [-1], [N], [0, -N], [10**30], [True], [1.0], ["0"], [None], [[0], [1, 2]], 3, None, "0",
        torch.tensor([0.5]), torch.tensor([True, False]), torch.tensor([-1]), torch.tensor(float("nan")),
        np.array([1.5]), np.array(["a"]),
    ],
)  # fmt: skip
def test_row_numbers(numbered_bank: AnchorBank, numbers: Any) -> None:
    for call in (numbered_bank.take, numbered_bank.gather, lambda index: Queries.of_rows(numbered_bank, index)):
        with pytest.raises(BankError, match=r"^rows must be "):
            call(numbers)


def test_row_numbers_of_any_type_and_shape(numbered_bank: AnchorBank) -> None:
    for numbers in ([3, 1], (3, 1), torch.tensor([3, 1], dtype=torch.int16), np.array([3, 1], dtype=np.uint8)):
        assert numbered_bank.take(numbers, ["id"]).column("id").to_pylist() == ["r3", "r1"]
        assert numbered_bank.gather(numbers)[:, 0].tolist() == [3, 1]
    assert numbered_bank.gather(torch.tensor([[3], [1]])).tolist() == [[[3, 0]], [[1, 0]]]
    assert numbered_bank.gather(torch.tensor(3)).tolist() == [3, 0]
    assert (numbered_bank.take([]).num_rows, numbered_bank.gather([]).shape) == (0, (0, 2))
    for names in (["nothing"], ["id", "a.b"], [3], ["point.item"]):
        with pytest.raises(BankError, match="has no column"):
            numbered_bank.take([0], names)


QUERIES: list[tuple[Any, str]] = [
    (torch.full((1, 2), torch.nan), "row 0 is not"),
    (torch.tensor([[0, 0], [0, torch.inf]]), "row 1 is not"),
    (torch.tensor([[1e300, 0.0]], dtype=torch.float64), "row 0 is not"),
    (torch.tensor([0.0, 0.0]), r"shape \(N, 2\), got \(2,\)"),
    (torch.zeros(1, 3), r"shape \(N, 2\), got \(1, 3\)"),
    (torch.zeros(1, 2, dtype=torch.complex64), "got torch.complex64"),
    ([[0.0, 0.0]], "must be a tensor of points, got list"),
    (None, "must be a tensor of points, got NoneType"),
]


@pytest.mark.parametrize(("query", "message"), QUERIES)
def test_queries_that_are_no_points(numbered_bank: AnchorBank, query: Any, message: str) -> None:
    with pytest.raises(BankError, match=message):
        numbered_bank.search(query, 3)
    if isinstance(query, torch.Tensor) and query.dim() == 2:
        with pytest.raises(BankError, match=message):
            select(numbered_bank, Queries(points=query), 3)
        with pytest.raises(BankError, match=message):
            numbered_bank.rank(query, torch.zeros(len(query), 1, dtype=torch.int64), 1)


def test_number_of_neighbours_and_weight(numbered_bank: AnchorBank) -> None:
    query = torch.zeros(1, 2)
    for k, message in (
        (0, "at least 1"),
        (-3, "at least 1"),
        (True, "whole"),
        (2.0, "whole"),
        ("2", "whole"),
        (None, ""),
    ):
        with pytest.raises(BankError, match=f"k must be .*{message}"):
            numbered_bank.search(query, k)  # type: ignore[arg-type]
        with pytest.raises(BankError, match="k must be "):
            select(numbered_bank, Queries(points=query), k)  # type: ignore[arg-type]
    for weight in (float("nan"), float("-inf"), "1", None):
        with pytest.raises(BankError, match="depth_weight must be a finite number"):
            numbered_bank.search(query, 3, depth_weight=weight)  # type: ignore[arg-type]
        with pytest.raises(BankError, match="depth_weight must be a finite number"):
            select(numbered_bank, Queries(points=query), 3, depth_weight=weight)  # type: ignore[arg-type]
    assert numbered_bank.search(query, 10**6).rows.tolist() == [list(range(N))]
    assert numbered_bank.search(query.requires_grad_(), np.int64(2)).rows.tolist() == [[0, 1]]  # type: ignore[arg-type]
    assert numbered_bank.search(query.double(), 2, depth_weight=2).rows.tolist() == [[N - 1, N - 2]]


@pytest.mark.parametrize("version", [-1, 0, 99, True, 1.0, "1", "latest", 10**30])
def test_versions_that_are_none(numbered_bank: AnchorBank, version: Any) -> None:
    with pytest.raises(BankError, match="version"):
        AnchorBank.open(numbered_bank.folder, version)


@pytest.mark.parametrize("keep", [0, -1, True, 1.5, "1", None])
def test_keep(numbered_bank: AnchorBank, keep: Any) -> None:
    numbered_bank.append(numbered_rows(N, 1))
    with pytest.raises(BankError, match="compact: keep must be "):
        numbered_bank.compact(keep)
    assert len(numbered_bank.versions()) == 2
    numbered_bank.compact(10**6)
    assert len(AnchorBank.open(numbered_bank.folder)) == N + 1
