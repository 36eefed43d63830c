"""The metadata of a bank: folders that are none, and files that are damaged."""

import json
from pathlib import Path

import pytest

from icl.bank.anchor_bank import AnchorBank
from icl.bank.schema import BankError
from tests.icl.banks import numbered_rows


def test_damaged_and_foreign_folders(numbered_bank: AnchorBank, tmp_path: Path) -> None:
    with pytest.raises(BankError, match=r"there is no bank at .*: build one"):
        AnchorBank.open(tmp_path / "nowhere")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(BankError, match=r"is not a bank, it has no bank\.json"):
        AnchorBank.open(tmp_path / "foreign")
    with pytest.raises(BankError, match="is not empty and no bank"):
        AnchorBank.build(tmp_path / "foreign", numbered_rows(100, 2))
    assert (tmp_path / "foreign" / "notes.txt").read_text() == "mine"
    meta = numbered_bank.folder / "bank.json"
    good = json.loads(meta.read_text())
    for text, message in [
        ("{", "damaged .*restore it from a backup"),
        ("[]", "damaged"),
        (json.dumps({**good, "format": 2}), "format version 2, this version of icl reads 1"),
        (json.dumps({**good, "dim": 3}), "do not match its bank.json"),
        (json.dumps({**good, "c": -1}), "damaged .*implausible"),
        (json.dumps({**good, "surprise": 1}), "damaged"),
    ]:
        meta.write_text(text)
        with pytest.raises(BankError, match=message):
            AnchorBank.open(numbered_bank.folder)
    meta.write_text(json.dumps(good))
    for path in (numbered_bank.folder / "anchors.lance" / "_versions").iterdir():
        path.write_bytes(b"\0" * 64)
    with pytest.raises(BankError, match="restore it, or build the bank again"):
        AnchorBank.open(numbered_bank.folder)
