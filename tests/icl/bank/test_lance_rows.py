"""Rows in Lance: moments in any time zone, other processes that write, damaged files."""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import lance
import pytest
import torch

from icl.bank.anchor_bank import AnchorBank
from icl.bank.schema import BankError
from icl.bank.selection.queries import Queries
from icl.bank.selection.select_rows import select
from tests.icl.banks import numbered_rows

N = 12


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Tokyo"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """The zone of this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


def test_moments_are_the_same_in_every_zone(numbered_bank: AnchorBank, zone: str) -> None:
    (_, created), first = numbered_bank.versions()[0], numbered_bank.version
    assert abs(datetime.now(timezone.utc) - created) < timedelta(minutes=5)
    moment = created + timedelta(microseconds=1)
    numbered_bank.append(numbered_rows(N, 1))
    local = datetime.fromtimestamp(moment.timestamp())
    for when in (moment, moment.astimezone(ZoneInfo("Asia/Kolkata")), local.astimezone(), local):
        assert numbered_bank.nearest_version(when).version == first
    with pytest.raises(BankError, match="has no version as old as"):
        numbered_bank.nearest_version(local - timedelta(minutes=5))


def test_moments_without_a_version(numbered_bank: AnchorBank) -> None:
    (_, created), first = numbered_bank.versions()[0], numbered_bank.version
    assert created.tzinfo is timezone.utc
    assert numbered_bank.nearest_version(created).version == first
    for moment in (created - timedelta(microseconds=1), datetime(2, 1, 2)):
        with pytest.raises(BankError, match="has no version as old as"):
            numbered_bank.nearest_version(moment)
    assert numbered_bank.nearest_version(datetime(9998, 1, 1)).version == first
    for wrong in (date(2026, 1, 1), 0, "yesterday", None):
        with pytest.raises(BankError, match="when must be a datetime"):
            numbered_bank.nearest_version(wrong)  # type: ignore[arg-type]
    numbered_bank.append(numbered_rows(N, 1))
    numbered_bank.compact()
    with pytest.raises(BankError, match="has no version as old as"):
        numbered_bank.nearest_version(created)
    with pytest.raises(BankError, match=f"has no version {first}"):
        AnchorBank.open(numbered_bank.folder, first)


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
def test_a_reader_while_others_write(numbered_bank: AnchorBank, what: str, touched: bool) -> None:
    """It reads its version, or says that it is gone; never other rows, and no error of the storage."""
    for i in range(3):
        numbered_bank.append(numbered_rows(N + i, 1))
    reader = AnchorBank.open(numbered_bank.folder)
    want = {name: read(AnchorBank.open(numbered_bank.folder)) for name, read in READS.items()}
    if touched:
        reader.vectors()
    numbered_bank.append({"id": ["new"], "text": ["new"], "point": torch.zeros(1, 2)})
    numbered_bank.delete(["r0", "r1"])
    if what == "compact":
        numbered_bank.compact()
    messages: list[str] = []
    for name, read in READS.items():
        try:
            got = read(reader)
        except BankError as error:
            messages.append(str(error))
        else:
            assert got == want[name], name
    assert all("is gone, another process has compacted the bank: open it again" in message for message in messages)
    assert bool(messages) == (what == "compact")
    again = AnchorBank.open(numbered_bank.folder)
    assert len(again) == N + 2
    assert again.search(torch.zeros(1, 2), 1).rows.tolist() == [[N + 1]]
    # a writer opens the latest version
    assert reader.append(numbered_rows(100, 1)) == 1
    assert len(reader) == N + 3


def test_damaged_rows_are_told(numbered_bank: AnchorBank) -> None:
    for path in (numbered_bank.folder / "anchors.lance" / "data").iterdir():
        path.write_bytes(b"\0" * path.stat().st_size)
    reader = AnchorBank.open(numbered_bank.folder)
    for read in (lambda: reader.take([0]), lambda: reader.table(["id"]), lambda: reader.where("id = 'r1'")):
        with pytest.raises(BankError, match=r"cannot be read|cannot filter by"):
            read()
    assert lance.dataset(str(numbered_bank.folder / "anchors.lance")).count_rows() == N


@pytest.mark.parametrize("length", [0, 4, 163])
def test_a_version_that_is_cut_is_told(numbered_bank: AnchorBank, length: int) -> None:
    """The storage panics where a file ends before its footer says so."""
    for path in (numbered_bank.folder / "anchors.lance" / "_versions").glob("*.manifest"):
        path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(BankError, match="cannot be read"):
        AnchorBank.open(numbered_bank.folder)


def test_a_version_with_any_byte_changed_is_told_or_read(numbered_bank: AnchorBank) -> None:
    """Damage that the storage notices late, or by a panic, is told as any other."""
    path = max((numbered_bank.folder / "anchors.lance" / "_versions").glob("*.manifest"))
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with contextlib.suppress(BankError):  # where the byte means something
            AnchorBank.open(numbered_bank.folder)
    path.write_bytes(whole)
    AnchorBank.open(numbered_bank.folder)
