"""The demonstrations that are drawn or selected for records."""

from collections import Counter
from pathlib import Path
from typing import Any

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
from tests.icl.processors import picture
from tests.icl.tables import N, jsonl, table, write_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"))


def demonstrated_answers(example: Example) -> list[str]:
    """The answers of its demonstrations."""
    return [message["content"][0]["text"] for message in example.teacher if message["role"] == "assistant"]


def test_demonstrations(folder: Path) -> None:
    records = Records(jsonl(folder, table()))
    dataset = DemonstratedRecords(records, records, k=3, system="Be brief.")
    for i, example in enumerate(dataset):
        assert example.student == [example.teacher[0], example.teacher[-1]]
        assert example.teacher[0] == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
        assert [message["role"] for message in example.teacher[1:]] == ["user", "assistant"] * 3 + ["user"]
        assert len(set(demonstrated_answers(example))) == 3
        for asked, answer in zip(example.teacher[1:-1:2], demonstrated_answers(example)):
            image, text = asked["content"]
            number = int(answer.removeprefix("word "))
            assert number != i
            assert text["text"] == f"what is {number} ?"
            assert image["image"].tobytes() == picture(number).tobytes()
    with pytest.raises(IndexError, match="index must be from 0 to 5, got 6"):
        dataset[N]


def test_random_draws() -> None:
    """Uniform, anew in every epoch, and the same for the same seed, epoch and record."""
    rows = Records({"question": [str(i) for i in range(40)], "answer": [f"{i}" for i in range(40)]})

    def draws(seed: int, epoch: int) -> list[list[str]]:
        dataset = DemonstratedRecords(rows, rows, k=4, seed=seed)
        dataset.set_epoch(epoch)
        return [demonstrated_answers(example) for example in dataset]

    assert draws(0, 0) == draws(0, 0)
    assert len({str(draws(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    dataset = DemonstratedRecords(rows, rows, k=4)
    first = demonstrated_answers(dataset[7])
    dataset.set_epoch(1)
    assert demonstrated_answers(dataset[7]) == draws(0, 1)[7] != first
    counts = Counter(row for epoch in range(50) for row in draws(5, epoch)[0])
    # 200 draws of the 39 others: 5.1 each, with a standard deviation of 2.1
    assert "0" not in counts
    assert max(counts.values()) < 5.1 + 5 * 2.1
    assert len(counts) > 35
    everything = DemonstratedRecords(rows, rows, k=39)
    assert sorted(demonstrated_answers(everything[3])) == sorted(str(i) for i in range(40) if i != 3)


def test_workers_see_the_epoch() -> None:
    rows = Records({"question": [str(i) for i in range(20)], "answer": [f"{i}" for i in range(20)]})
    dataset = DemonstratedRecords(rows, rows, k=2)
    # lance, which the tests of banks import, does not let a process fork
    own = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": "spawn"}
    loader = DataLoader(dataset, batch_size=4, collate_fn=list, **own)
    epochs = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        epochs.append([demonstrated_answers(example) for batch in loader for example in batch])
        assert epochs[-1] == [demonstrated_answers(dataset[i]) for i in range(20)]
    assert epochs[0] != epochs[1]


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
        dataset = DemonstratedRecords(pool, pool, k=2)
        dataset.set_epoch(epoch)
        assert [sorted(demonstrated_answers(dataset[i])) for i in range(2)] == [["c", "d"]] * 2
        queries = Records({"id": ["c", "e"], "question": ["who ?", "what  ?"]})
        others = DemonstratedRecords(queries, pool, k=3)
        others.set_epoch(epoch)
        assert [sorted(demonstrated_answers(example)) for example in others] == [["a", "b", "d"], ["a", "b", "c"]]
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
        dataset = DemonstratedRecords(records, records, 2, BankSelection(bank, strategy))
        rows = torch.tensor([names.index(name) for name in records.ids])
        want = select(bank, Queries.of_rows(bank, rows), 2, strategy)
        for example, mine in zip(dataset, want.tolist()):
            assert demonstrated_answers(example) == [names[row].replace("q", "word ") for row in mine]
            assert example.answer not in demonstrated_answers(example)
    others = Records({"id": ["x", "y"], "question": ["one ?", "two ?"], "answer": ["1", "2"]})
    queries = Queries(points=torch.tensor([[0.1, 0.2, 0.3], [-0.3, 0.2, 0.0]]), ids=["x", "y"])
    dataset = DemonstratedRecords(others, records, 3, BankSelection(bank, queries=queries))
    for example, mine in zip(dataset, select(bank, queries, 3).tolist()):
        assert demonstrated_answers(example) == [names[row].replace("q", "word ") for row in mine]


def test_queries_in_parts_do_not_show(folder: Path, bank: AnchorBank, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(jsonl(folder, table()))
    rices = BankSelection(bank, "rices")
    whole = [demonstrated_answers(example) for example in DemonstratedRecords(records, records, 2, rices)]
    monkeypatch.setattr("icl.bank.selection.demonstrated_records._QUERIES", 4)
    assert [
        demonstrated_answers(example)
        for example in DemonstratedRecords(records, records, 2, BankSelection(bank, "rices"))
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
