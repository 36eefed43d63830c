"""The facts of a bank."""

from pathlib import Path

import pytest

from icl.bank.report import write_report
from icl.bank.schema import BankError
from icl.bank.summary import describe_bank
from icl.common.formatting import format_fact
from tests.icl.bank.test_report import build


def test_facts(tmp_path: Path) -> None:
    bank = build(tmp_path, "row ")
    known = describe_bank(bank.folder, bank.meta, bank.dataset)
    assert (known["rows"], known["dimension"], known["c"], known["embedder"], known["lift"]) == (
        24,
        3,
        1.0,
        None,
        False,
    )
    assert known["depth"] == pytest.approx({"least": 0, "median": 11.5 / 4, "greatest": 23 / 4}, rel=1e-6)
    assert known["columns"] == ["id", "image", "text", "digest", "depth", "label"]
    bank.delete(where="depth > 1")
    assert (
        describe_bank(bank.folder, bank.meta, bank.dataset)["rows"],
        describe_bank(bank.folder, bank.meta, bank.dataset)["versions"],
    ) == (5, 2)
    bank.delete(where="id IS NOT NULL")
    assert describe_bank(bank.folder, bank.meta, bank.dataset)["depth"] == {}
    with pytest.raises(BankError, match="has no rows to report"):
        write_report(bank, tmp_path / "page")


def test_facts_as_text() -> None:
    assert [format_fact(v) for v in (1234567, 0.123456, None, True, "a", ["a", 2], {"a": 0.5}, {})] == [
        "1,234,567", "0.1235", "none", "yes", "a", "a, 2", "a 0.5", "none",
    ]  # fmt: skip
