"""Rows from CSV and JSON: text is what the file has, whatever it looks like, and errors name file, line and field."""

import csv
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icl.bank.anchor_bank import AnchorBank
from icl.bank.schema import BankError
from icl.data.records import Records
from icl.data.source import read_batches

# What readers that guess take for numbers, truths, times, or nothing.
WRITTEN = [
    "007", "3.50", "1e5", "1E-7", "-0", "+4", "98765432109876543210987", "0x1F", "1_000", "1,5", "NA", "N/A", "null",
    "None", "nan", "inf", "-inf", "true", "True", "FALSE", "yes", "2021-03-04", "2021-03-04T09:45:00Z", "09:45", " a ",
    'say "no"', "two\nlines", "two\r\nlines", "[1]", '{"a": 1}', "ä €", "a\u2028b",
]  # fmt: skip


def cell(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def lines(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("written", WRITTEN)
def test_text_is_what_the_file_has(tmp_path: Path, written: str) -> None:
    """As id, question, answer, one of the answers, and a field for prompts; in a bank too."""
    row = {"id": written, "question": written, "answer": written, "hint": written}
    head = "id,question,answer,hint,answers"
    cells = ",".join([cell(written)] * 4 + [cell(json.dumps([written]))])
    (tmp_path / "rows.csv").write_bytes(f"{head}\n{cells}\n".encode())
    table = pa.table({name: [value] for name, value in row.items()} | {"answers": [[written]]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    lines(tmp_path, {**row, "answers": [written]})
    for name in ("rows.csv", "rows.jsonl", "rows.parquet"):
        (record,) = Records(tmp_path / name)
        assert (record.id, record.question, record.answer, record.fields["hint"]) == (written,) * 4, name
        assert record.references == (written,), name
        (row_of_bank,) = pa.Table.from_batches(read_batches(tmp_path / name, 10)).to_pylist()
        assert row_of_bank == {**row, "answers": [written]}


def test_csv_as_programs_write_it(tmp_path: Path) -> None:
    """With a mark of UTF-8, ends of lines of Windows and of an old Mac, empty lines, and the index of pandas."""
    for name, content in {
        "bom": b"\xef\xbb\xbfid,question\n01,why ?\n",
        "windows": b"id,question\r\n01,why ?\r\n\r\n",
        "mac": b"id,question\r01,why ?\r",
        "no end": b"id,question\n01,why ?",
        "pandas": b",id,question\n0,01,why ?\n",
    }.items():
        (tmp_path / f"{name}.csv").write_bytes(content)
        (record,) = Records(tmp_path / f"{name}.csv")
        assert (record.id, record.question, dict(record.fields)) == ("01", "why ?", {"id": "01", "question": "why ?"})
    (tmp_path / "blank.csv").write_text('id,question,answer\n1,a,\n2,b,""\n3,c," "\n4,d,NA\n')
    assert Records(tmp_path / "blank.csv").answers == [None, None, None, "NA"]


def test_numbers_of_json_are_text_as_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"id": 7, "question": "q", "answer": 3.50, "price": 2}\n'
        '{"id": 1e5, "question": "q", "answers": [2, 2.50, true, "a"], "price": 2.5}\n'
        '{"id": 98765432109876543210987, "question": "q", "answer": false, "price": "none"}\n'
        '{"id": 0, "question": "q", "answers": [-0, -0.0], "price": -0}\n'
    )
    records = Records(path)
    assert records.ids == ["7", "1e5", "98765432109876543210987", "0"]
    assert records.answers == ["3.50", "2", "false", "-0"]
    assert records[1].references == ("2", "2.50", "true", "a")
    assert records[3].references == ("-0", "-0.0")
    assert [record.fields["price"] for record in records] == ["2", "2.5", "none", "-0"]
    # for a bank too, whose other columns are numbers where all are
    assert pa.Table.from_batches(read_batches(path, 1)).column("price").to_pylist() == ["2", "2.5", "none", "-0"]
    path.write_text('{"data": [{"question": "q"}]}')
    with pytest.raises(ValueError, match=f"{path}: a row must have single values, got only lists and objects: data"):
        Records(path)
    path.write_text('{"question": "a", "\\udc00": 1}')
    with pytest.raises(ValueError, match=f"{path}: the name .* of a field is not Unicode"):
        list(read_batches(path, 1))
    path.write_text('{"id": 1, "n": 2, "big": 1, "box": [1]}\n{"id": 2, "n": 2.5, "big": 18446744073709551616}\n')
    table = pa.Table.from_batches(read_batches(path, 1))
    assert table.to_pylist() == [
        {"id": "1", "n": 2.0, "big": "1", "box": [1]},
        {"id": "2", "n": 2.5, "big": "18446744073709551616", "box": None},
    ]


def test_columns_are_those_of_all_rows(tmp_path: Path) -> None:
    """One that comes late, is null at first, or is of another kind later; over more than a megabyte."""
    first = {"question": "q" * 1000, "answer": "x", "empty": None, "list": [], "of": {"a": None}}
    last = {"question": "q", "answer": 5, "hint": "blue", "list": [3], "of": {"a": "b", "c": 1}}
    path = lines(tmp_path, *[first] * 1200, last)
    records = Records(path)
    assert records.answers == ["x"] * 1200 + ["5"]
    assert [records[i].fields["hint"] for i in (0, 1200)] == ["", "blue"]
    rows = [row for batch in read_batches(path, 100) for row in batch.to_pylist()]
    assert rows[0] == {**first, "id": "00000000", "hint": None, "of": {"a": None, "c": None}}
    assert rows[1200] == {**last, "id": "00001200", "answer": "5", "empty": None}
    lines(tmp_path, {"id": "a", "point": [0.0, 1.0], "empty": None}, name="bank.jsonl")
    bank = AnchorBank.build(tmp_path / "bank", tmp_path / "bank.jsonl")
    assert bank.append(lines(tmp_path, {"id": "b", "point": [1.0, 0.0], "empty": "no"}, name="more.jsonl")) == 1
    assert bank.take([0, 1], ["empty"]).column("empty").to_pylist() == [None, "no"]


def test_an_array_of_objects(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('\n [{"question": "a", "answer": "1"},\n  {"question": "b", "answers": ["2"]}]')
    assert Records(tmp_path / "rows.json").answers == ["1", "2"]
    (tmp_path / "lines.json").write_text('{"question": "a", "answer": "1"}\n{"question": "b", "answers": ["2"]}\n')
    assert Records(tmp_path / "lines.json").answers == ["1", "2"]


ERRORS = {
    "ragged.csv": ("id,question\n1,a\n2,b,c\n", r"line 3: there must be 2 cells, as in the header, got 3"),
    "short.csv": ('id,question\n"a\nb",a\n2\n', r"line 4: there must be 2 cells, as in the header, got 1"),
    "twice.csv": ("id,answer,answer\n1,a,b\n", "line 1: 'answer' is the name of two columns"),
    "open.csv": ('id,question\n1,a\n2,"b\n3,c\n', "line 3: unexpected end of data"),
    "latin.csv": (b"id,question\n1,a\n2,caf\xe9\n", "line 3, character 6: files must be UTF-8"),
    "utf16.csv": ("id,question\n".encode("utf-16"), "line 1, character 1: files must be UTF-8"),
    "answers.csv": ("id,answers\n1,[\"a\"]\n2,a|b\n", r"line 3: answers must be a list of texts, such as .*got 'a\|b'"),
    "latin.jsonl": (b'{"question": "a"}\n{"question": "caf\xe9"}\n', "line 2, character 18: files must be UTF-8"),
    "half.jsonl": ('{"question": "a"}\n{"question": \n', "line 2, column 1[34]: Expecting value"),
    "row.jsonl": ('{"question": "a"}\n["b"]\n', r"line 2: a row must be an object, got \['b'\]"),
    "array.jsonl": ('[{"question": "a"}]\n', "line 1: a row must be an object"),
    "number.json": ('[{"question": "a"}, 3]', "item 2: a row must be an object, got 3"),
    "comma.json": ('[{"question": "a"},\n\n {"question": "b",}]', "line 3, column 1[79]: "),
    "null.jsonl": ('{"question": "a"}\n\n{"question": "a", "answers": [null, "a"]}', r"line 3: answers must be a list"),
    "list.jsonl": ('{"question": "a", "answer": ["a"]}', r"line 1: answer must be a text or a number, got \['a'\]"),
    "vqa.jsonl": ('{"question": "a", "answers": [{"answer": "net"}]}', r"line 1: answers must be a list of texts"),
    "nan.jsonl": ('{"question": "a", "answer": NaN}', "line 1: NaN is not a number in JSON"),
    "twice.jsonl": ('{"question": "a", "question": "b"}', "line 1: field 'question' is there twice"),
    "surrogate.jsonl": ('{"question": "a"}\n{"question": "\\ud800"}', "line 2: question .* surrogates not allowed"),
    "digits.jsonl": ('{"question": "a", "n": ' + "9" * 5000 + "}", "line 1: .*4300"),
    "case.csv": ("ID,Question\n1,a\n", "line 2: .* got neither: Question must be written question"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_file_line_and_field(tmp_path: Path, name: str) -> None:
    content, message = ERRORS[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"Records: {path}, {message}"):
        Records(path)


def test_vectors_in_text_files(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('id,point\n01,"[0.5, 1]"\n02,"[1, 2]"\n')
    bank = AnchorBank.build(tmp_path / "bank", tmp_path / "rows.csv")
    torch.testing.assert_close(bank.gather(torch.tensor([0, 1])), torch.tensor([[0.5, 1], [1, 2]]), rtol=0, atol=0)
    (tmp_path / "wrong.csv").write_text('id,point\n01,"[0.5, 1]"\n02,"0.5 1"\n')
    with pytest.raises(ValueError, match=r"wrong.csv, line 3: point .*0.5 1"):
        AnchorBank.build(tmp_path / "none", tmp_path / "wrong.csv")
    years = AnchorBank.build(tmp_path / "years", {"id": ["a"], "year": [1990], "point": torch.zeros(1, 2)})
    (tmp_path / "more.csv").write_text('id,year,point\nb,1991,"[0, 1]"\nc,,"[0, 1]"\n')
    assert years.append(tmp_path / "more.csv") == 2
    assert years.take([0, 1, 2], ["year"]).column("year").to_pylist() == [1990, 1991, None]
    (tmp_path / "worse.csv").write_text('id,year,point\nd,1991,"[0, 1]"\ne,199x,"[0, 1]"\n')
    with pytest.raises(BankError, match=r"row 1: column year must be int64, got string: .*199x"):
        years.append(tmp_path / "worse.csv")
    lines(tmp_path, {"id": 1, "point": [0.5, "a"]})
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1: point "):
        AnchorBank.build(tmp_path / "none", tmp_path / "rows.jsonl")


def test_files_that_crash_readers_are_errors(tmp_path: Path) -> None:
    """Deep nesting, and offsets that lead out of the file; in a process of its own, which a crash would end."""
    expected = {}
    for depth in (3_000, 100_000):
        deep = "[" * depth + "]" * depth
        for form, content in {
            "jsonl": '{"question": "a", "x": %s}',
            "json": '[{"question": "a", "x": %s}]',
            "csv": "question,answers\na,%s",
        }.items():
            path = tmp_path / f"{depth}.{form}"
            path.write_text(content % deep)
            # a cell of a CSV has its own limit
            cell = "answers must be a list of texts" if depth == 3_000 else "field larger than field limit"
            expected[path] = f"line 2: {cell}" if form == "csv" else "line 1: a value must be nested at most 32 deep"
    table, path = pa.table({"question": ["a", "b", "c"]}), tmp_path / "rows.feather"
    pyarrow.feather.write_feather(table, path, compression="uncompressed")
    good, offsets = path.read_bytes(), struct.pack("<4i", 0, 1, 2, 3)
    assert good.count(offsets) == 1
    path.write_bytes(good.replace(offsets, struct.pack("<4i", 0, 1, 1 << 28, 3)))
    expected[path] = ""
    code = "import sys; from icl.data.records import Records\nfor path in sys.argv[1:]:\n"
    code += "    try: Records(path)\n    except ValueError as error: print(repr(str(error)[:300]))"
    process = subprocess.run([sys.executable, "-c", code, *map(str, expected)], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    errors = process.stdout.splitlines()
    assert len(errors) == len(expected)
    for (path, message), error in zip(expected.items(), errors):
        assert re.match(f"'Records: {path}[,:] {message}", error)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0"))] * 3), min_size=1, max_size=5)
)
def test_any_text_comes_back(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    """As the csv and json modules wrote it, which in Python 3.10 takes no NUL; a blank id would be refused."""
    rows = [(f"{i}{name}", f"q{question}", answer) for i, (name, question, answer) in enumerate(rows)]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "question", "hint"), *rows])
    lines(tmp_path, *[dict(zip(("id", "question", "hint"), row)) for row in rows])
    for name in ("rows.csv", "rows.jsonl"):
        records = [(record.id, record.question, record.fields["hint"]) for record in Records(tmp_path / name)]
        assert records == rows
