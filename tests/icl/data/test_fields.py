"""Values of every Arrow type as text."""

import datetime
import decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from icl.bank.anchor_bank import AnchorBank
from icl.bank.embedding.pairs import load_pairs
from icl.bank.selection.queries import Queries
from icl.bank.selection.select_rows import select
from icl.common.files import digest
from icl.data.records import Records


def test_values_of_parquet_as_text(tmp_path: Path) -> None:
    columns = {
        "float32": pa.array([0.1, None], pa.float32()),
        "float16": pa.array(np.array([0.1, np.nan], np.float16)),
        "float64": pa.array([0.1, float("nan")]),
        "int8": pa.array([-3, None], pa.int8()),
        "uint64": pa.array([2**64 - 1, None], pa.uint64()),
        "decimal": pa.array([decimal.Decimal("3.50"), None]),
        "bool": pa.array([True, None]),
        "date": pa.array([datetime.date(2021, 3, 4), None]),
        "time": pa.array([datetime.time(9, 45), None]),
        "timestamp": pa.array([datetime.datetime(2021, 3, 4, 9, 45), None]),
        "dictionary": pa.array(["a", None]).dictionary_encode(),
        "large": pa.array(["a", None], pa.large_string()),
        "view": pa.array(["a", None], pa.string_view()),
        "binary": pa.array([b"a", None]),
    }
    expected = {
        "float32": "0.1", "float16": "0.1", "float64": "0.1", "int8": "-3", "uint64": "18446744073709551615",
        "decimal": "3.50", "bool": "true", "date": "2021-03-04", "time": "09:45:00", "timestamp": "2021-03-04 09:45:00",
    }  # fmt: skip
    for name, column in columns.items():
        table = pa.table({"question": ["q", "r"], "answer": column, "hint": column})
        pyarrow.feather.write_feather(table, tmp_path / f"{name}.feather", compression="uncompressed")
        for form in (table, tmp_path / f"{name}.feather"):
            records = Records(form)
            assert records.answers == [expected.get(name, "a"), None], name
            if name != "binary":  # of which only a column of texts is one
                assert [record.fields["hint"] for record in records] == [expected.get(name, "a"), ""]
    lists = pa.array([["a", "b"], None, []], pa.large_list(pa.large_string()))
    table = pa.table({"question": ["q"] * 3, "answers": lists, "numbers": pa.array([[0.1], [], None])})
    pyarrow.parquet.write_table(table.slice(1), tmp_path / "lists.parquet")
    assert [record.references for record in Records(table)] == [("a", "b"), (), ()]
    assert [record.references for record in Records(tmp_path / "lists.parquet")] == [(), ()]
    single = table.set_column(1, "answers", pa.array([[0.1], None, [2, 0.5]], pa.list_(pa.float32())))
    assert [record.references for record in Records(single)] == [("0.1",), (), ("2.0", "0.5")]
    for wrong, message in (
        (pa.array([b"\xff"]), "answer must be text, got binary"),
        (pa.array([["a"]]), "answer must be text, got list"),
        (pa.array([{"a": "b"}]), "answer must be text, got struct"),
    ):
        pyarrow.parquet.write_table(pa.table({"question": ["q"], "answer": wrong}), tmp_path / "wrong.parquet")
        with pytest.raises(ValueError, match=f"Records: {tmp_path}/wrong.parquet: {message}"):
            Records(tmp_path / "wrong.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "lists.parquet").read_bytes()[:-30])
    with pytest.raises(ValueError, match=f"Records: {tmp_path}/cut.parquet: "):
        Records(tmp_path / "cut.parquet")


STRINGS = {
    "string": lambda values: pa.array(values, pa.string()),
    "large_string": lambda values: pa.array(values, pa.large_string()),
    "string_view": lambda values: pa.array(values, pa.string_view()),
    "dictionary": lambda values: pa.array(values).dictionary_encode(),
    "dictionary of large_string": lambda values: pa.array(values, pa.large_string()).dictionary_encode(),
    "dictionary of string_view": lambda values: pa.DictionaryArray.from_arrays(
        pa.array([values.index(value) for value in values], pa.uint32()), pa.array(values, pa.string_view())
    ),
}


@pytest.mark.parametrize("kind", STRINGS)
def test_strings_of_every_arrow_type(tmp_path: Path, kind: str) -> None:
    """Images are found, digests are theirs, and no query is its own demonstration."""
    string = STRINGS[kind]
    for i in range(3):
        Image.new("RGB", (4, 4), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    names = ["0.png", "1.png", "2.png"]
    columns = {"id": string(["a", "b", "c"]), "image": string(names), "label": string(["x", "y", "x"])}
    table = pa.table({**columns, "point": [[0.0, 0.1 * i] for i in range(3)]})
    pyarrow.feather.write_feather(table, tmp_path / "rows.feather", compression="uncompressed")
    bank = AnchorBank.build(tmp_path / "bank", tmp_path / "rows.feather")
    assert bank.take([0, 1, 2], ["id", "image", "label", "digest"]).to_pylist() == [
        {"id": i, "image": str(tmp_path / n), "label": x, "digest": digest((tmp_path / n).read_bytes())}
        for i, n, x in zip("abc", names, "xyx")
    ]
    asked = table.set_column(0, "id", string(["q", "r", "s"]))
    pyarrow.feather.write_feather(asked, tmp_path / "queries.feather", compression="uncompressed")
    queries = Queries.read(bank, tmp_path / "queries.feather")
    assert not (select(bank, queries, 2) == torch.arange(3)[:, None]).any()
    assert len(bank.where("label = 'x'")) == 2
    assert [len(record.images) for record in Records(tmp_path / "rows.feather")] == [1, 1, 1]
    vectors = pa.table({**columns, "image_embedding": [[0.0, 1.0]] * 3})
    pyarrow.feather.write_feather(vectors, tmp_path / "vectors.feather", compression="uncompressed")
    assert load_pairs(tmp_path / "vectors.feather", "label").pairs.tolist() == [[0, 2], [2, 0]]
