"""Records in every form that is read."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from icl.bank.selection.demonstrated_records import DemonstratedRecords
from icl.data.records import Records
from tests.icl.processors import picture
from tests.icl.tables import N, jsonl, table, write_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"))


def as_csv(folder: Path) -> Path:
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table())
        writer.writerows(zip(*table().values()))
    return folder / "rows.csv"


def as_parquet(folder: Path) -> Path:
    pyarrow.parquet.write_table(pa.table(table()), folder / "rows.parquet")
    return folder / "rows.parquet"


def as_feather(folder: Path) -> Path:
    pyarrow.feather.write_feather(pa.table(table()), folder / "rows.feather")
    return folder / "rows.feather"


def embedded(folder: Path) -> Path:
    files = [(folder / name).read_bytes() for name in table()["image"]]
    pyarrow.parquet.write_table(pa.table(table(image=files)), folder / "bytes.parquet")
    return folder / "bytes.parquet"


def embedded_lists(folder: Path) -> Path:
    file = (folder / "images/0.png").read_bytes()
    columns = {"images": [[file, file], [], None], "question": ["which ?", "why ?", "how ?"]}
    pyarrow.parquet.write_table(pa.table(columns), folder / "lists.parquet")
    return folder / "lists.parquet"


def as_dataset(folder: Path) -> datasets.Dataset:
    images = [str(folder / name) for name in table()["image"]]
    return datasets.Dataset.from_dict(table(image=images)).cast_column("image", datasets.Image())


def saved(folder: Path) -> Path:
    as_dataset(folder).save_to_disk(folder / "saved")  # which embeds the images
    return folder / "saved"


def shuffled_twice(folder: Path) -> datasets.Dataset:
    """In the order of the others, behind two maps of indices."""
    return as_dataset(folder).select(range(N - 1, -1, -1)).select(range(N - 1, -1, -1))


FORMS: list[Callable[[Path], Any]] = [
    as_csv, as_parquet, as_feather, embedded, as_dataset, saved, shuffled_twice, lambda f: jsonl(f, table()),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form(folder: Path, form: Callable[[Path], Any]) -> None:
    records = Records(form(folder))
    assert len(records) == N
    assert records.ids == table()["id"]
    assert records.answers == table()["answer"]
    example = DemonstratedRecords(records, records, k=2, prompt="Question: {question} Short answer:")[4]
    image, text = example.student[0]["content"]
    assert image["image"].tobytes() == picture(4).tobytes()
    assert text["text"] == "Question: what is 4 ? Short answer:"
    assert (example.id, example.answer, example.references) == ("q4", "word 4", ("word 4",))
    assert [record.question for record in records] == table()["question"]
    with pytest.raises(IndexError, match="row must be from 0 to 5, got 6"):
        records[N]


def test_several_images_answers_and_fields(folder: Path) -> None:
    rows = {
        "images": [["images/0.png", "images/1.png"], [], None],
        "question": ["which ?", "why ?", "how ?"],
        "answers": [["a", "b", "b"], ["b", "a"], None],
        "scene_text": ["STOP", None, "GO"],
        "year": [1984, 2001, None],
    }
    records = Records(jsonl(folder, rows, "several.jsonl"))
    assert [len(record.images) for record in records] == [2, 0, 0]
    assert records.answers == ["b", "b", None], "the most frequent, the first of equals"
    assert [record.references for record in records] == [("a", "b", "b"), ("b", "a"), ()]
    assert records.ids == ["00000000", "00000001", "00000002"]
    asked = DemonstratedRecords(records, records, k=0, prompt="{scene_text} {year} {question}")
    assert [example.student[0]["content"][-1]["text"] for example in asked] == [
        "STOP 1984 which ?",
        "2001 why ?",
        "GO  how ?",
    ]
    assert [part["type"] for part in asked[0].student[0]["content"]] == ["image", "image", "text"]
    assert asked[2].answer is None
    assert [len(record.images) for record in Records(embedded_lists(folder))] == [2, 0, 0]
    lists = datasets.Dataset.from_dict({"images": [[str(folder / "images/3.png")] * 2]}).cast_column(
        "images", datasets.List(datasets.Image())
    )
    (two,) = DemonstratedRecords(Records(lists), Records(lists), k=0)
    assert [part["image"].tobytes() for part in two.student[0]["content"]] == [picture(3).tobytes()] * 2


def test_images_without_questions(folder: Path) -> None:
    """As for captions: the prompt says what is asked of all."""
    records = Records({"image": [str(folder / "images/0.png")], "answer": ["noise"]})
    for prompt, kinds in (("{question}", ["image"]), ("Describe it.", ["image", "text"])):
        (example,) = DemonstratedRecords(records, records, k=0, prompt=prompt)
        assert [part["type"] for part in example.student[0]["content"]] == kinds


def test_numbers_and_truths_are_texts(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,question,answer\n7,how many ?,2\n8,how many ?,30\n9,how many ?,\n")
    records = Records(tmp_path / "rows.csv")
    assert (records.ids, records.answers) == (["7", "8", "9"], ["2", "30", None])
    (tmp_path / "texts.csv").write_text("question,answer\nwhat ?,this\nwhich ?,\n")
    assert Records(tmp_path / "texts.csv").answers == ["this", None]
    (tmp_path / "empty.csv").write_text("question,answer\n")
    with pytest.raises(ValueError, match=r"empty.csv: there are no rows"):
        Records(tmp_path / "empty.csv")
    assert Records({"question": ["is it ?"], "answer": [True]}).answers == ["true"]


def test_files_that_differ_in_columns(folder: Path) -> None:
    """In a folder, which is read as one."""
    part = folder / "parts"
    part.mkdir()
    jsonl(part, {"id": ["a"], "question": ["why ?"], "answer": ["so"]}, "1.jsonl")
    jsonl(part, {"id": ["b"], "question": ["how ?"], "answers": [["thus"]]}, "2.jsonl")
    assert Records(part).answers == ["so", "thus"]


def test_errors_of_records(folder: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"image": [*table()["image"][:3], "images/none.png", *table()["image"][4:]]},
            r"line 4: there is no image .*none",
        ),
        ({"id": ["a", "b", "a", "c", "d", "e"]}, "line 3: id must be of one row only, got 'a', which .*line 1 has"),
        ({"id": ["a", "b", "", "c", "d", "e"]}, "line 3: id must be a text or a number"),
        ({"answer": [["a"]] * N}, r"line 1: answer must be a text or a number, got \['a'\]"),
        ({"image": [None] * N, "question": ["a", " ", *"bcde"]}, "line 2: there must be an image or a question"),
        ({"answers": ["a"] * N}, "line 1: answers must be a list of texts, such as .*, got 'a'"),
        ({"answers": [["a", ""]] * N}, "line 1: answers must be a list of texts"),
        ({"images": [["images/0.png"]] * N}, "line 1: there must be image or images, got both"),
        (
            {"image": [None] * N, "images": ["images/0.png"] * N},
            "line 1: images must be a list of texts, .*got 'images/0.png'",
        ),
        ({"image": [1] * N}, "line 1: there is no image .*/1"),
        ({"image": [None] * N, "question": [None] * N}, "line 1: there must be an image or a question, got neither"),
    ]
    empty = folder / "empty.parquet"
    pyarrow.parquet.write_table(pa.table({"image": pa.array([b"file", None]), "answer": ["a", "b"]}), empty)
    with pytest.raises(ValueError, match=f"Records: {empty}, row 1: there must be an image or a question, got neither"):
        Records(empty)
    for columns, message in cases:
        path = jsonl(folder, table(**columns), "wrong.jsonl")
        with pytest.raises(ValueError, match=f"Records: {path}, {message}"):
            Records(path)
    path.write_text('{"question": "why ?"}\n{"question": \n')
    with pytest.raises(ValueError, match=f"Records: {path}, line 2, column 1"):
        Records(path)
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        Records(folder / "none.jsonl")
    datasets.DatasetDict({"dev": as_dataset(folder), "test": as_dataset(folder)}).save_to_disk(folder / "splits")
    with pytest.raises(ValueError, match="splits has splits, name one of them: dev, test"):
        Records(folder / "splits")
    assert len(Records(folder / "splits" / "dev")) == N
