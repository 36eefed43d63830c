"""Folders to work in, with the files that commands are given."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import normalize

from icl.bank.anchor_bank import AnchorBank
from tests.icl.commands import points, write_digits, write_rows


@pytest.fixture
def digit_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with digits to train on and to be tested by."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("icl.evaluation.cost.SECONDS", 0)
    (tmp_path / "images").mkdir()
    # they are in the order of their digits
    write_digits(tmp_path, "train", "train", range(0, 1437, 36))
    write_digits(tmp_path, "dev", "dev", range(0, 120, 20))
    write_digits(tmp_path, "test", "test", range(0, 240, 30))
    return tmp_path


@pytest.fixture
def anchor_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with rows, queries and embeddings for banks."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "demos.jsonl", points(30), task=["vqa", "ocr", "[red]"] * 10)
    write_rows(tmp_path / "more.jsonl", points(4, seed=1), first=30)
    write_rows(tmp_path / "queries.jsonl", points(3, seed=2), first=100)
    np.save(tmp_path / "queries.npy", points(2, seed=3).numpy())
    generator = torch.Generator().manual_seed(0)
    labels = [i % 4 for i in range(60)]
    noise = torch.randn(60, 6, generator=generator)
    e = normalize(torch.randn(4, 6, generator=generator)[labels] + 0.3 * noise, dim=1)
    columns = {"image_embedding": e.tolist(), "text_embedding": (e + 0.1 * noise.flip(0)).tolist()}
    parents = [None if i < 4 else f"r{i % 4}" for i in range(60)]
    table = {"id": [f"r{i}" for i in range(60)], "label": labels, "parent": parents, **columns}
    pq.write_table(pa.table(table), tmp_path / "embeddings.parquet")
    return tmp_path


@pytest.fixture
def bank(anchor_files: Path) -> AnchorBank:
    return AnchorBank.build(anchor_files / "bank", anchor_files / "demos.jsonl")
