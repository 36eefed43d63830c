"""Splits of data, and some of their rows."""

from pathlib import Path

import pytest

from icl.bank import sample_examples
from icl.training.settings import DemonstrationSettings
from icl.training.splits import FileSplit, digest_records
from tests.icl.runs import edit, write_rows


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileSplit:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, "train", 0)
    return FileSplit("train.jsonl", DemonstrationSettings())


def test_some_rows_are_drawn_by_the_seed(split: FileSplit) -> None:
    ids = [[e.id for e in map(sample_examples(split.examples(2), 5, seed).__getitem__, range(5))] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    assert len(set(ids[0])) == 5
    some = sample_examples(split.examples(2), 5, 0)
    first = some[0].teacher
    some.set_epoch(1)  # type: ignore[attr-defined]
    assert some[0].teacher != first
    with pytest.raises(ValueError, match="samples must be from 1 to 12, the rows of the training set, got 13"):
        sample_examples(split.examples(2), 13, 0)


def test_digest_is_of_all_of_a_row_but_the_names_of_images(split: FileSplit) -> None:
    digests = [digest_records(split.records)]
    for fields in ({"answer": "other"}, {"hint": "new"}, {"image": "4.png"}):
        edit("train.jsonl", 3, **fields)()
        digests.append(FileSplit("train.jsonl", DemonstrationSettings()).digest(0))
    assert len(set(digests)) == 4
    Path("4.png").rename("moved.png")
    for row in (3, 4):
        edit("train.jsonl", row, image="moved.png")()
    assert FileSplit("train.jsonl", DemonstrationSettings()).digest(1) == digests[-1]
