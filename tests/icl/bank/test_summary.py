"""The facts of a bank."""

from pathlib import Path

import pytest

from icl.bank.report import write_report
from icl.bank.schema import BankError
from icl.bank.summary import describe_bank
from tests.icl.bank.test_report import build


def test_facts(tmp_path: Path) -> None:
    bank = build(tmp_path, "row ")
    facts = describe_bank(bank.folder, bank.meta, bank.dataset)
    assert (facts["rows"], facts["dimension"], facts["c"], facts["embedder"], facts["lift"]) == (
        24,
        3,
        1.0,
        None,
        False,
    )
    assert facts["depth"] == pytest.approx({"least": 0, "median": 11.5 / 4, "greatest": 23 / 4}, rel=1e-6)
    assert facts["columns"] == ["id", "image", "text", "digest", "depth", "label"]
    bank.delete(where="depth > 1")
    assert (
        describe_bank(bank.folder, bank.meta, bank.dataset)["rows"],
        describe_bank(bank.folder, bank.meta, bank.dataset)["versions"],
    ) == (5, 2)
    bank.delete(where="id IS NOT NULL")
    assert describe_bank(bank.folder, bank.meta, bank.dataset)["depth"] == {}
    with pytest.raises(BankError, match="has no rows to report"):
        write_report(bank, tmp_path / "page")
