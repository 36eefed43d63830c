"""Reading a bank: numbers that are none, moments in any time zone, other processes that compact, damaged copies."""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import lance
import numpy as np
import pytest
import torch

from icl.bank.anchor_bank import AnchorBank
from icl.bank.schema import BankError
from icl.bank.selection.queries import Queries
from icl.bank.selection.select_rows import select

N = 12


def rows(first: int = 0, count: int = N) -> dict[str, Any]:
    """At the depths asinh(0), asinh(1), and so on."""
    numbers = range(first, first + count)
    points = torch.stack([torch.tensor([float(i), 0.0]) for i in numbers])
    return {"id": [f"r{i}" for i in numbers], "text": [f"text {i}" for i in numbers], "point": points}


@pytest.fixture
def bank(tmp_path: Path) -> AnchorBank:
    return AnchorBank.build(tmp_path / "bank", rows())


# --- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "numbers",
    [
        [-1], [N], [0, -N], [10**30], [True], [1.0], ["0"], [None], [[0], [1, 2]], 3, None, "0",
        torch.tensor([0.5]), torch.tensor([True, False]), torch.tensor([-1]), torch.tensor(float("nan")),
        np.array([1.5]), np.array(["a"]),
    ],
)  # fmt: skip
def test_row_numbers(bank: AnchorBank, numbers: Any) -> None:
    for call in (bank.take, bank.gather, lambda given: Queries.of_rows(bank, given)):
        with pytest.raises(BankError, match=r"^rows must be "):
            call(numbers)


def test_row_numbers_of_any_type_and_shape(bank: AnchorBank) -> None:
    for numbers in ([3, 1], (3, 1), torch.tensor([3, 1], dtype=torch.int16), np.array([3, 1], dtype=np.uint8)):
        assert bank.take(numbers, ["id"]).column("id").to_pylist() == ["r3", "r1"]
        assert bank.gather(numbers)[:, 0].tolist() == [3, 1]
    assert bank.gather(torch.tensor([[3], [1]])).tolist() == [[[3, 0]], [[1, 0]]]
    assert bank.gather(torch.tensor(3)).tolist() == [3, 0]
    assert (bank.take([]).num_rows, bank.gather([]).shape) == (0, (0, 2))
    for names in (["nothing"], ["id", "a.b"], [3], ["point.item"]):
        with pytest.raises(BankError, match="has no column"):
            bank.take([0], names)


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
def test_queries_that_are_no_points(bank: AnchorBank, query: Any, message: str) -> None:
    with pytest.raises(BankError, match=message):
        bank.search(query, 3)
    if isinstance(query, torch.Tensor) and query.dim() == 2:
        with pytest.raises(BankError, match=message):
            select(bank, Queries(points=query), 3)
        with pytest.raises(BankError, match=message):
            bank.rank(query, torch.zeros(len(query), 1, dtype=torch.int64), 1)


def test_number_of_neighbours_and_weight(bank: AnchorBank) -> None:
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
            bank.search(query, k)  # type: ignore[arg-type]
        with pytest.raises(BankError, match="k must be "):
            select(bank, Queries(points=query), k)  # type: ignore[arg-type]
    for weight in (float("nan"), float("-inf"), "1", None):
        with pytest.raises(BankError, match="depth_weight must be a finite number"):
            bank.search(query, 3, depth_weight=weight)  # type: ignore[arg-type]
        with pytest.raises(BankError, match="depth_weight must be a finite number"):
            select(bank, Queries(points=query), 3, depth_weight=weight)  # type: ignore[arg-type]
    assert bank.search(query, 10**6).rows.tolist() == [list(range(N))]
    assert bank.search(query.requires_grad_(), np.int64(2)).rows.tolist() == [[0, 1]]  # type: ignore[arg-type]
    assert bank.search(query.double(), 2, depth_weight=2).rows.tolist() == [[N - 1, N - 2]]


@pytest.mark.parametrize("version", [-1, 0, 99, True, 1.0, "1", "latest", 10**30])
def test_versions_that_are_none(bank: AnchorBank, version: Any) -> None:
    with pytest.raises(BankError, match="version"):
        AnchorBank.open(bank.folder, version)


@pytest.mark.parametrize("keep", [0, -1, True, 1.5, "1", None])
def test_keep(bank: AnchorBank, keep: Any) -> None:
    bank.append(rows(N, 1))
    with pytest.raises(BankError, match="compact: keep must be "):
        bank.compact(keep)
    assert len(bank.versions()) == 2
    bank.compact(10**6)
    assert len(AnchorBank.open(bank.folder)) == N + 1


# --- time ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Tokyo"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """The zone of this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


def test_moments_are_the_same_in_every_zone(bank: AnchorBank, zone: str) -> None:
    (_, made), first = bank.versions()[0], bank.version
    assert abs(datetime.now(timezone.utc) - made) < timedelta(minutes=5)
    moment = made + timedelta(microseconds=1)
    bank.append(rows(N, 1))
    local = datetime.fromtimestamp(moment.timestamp())
    for when in (moment, moment.astimezone(ZoneInfo("Asia/Kolkata")), local.astimezone(), local):
        assert bank.nearest_version(when).version == first
    with pytest.raises(BankError, match="has no version as old as"):
        bank.nearest_version(local - timedelta(minutes=5))


