"""Rows that cannot be used are all listed before a model is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from icl.bank import RowError, check_rows, sample_examples
from icl.bank.selection.demonstrated_records import DemonstratedRecords
from icl.cli.app import app
from icl.data.records import Records
from tests.icl.processors import picture

ROWS = 8
BROKEN = {
    2: b"no image at all",
    5: b"\x89PNG\r\n\x1a\n broken",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for i in range(ROWS):
        picture(i).save(tmp_path / f"{i}.png")
    BROKEN[6] = (tmp_path / "6.png").read_bytes()[:-60]
    for i, content in BROKEN.items():
        (tmp_path / f"{i}.png").write_bytes(content)
    return tmp_path


def write(folder: Path, name: str, rows: Any = range(ROWS), **more: Any) -> Path:
    lines = [{"id": f"r{i}", "image": f"{i}.png", "question": "what ?", "answer": "a", **more} for i in rows]
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / name


def listed(*args: Any, **options: Any) -> list[tuple[int, str]]:
    with pytest.raises(RowError) as raised:
        check_rows(*args, **options)
    return [(failure.row, failure.what) for failure in raised.value.failures]


def test_broken_images(folder: Path) -> None:
    """Of queries and pool, each once; only the queries that are drawn, where there is no pool."""
    path = write(folder, "train.jsonl")
    records = Records(path)
    broken = [(row, f"{path}, line {row + 1}") for row in sorted(BROKEN)]
    alone, demonstrated = (DemonstratedRecords(records, records, k) for k in (0, 2))
    assert listed({"train": alone, "dev": demonstrated}, ()) == broken
    sampled = sample_examples(alone, 3, 1)
    assert listed({"train": sampled}, ()) == [(r, w) for r, w in broken if r in sampled.rows]  # type: ignore[union-attr]
    good = Records(write(folder, "good.jsonl", (0, 1, 3, 4)))
    check_rows({"train": DemonstratedRecords(good, good, 3)}, {"train"}, folder)
    assert listed({"train": DemonstratedRecords(good, records, 2)}, (), folder) == broken
    rows = [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]
    assert [(row["row"], row["what"]) for row in rows] == broken
    assert "cannot identify image file" in rows[0]["reason"]
    check_rows({"train": DemonstratedRecords(good, good, 3)}, {"train"}, folder)
    assert not (folder / "failures.jsonl").exists(), "nothing is wrong any more"


def test_answers() -> None:
    rows = Records({"question": ["a", "b", "c", "d"], "answer": ["x", None, " ", "y"]})
    examples = DemonstratedRecords(rows, rows, 0)
    check_rows({"train": examples}, ())
    assert listed({"train": examples}, {"train"}) == [(1, "records, row 1"), (2, "records, row 2")]
    empty = Records({"question": ["a", "b"], "answer": [None, None]})
    with pytest.raises(RowError, match="2 of 2 rows cannot be used: records, row 0: there is no answer"):
        check_rows({"train": DemonstratedRecords(empty, empty, 0)}, {"train"})
    with pytest.raises(ValueError, match=r"records, row 1 \(and 1 more rows\): a demonstration needs an answer"):
        DemonstratedRecords(rows, rows, 1)


def test_rows_that_differ() -> None:
    """From a query, by id and by text: as many must be there as are shown."""
    rows = Records({"id": ["a", "b", "c", "d"], "question": ["2", "2", "3", "4"], "answer": ["x"] * 4})
    check_rows({"train": DemonstratedRecords(rows, rows, 2)}, ())
    assert [row for row, _ in listed({"train": DemonstratedRecords(rows, rows, 3)}, ())] == [0, 1]
    queries = Records({"id": ["a", "z", "y"], "question": ["4", "2", "5"]})
    # the first is "a" by id and "d" by text, the second "a" and "b" by text
    assert [row for row, _ in listed({"train": DemonstratedRecords(queries, rows, 3)}, ())] == [0, 1]
    for row, k in ((0, 2), (1, 2), (2, 4)):
        DemonstratedRecords(queries, rows, k)[row]
    with pytest.raises(ValueError, match=r"prompt must have fields of .*, got 'hint'"):
        check_rows({"train": DemonstratedRecords(rows, rows, 2, prompt="{hint}")}, ())


def run(*args: Any) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == 1, result.output
    return result.stderr


def test_train_says_so_before_it_loads_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icl.training.execution.load_model", lambda name: pytest.fail("the model is loaded"))
    common = ("train", "--model", "testbed", "--out", "out", "--data")
    message = run(*common, write(folder, "train.jsonl"), "--method", "hificl")
    assert f"3 of 8 rows cannot be used: {folder}/train.jsonl, line 3: cannot identify image file" in message
    assert len(Path("out/failures.jsonl").read_text().splitlines()) == 3
    none = write(folder, "none.jsonl", (0, 1, 3, 4), answer="")
    assert "4 of 4 rows cannot be used" in run(*common, none, "--method", "lora")
    assert "there is no answer" in run(*common, write(folder, "some.jsonl", (0, 1)), "--dev", none, "--method", "lora")
    two = write(folder, "two.jsonl", (0, 1))
    for method in ("hyper_icl", "lora"):
        assert "at most 2, the rows of the pool, got 8" in run(*common, two, "--shots", 8, "--method", method)
    assert "from 0 to 2, the records of the pool, got 8" in run(*common, two, "--method", "hyper_icl")
    message = run(*common, two, "--shots", 2, "--method", "hyper_icl")
    assert "2 of 2 rows cannot be used" in message
    assert "1 rows of the pool differ from it, and 2 are to be shown" in message
