"""Data sets in every form that is read, and the demonstrations that are drawn for them."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from icl.bank.anchor_bank import AnchorBank
from icl.bank.schema import BankError
from icl.bank.selection.demonstrated_records import BankSelection, DemonstratedRecords
from icl.bank.selection.queries import Queries
from icl.bank.selection.select_rows import select
from icl.data.examples import Example
from icl.data.records import Records
from icl.testbed import tasks
from tests.icl.processors import picture

N = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    (made / "images").mkdir()
    for i in range(N):
        picture(i).save(made / "images" / f"{i}.png")
    return made


def table(**more: list[Any]) -> dict[str, list[Any]]:
    columns = {
        "id": [f"q{i}" for i in range(N)],
        "image": [f"images/{i}.png" for i in range(N)],
        "question": [f"what is {i} ?" for i in range(N)],
        "answer": [f"word {i}" for i in range(N)],
    }
    return {**columns, **more}


def jsonl(folder: Path, columns: dict[str, list[Any]], name: str = "rows.jsonl") -> Path:
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


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


def test_task_of_the_testbed() -> None:
    row = tasks.load_split("options", "test")[3]
    example = Example.from_task(row)
    assert (example.id, example.answer, example.references) == (row["id"], row["answer"], (row["answer"],))
    assert example.teacher[-1] == example.student[-1]
    parts = [part for message in (*example.teacher, *example.student) for part in message["content"]]
    assert all(set(part) == {"type", part["type"]} for part in parts), "no field that is empty"
    shown = [part for message in row["teacher"] for part in message["content"]]
    assert [part[part["type"]] for part in parts[: len(shown)]] == [part[part["type"]] for part in shown]


def test_examples_end_with_a_query() -> None:
    asked, said = ({"role": role, "content": "what ?"} for role in ("user", "assistant"))
    for teacher, student, message in [
        ([asked, said], [asked], "Example x: teacher must end with the user's query, got assistant"),
        ([asked], [], "Example x: student must end with the user's query, got no message"),
    ]:
        with pytest.raises(ValueError, match=message):
            Example("x", teacher, student, "a")
    with pytest.raises(ValueError, match="Example x: answer must have text"):
        Example("x", [asked], [asked], " ")


def shown(example: Example) -> list[str]:
    """The answers of its demonstrations."""
    return [message["content"][0]["text"] for message in example.teacher if message["role"] == "assistant"]


def test_demonstrations(folder: Path) -> None:
    records = Records(jsonl(folder, table()))
    drawn = DemonstratedRecords(records, records, k=3, system="Be brief.")
    for i, example in enumerate(drawn):
        assert example.student == [example.teacher[0], example.teacher[-1]]
        assert example.teacher[0] == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
        assert [message["role"] for message in example.teacher[1:]] == ["user", "assistant"] * 3 + ["user"]
        assert len(set(shown(example))) == 3
        for asked, answer in zip(example.teacher[1:-1:2], shown(example)):
            image, text = asked["content"]
            number = int(answer.removeprefix("word "))
            assert number != i
            assert text["text"] == f"what is {number} ?"
            assert image["image"].tobytes() == picture(number).tobytes()
    with pytest.raises(IndexError, match="index must be from 0 to 5, got 6"):
        drawn[N]


def test_random_draws() -> None:
    """Uniform, anew in every epoch, and the same for the same seed, epoch and record."""
    rows = Records({"question": [str(i) for i in range(40)], "answer": [f"{i}" for i in range(40)]})

    def draws(seed: int, epoch: int) -> list[list[str]]:
        drawn = DemonstratedRecords(rows, rows, k=4, seed=seed)
        drawn.set_epoch(epoch)
        return [shown(example) for example in drawn]

    assert draws(0, 0) == draws(0, 0)
    assert len({str(draws(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    drawn = DemonstratedRecords(rows, rows, k=4)
    first = shown(drawn[7])
    drawn.set_epoch(1)
    assert shown(drawn[7]) == draws(0, 1)[7] != first
    counts = Counter(row for epoch in range(50) for row in draws(5, epoch)[0])
    # 200 draws of the 39 others: 5.1 each, with a standard deviation of 2.1
    assert "0" not in counts
    assert max(counts.values()) < 5.1 + 5 * 2.1
    assert len(counts) > 35
    everything = DemonstratedRecords(rows, rows, k=39)
    assert sorted(shown(everything[3])) == sorted(str(i) for i in range(40) if i != 3)


def test_workers_see_the_epoch() -> None:
    rows = Records({"question": [str(i) for i in range(20)], "answer": [f"{i}" for i in range(20)]})
    drawn = DemonstratedRecords(rows, rows, k=2)
    # lance, which the tests of banks import, does not let a process fork
    own = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": "spawn"}
    loader = DataLoader(drawn, batch_size=4, collate_fn=list, **own)
    seen = []
    for epoch in range(2):
        drawn.set_epoch(epoch)
        seen.append([shown(example) for batch in loader for example in batch])
        assert seen[-1] == [shown(drawn[i]) for i in range(20)]
    assert seen[0] != seen[1]


def test_never_the_query_itself(tmp_path: Path) -> None:
    """By id, by pixels, whatever the file, and by text where there are no images."""
    picture(0).save(tmp_path / "a.png")
    picture(0).save(tmp_path / "b.bmp")
    picture(1).save(tmp_path / "c.png")
    pool = Records(
        {
            "id": ["a", "b", "c", "d"],
            "image": [str(tmp_path / name) for name in ("a.png", "b.bmp", "c.png")] + [None],
            "question": ["what ?", "other ?", "what ?", "what ?"],
            "answer": ["a", "b", "c", "d"],
        }
    )
    for epoch in range(5):
        drawn = DemonstratedRecords(pool, pool, k=2)
        drawn.set_epoch(epoch)
        assert [sorted(shown(drawn[i])) for i in range(2)] == [["c", "d"]] * 2
        queries = Records({"id": ["c", "e"], "question": ["who ?", "what  ?"]})
        others = DemonstratedRecords(queries, pool, k=3)
        others.set_epoch(epoch)
        assert [sorted(shown(example)) for example in others] == [["a", "b", "d"], ["a", "b", "c"]]
    with pytest.raises(ValueError, match="k must be at most 2 for records, row 0: no more of the pool differ from it"):
        DemonstratedRecords(pool, pool, k=3)[0]


@pytest.fixture
def bank(tmp_path: Path, folder: Path) -> AnchorBank:
    generator = torch.Generator().manual_seed(0)
    order = [3, 0, 5, 1, 4, 2]  # not that of the records
    rows = {
        "id": [table()["id"][i] for i in order],
        "image": [str(folder / table()["image"][i]) for i in order],
        "point": torch.randn(N, 3, generator=generator),
        "image_embedding": torch.randn(N, 4, generator=generator),
    }
    return AnchorBank.build(tmp_path / "bank", rows)


def test_demonstrations_of_a_bank(folder: Path, bank: AnchorBank) -> None:
    records = Records(jsonl(folder, table()))
    names = bank.take(range(N), ["id"]).column("id").to_pylist()
    for strategy in ("rices", "hyperbolic"):
        drawn = DemonstratedRecords(records, records, 2, BankSelection(bank, strategy))
        rows = torch.tensor([names.index(name) for name in records.ids])
        want = select(bank, Queries.of_rows(bank, rows), 2, strategy)
        for example, mine in zip(drawn, want.tolist()):
            assert shown(example) == [names[row].replace("q", "word ") for row in mine]
            assert example.answer not in shown(example)
    others = Records({"id": ["x", "y"], "question": ["one ?", "two ?"], "answer": ["1", "2"]})
    queries = Queries(points=torch.tensor([[0.1, 0.2, 0.3], [-0.3, 0.2, 0.0]]), ids=["x", "y"])
    drawn = DemonstratedRecords(others, records, 3, BankSelection(bank, queries=queries))
    for example, mine in zip(drawn, select(bank, queries, 3).tolist()):
        assert shown(example) == [names[row].replace("q", "word ") for row in mine]


def test_queries_in_parts_do_not_show(folder: Path, bank: AnchorBank, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(jsonl(folder, table()))
    rices = BankSelection(bank, "rices")
    whole = [shown(example) for example in DemonstratedRecords(records, records, 2, rices)]
    monkeypatch.setattr("icl.bank.selection.demonstrated_records._QUERIES", 4)
    assert [
        shown(example) for example in DemonstratedRecords(records, records, 2, BankSelection(bank, "rices"))
    ] == whole


def test_errors_of_demonstrated(folder: Path, bank: AnchorBank) -> None:
    rices = BankSelection(bank, "rices")
    records = Records(jsonl(folder, table()))
    few = Records(jsonl(folder, {name: values[:3] for name, values in table().items()}, "few.jsonl"))
    other = Records({"id": ["x"], "question": ["what ?"]})
    cases: list[tuple[Any, str]] = [
        (lambda: DemonstratedRecords(records, records, -1), "k must be from 0 to 6, the records of the pool, got -1"),
        (lambda: DemonstratedRecords(records, records, 7), "k must be from 0 to 6"),
        (lambda: DemonstratedRecords(records, other, 1), "records, row 0: a demonstration needs an answer"),
        (lambda: DemonstratedRecords(records, records, 1, seed=-1), "seed must not be negative, got -1"),
        (
            lambda: DemonstratedRecords(records, few, 1, rices),
            "must have all of the bank's rows, and has no 'q3'",
        ),
        (
            lambda: DemonstratedRecords(other, records, 1, rices),
            "'x' is not in the bank: give queries",
        ),
        (
            lambda: DemonstratedRecords(other, records, 1, BankSelection(bank, "rices", Queries(ids=["x", "y"]))),
            "queries must be of the 1 records, got 2",
        ),
        (lambda: DemonstratedRecords(records, records, 1, BankSelection(bank, "best")), "strategy must be one of"),  # type: ignore[arg-type]
        (
            lambda: DemonstratedRecords(records, records, 1, prompt="{ocr}")[0],
            "must have fields of question, id, got 'ocr'",
        ),
        (
            lambda: DemonstratedRecords(records, records, 1, prompt="{answer}")[0],
            "must have fields of .*, got 'answer'",
        ),
    ]
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(BankError, match="k must be from 1 to 5"):
        DemonstratedRecords(records, records, 6, rices)
    (folder / "images" / "x.png").write_bytes(b"no image")
    broken = Records(jsonl(folder, {"image": ["images/x.png"]}, "broken.jsonl"))
    with pytest.raises(ValueError, match=r"broken.jsonl, line 1: cannot identify image file") as raised:
        DemonstratedRecords(broken, broken, 0)[0]
    assert isinstance(raised.value.__cause__, Image.UnidentifiedImageError)
