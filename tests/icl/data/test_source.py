"""Rows from folders, tables and columns."""

import datetime
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from icl.bank.anchor_bank import AnchorBank
from icl.bank.schema import BankError
from icl.data.records import Records
from icl.data.source import read_batches


def test_files_of_other_types_in_a_folder(tmp_path: Path) -> None:
    """Nulls in one, numbers in the next; and images beside the file that names them."""
    for name, year in (("a", pa.nulls(1)), ("b", pa.array([1990])), ("c", pa.array([0.5]))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / name / "x.png")
        table = pa.table({"id": [name], "images": [["x.png"]], "year": year})
        pyarrow.parquet.write_table(table, tmp_path / name / "rows.parquet")
    rows = [row for batch in read_batches(tmp_path, 10) for row in batch.to_pylist()]
    assert [row["year"] for row in rows] == [None, 1990, 0.5]
    assert [record.images for record in Records(tmp_path)] == [(str(tmp_path / n / "x.png"),) for n in "abc"]
    pyarrow.parquet.write_table(pa.table({"id": ["d"], "year": ["old"]}), tmp_path / "d.parquet")
    with pytest.raises(ValueError, match=f"{tmp_path}/d.parquet: .*year has incompatible types"):
        list(read_batches(tmp_path, 10))


def test_a_bank_takes_no_bytes_for_a_path(tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "image": [b"\x89PNG"], "point": [[0.0, 1.0]]})
    with pytest.raises(BankError, match="image must be the path of a file, got binary"):
        AnchorBank.build(tmp_path / "bank", table)


def test_columns_of_python(tmp_path: Path) -> None:
    """Values of several kinds, of numpy, and of what stands for nothing."""
    columns: dict[str, Any] = {
        "question": np.array(["a", "b"]),
        "answers": [(1, "one"), np.array([0.1, 2.5], np.float32)],
        "hint": [datetime.date(2021, 3, 4), float("nan")],
        "mixed": [2, 2.5],
    }
    records = Records(columns)
    assert [record.references for record in records] == [("1", "one"), ("0.1", "2.5")]
    assert [record.fields["hint"] for record in records] == ["2021-03-04", ""]
    assert [record.fields["mixed"] for record in records] == ["2", "2.5"]
    wrong = [
        ({"question": ["a", "b"], "answer": ["x"]}, "columns must be of one length, and question has 2, answer has 1"),
        ({"question": ["a"], 5: ["x"]}, "columns must have names that are texts, got 5"),
        ({"question": ["\ud800"]}, "column question: .*surrogates not allowed"),
        ({"question": ["a"], "x": [object()]}, "column x: Could not convert"),
        ({"question": ["a"], "answers": [[None, "y"]]}, "row 0: answers must be a list of texts"),
        ({"question": [], "answer": []}, "there are no rows"),
        ({"question": ["a"], "image": ["x" * 5000]}, "row 0: there is no image"),
    ]
    for values, message in wrong:
        with pytest.raises(ValueError, match=message):
            Records(values)
    twice = pa.table([["a"], ["b"], ["c"]], names=["question", "x", "x"])
    with pytest.raises(ValueError, match="'x' is the name of two columns"):
        Records(twice)
    for point, message in (
        (torch.zeros(1, 0), r"point must have shape \(rows,\) or .*, got \(1, 0\)"),
        (torch.ones(1, 2, dtype=torch.complex64), "point must be of real numbers, got torch.complex64"),
        ([["a", "b"]], "point must be a column of vectors of numbers, got .*list<item: string>"),
    ):
        with pytest.raises(ValueError, match=message):
            AnchorBank.build(tmp_path / "none", {"id": ["a"], "point": point})
    with pytest.raises(BankError, match="row 1500 has no id"):
        AnchorBank.build(tmp_path / "bank", {"id": [*map(str, range(1500)), None], "point": torch.zeros(1501, 2)})


def test_classes_of_datasets_are_their_names() -> None:
    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.ClassLabel(names=["a", "b"])}
    )
    rows = datasets.Dataset.from_dict({"question": ["x", "y", "z"], "answer": [1, 0, -1]}, features)
    assert Records(rows).answers == ["b", "a", None]
    assert [record.answer for record in Records(rows.select([2, 1, 0]))] == [None, "a", "b"]
    with pytest.raises(ValueError, match="there are no rows"):
        Records(rows.select([]))


def test_a_stream_of_batches_is_read_as_its_table() -> None:
    """In slices of the size that is asked for, numbered through, without the whole in memory."""
    parts = [pa.record_batch({"question": [f"{i} {j}" for j in range(n)]}) for i, n in enumerate((5, 0, 3))]
    stream = pa.RecordBatchReader.from_batches(parts[0].schema, iter(parts))
    batches = list(read_batches(stream, 2))
    assert [batch.num_rows for batch in batches] == [2, 2, 1, 2, 1]
    rows = pa.Table.from_batches(batches).to_pylist()
    assert [row["id"] for row in rows] == [f"{i:08d}" for i in range(8)]
    assert [row["question"] for row in rows] == [f"{i} {j}" for i, n in ((0, 5), (2, 3)) for j in range(n)]
