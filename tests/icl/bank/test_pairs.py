"""Pairs to learn a lift from, by text, by label and by parent."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from icl.bank.anchor_bank import AnchorBank
from icl.bank.embedding.pairs import load_pairs
from icl.bank.schema import BankError


def write_rows(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def test_images_and_their_texts(tmp_path: Path) -> None:
    """A row that lacks one of them is not paired; those of a bank are read too."""
    rows = {
        "point": torch.zeros(3, 2),
        "image_embedding": [[1.0, 0.0], None, [0.0, 2.0]],
        "text_embedding": [[3.0, 0.0], [4.0, 0.0], [0.0, 5.0]],
    }
    bank = AnchorBank.build(tmp_path / "bank", rows)
    loaded = load_pairs(bank.folder, "text")
    assert loaded.pairs.tolist() == [[0, 3], [2, 5]]
    assert loaded.embeddings[loaded.pairs].tolist() == [[[1, 0], [3, 0]], [[0, 2], [0, 5]]]
    assert loaded.groups is None


def test_rows_of_one_label(tmp_path: Path) -> None:
    """The most frequent item of a list counts, and a row without a label is like no other."""
    answers = [["a"], ["b", "a", "a"], None, [], ["c"]]
    rows = [{"image_embedding": [float(i), 1.0], "answers": labels} for i, labels in enumerate(answers)]
    loaded = load_pairs(write_rows(tmp_path, *rows), "label", label="answers")
    assert loaded.pairs.tolist() == [[0, 1], [1, 0]]
    assert loaded.groups is not None
    assert loaded.groups[0] == loaded.groups[1]
    assert len(loaded.groups.unique()) == 4


def test_rows_and_their_parents(tmp_path: Path) -> None:
    """A root is its own parent or has none; siblings are of one group."""
    parents = {"root": "root", "left": "root", "right": "root", "leaf": "left", "lost": "nowhere"}
    rows = [{"id": name, "parent": parent, "text_embedding": [1.0, 2.0]} for name, parent in parents.items()]
    loaded = load_pairs(write_rows(tmp_path, *rows), "parent")
    assert loaded.pairs.tolist() == [[1, 0], [2, 0], [3, 1]]
    assert loaded.groups is not None
    assert loaded.groups[1] == loaded.groups[2] != loaded.groups[3]


def test_errors(tmp_path: Path) -> None:
    bare, text = {"id": "a", "text": "x"}, {"id": "a", "text_embedding": [1.0]}
    for rows, pairing, message in [
        ([bare], "text", "has neither image_embedding nor text_embedding"),
        ([text], "text", "has text_embedding only, and nothing to pair it with"),
        ([{**text, "image_embedding": [1.0, 2.0]}], "text", "must have one width, got 2 and 1"),
        ([text], "label", "has no column label to pair by"),
        ([text], "parent", "has no column parent to pair by"),
    ]:
        with pytest.raises(BankError, match=message):
            load_pairs(write_rows(tmp_path, *rows), pairing)  # type: ignore[arg-type]
