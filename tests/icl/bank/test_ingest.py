"""Rows of any source become rows of a bank."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from icl.bank.anchor_bank import AnchorBank
from icl.bank.schema import BankError


def test_sources(tmp_path: Path) -> None:
    table = {
        "id": ["a", "b", "c"],
        "text": ["x", "y", None],
        "point": [[0.1, 0.2], [0.3, 0.4], [0.0, 0.0]],
        "n": [1, 2, 3],
    }
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(dict(zip(table, r))) for r in zip(*table.values())))
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as sink, pa.ipc.new_file(sink, pa.table(table).schema) as writer:
        writer.write_table(pa.table(table))
    expected = None
    for i, source in enumerate(("rows.jsonl", "rows.parquet", "rows.arrow", pa.table(table), table)):
        bank = AnchorBank.build(tmp_path / f"bank{i}", tmp_path / source if isinstance(source, str) else source)
        table_rows = bank.take(range(3)).to_pylist()
        assert torch.equal(bank.gather(torch.arange(3)), torch.tensor(table["point"]))
        assert [(r["id"], r["text"], r["n"]) for r in table_rows] == [("a", "x", 1), ("b", "y", 2), ("c", None, 3)]
        assert expected in (None, table_rows)
        expected = table_rows


def test_a_single_line_without_an_end(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "image": "a.png", "point": [0.5]}')
    bank = AnchorBank.build(tmp_path / "bank", tmp_path / "rows.jsonl")
    row = bank.take([0]).to_pylist()[0]
    assert (row["id"], row["image"]) == ("a", str(tmp_path.resolve() / "a.png"))


def test_folders_of_files_name_images_beside_them(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "in" / name).mkdir(parents=True)
        pq.write_table(
            pa.table({"id": [name], "image": ["a.png"], "point": [[1.0]]}), tmp_path / f"in/{name}/r.parquet"
        )
    bank = AnchorBank.build(tmp_path / "bank", tmp_path / "in")
    images = bank.take(range(2), ["image"]).column("image").to_pylist()
    assert images == [str(tmp_path.resolve() / "in" / name / "a.png") for name in ("one", "two")]


@pytest.mark.parametrize("name", ["meta.kind", "", "a`b", "_rowid", "_rowaddr"])
def test_names_that_the_storage_cannot_keep(tmp_path: Path, name: str) -> None:
    with pytest.raises(BankError, match="column"):
        AnchorBank.build(tmp_path / "bank", pa.table({"id": ["a"], "point": [[1.0]], name: ["x"]}))
    assert not (tmp_path / "bank" / "anchors.lance").exists()
    (tmp_path / "a.b.c").mkdir()
    bank = AnchorBank.build(tmp_path / "a.b.c", {"id": ["a"], "point": [[1.0]], 'a "b"/é': ["it's"]})
    assert AnchorBank.open(tmp_path / "a.b.c").rows_of('a "b"/é', "it's").tolist() == [0]
    assert bank.search(torch.zeros(1, 1), 1).rows.tolist() == [[0]]
