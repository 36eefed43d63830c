"""Copies of the vectors that are damaged, or of another bank."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from icl.bank.anchor_bank import AnchorBank
from tests.icl.banks import numbered_rows

N = 12


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
def test_damaged_vectors_are_made_again(numbered_bank: AnchorBank, damage: str) -> None:
    numbered_bank.append(numbered_rows(N, 4))
    want = torch.cat(numbered_bank.vectors()).clone()
    assert want[:, 0].tolist() == list(range(N + 4))
    good = {path: path.read_bytes() for path in files(numbered_bank)}
    for path, content in good.items():
        path.write_bytes(DAMAGES[damage](content))
    assert torch.equal(torch.cat(AnchorBank.open(numbered_bank.folder).vectors()), want)
    assert {path: path.read_bytes() for path in files(numbered_bank)} == good


def test_vectors_of_another_bank_are_not_taken(numbered_bank: AnchorBank, tmp_path: Path) -> None:
    """As a backup that is put back by halves would leave them."""
    other = AnchorBank.build(tmp_path / "other", numbered_rows(100))
    (mine,), (theirs,) = files(numbered_bank), files(other)
    mine.write_bytes(theirs.read_bytes())
    assert AnchorBank.open(numbered_bank.folder).gather(torch.arange(N))[:, 0].tolist() == list(range(N))