def test_moments_without_a_version(bank: AnchorBank) -> None:
    (_, made), first = bank.versions()[0], bank.version
    assert made.tzinfo is timezone.utc
    assert bank.nearest_version(made).version == first
    for moment in (made - timedelta(microseconds=1), datetime(2, 1, 2)):
        with pytest.raises(BankError, match="has no version as old as"):
            bank.nearest_version(moment)
    assert bank.nearest_version(datetime(9998, 1, 1)).version == first
    for wrong in (date(2026, 1, 1), 0, "yesterday", None):
        with pytest.raises(BankError, match="when must be a datetime"):
            bank.nearest_version(wrong)  # type: ignore[arg-type]
    bank.append(rows(N, 1))
    bank.compact()
    with pytest.raises(BankError, match="has no version as old as"):
        bank.nearest_version(made)
    with pytest.raises(BankError, match=f"has no version {first}"):
        AnchorBank.open(bank.folder, first)


# --- other processes -----------------------------------------------------------------------------------------------

READS: dict[str, Callable[[AnchorBank], Any]] = {
    "search": lambda bank: bank.search(torch.zeros(1, 2), 3).rows.tolist(),
    "filter": lambda bank: bank.where("id = 'r3'").tolist(),
    "take": lambda bank: bank.take([0, 1], ["id"]).column("id").to_pylist(),
    "table": lambda bank: bank.table(["id"]).num_rows,
    "vectors": lambda bank: len(bank.vectors()),
    "select": lambda bank: select(bank, Queries.of_rows(bank, torch.tensor([3])), 2).tolist(),
    "len": len,
}


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize("what", ["append and delete", "compact"])
def test_a_reader_while_others_write(bank: AnchorBank, what: str, touched: bool) -> None:
    """It reads its version, or says that it is gone; never other rows, and no error of the storage."""
    for i in range(3):
        bank.append(rows(N + i, 1))
    reader = AnchorBank.open(bank.folder)
    want = {name: read(AnchorBank.open(bank.folder)) for name, read in READS.items()}
    if touched:
        reader.vectors()
    bank.append({"id": ["new"], "text": ["new"], "point": torch.zeros(1, 2)})
    bank.delete(["r0", "r1"])
    if what == "compact":
        bank.compact()
    told: list[str] = []
    for name, read in READS.items():
        try:
            got = read(reader)
        except BankError as error:
            told.append(str(error))
        else:
            assert got == want[name], name
    assert all("is gone, another process has compacted the bank: open it again" in message for message in told)
    assert bool(told) == (what == "compact")
    again = AnchorBank.open(bank.folder)
    assert len(again) == N + 2
    assert again.search(torch.zeros(1, 2), 1).rows.tolist() == [[N + 1]]
    # a writer opens the latest version
    assert reader.append(rows(100, 1)) == 1
    assert len(reader) == N + 3


# --- copies of the vectors -----------------------------------------------------------------------------------------


def files(bank: AnchorBank) -> list[Path]:
    return sorted((bank.folder / "vectors").iterdir())


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped bit": lambda content: content[:9] + bytes([content[9] ^ 1]) + content[10:],
    "zeros": lambda content: bytes(len(content)),
    "rows swapped": lambda content: content[8:16] + content[:8] + content[16:],
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + bytes(8),
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_vectors_are_made_again(bank: AnchorBank, damage: str) -> None:
    bank.append(rows(N, 4))
    want = torch.cat(bank.vectors()).clone()
    assert want[:, 0].tolist() == list(range(N + 4))
    good = {path: path.read_bytes() for path in files(bank)}
    for path, content in good.items():
        path.write_bytes(DAMAGES[damage](content))
    assert torch.equal(torch.cat(AnchorBank.open(bank.folder).vectors()), want)
    assert {path: path.read_bytes() for path in files(bank)} == good


def test_vectors_of_another_bank_are_not_taken(bank: AnchorBank, tmp_path: Path) -> None:
    """As a backup that is put back by halves would leave them."""
    other = AnchorBank.build(tmp_path / "other", rows(100))
    (mine,), (theirs,) = files(bank), files(other)
    mine.write_bytes(theirs.read_bytes())
    assert AnchorBank.open(bank.folder).gather(torch.arange(N))[:, 0].tolist() == list(range(N))


def test_damaged_rows_are_told(bank: AnchorBank) -> None:
    for path in (bank.folder / "anchors.lance" / "data").iterdir():
        path.write_bytes(b"\0" * path.stat().st_size)
    reader = AnchorBank.open(bank.folder)
    for read in (lambda: reader.take([0]), lambda: reader.table(["id"]), lambda: reader.where("id = 'r1'")):
        with pytest.raises(BankError, match=r"cannot be read|cannot filter by"):
            read()
    assert lance.dataset(str(bank.folder / "anchors.lance")).count_rows() == N


@pytest.mark.parametrize("length", [0, 4, 163])
def test_a_version_that_is_cut_is_told(bank: AnchorBank, length: int) -> None:
    """The storage panics where a file ends before its footer says so."""
    for path in (bank.folder / "anchors.lance" / "_versions").glob("*.manifest"):
        path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(BankError, match="cannot be read"):
        AnchorBank.open(bank.folder)


def test_a_version_with_any_byte_changed_is_told_or_read(bank: AnchorBank) -> None:
    """Damage that the storage notices late, or by a panic, is told as any other."""
    path = max((bank.folder / "anchors.lance" / "_versions").glob("*.manifest"))
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with contextlib.suppress(BankError):  # where the byte means something
            AnchorBank.open(bank.folder)
    path.write_bytes(whole)
    AnchorBank.open(bank.folder)
