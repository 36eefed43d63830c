"""``icl eval``, on a folder of images and JSON lines as a user has it."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from icl.bank.anchor_bank import AnchorBank
from icl.cli.app import app
from icl.data.overlap import refuse_overlap
from icl.data.records import Records
from tests.icl.commands import BRIEF, FILES, read, run, write_digits


def test_what_a_reader_has_to_know_is_noted(digit_files: Path) -> None:
    run("train", "--data", "train.jsonl", *BRIEF, "--method", "live", "--out", "a")
    (_, row) = read("eval", "--data", "test.jsonl", "--adapter", "a", "--out", "1")
    assert row["note"] == "last epoch, no dev set"
    (_, row) = read("eval", "--data", "train.jsonl", "--adapter", "a", "--out", "2")
    assert row["note"] == "not a test: its train set"
    Path("a/run.json").unlink()
    (_, row) = read("eval", "--data", "test.jsonl", "--adapter", "a", "--model", "testbed", "--out", "3")
    assert "no run.json" in row["note"]
    assert "model must be given" in run("eval", "--data", "test.jsonl", "--adapter", "a", code=1).stderr


def test_demonstrations_by_a_bank(digit_files: Path) -> None:
    AnchorBank.build("bank", "train.jsonl")
    options = ("--data", "test.jsonl", "--model", "testbed", "--pool", "train.jsonl", "--bank", "bank", "--shots", 4)
    rows = read("eval", *options, "--strategy", "random", "--strategy", "rices", "--strategy", "hyperbolic")
    assert [row["strategy"] for row in rows] == [None, "random", "rices", "hyperbolic"]
    # embeddings are of digits, so the nearest are of the query's, whose word they have
    scores = {row["strategy"]: row["exact"] for row in rows}
    assert scores["rices"] == scores["hyperbolic"] == 1
    assert scores["random"] < 1
    told = read("train", *FILES, "--method", "hyper_icl", "--strategy", "rices", "--bank", "bank", "--out", "a")
    assert told["run"]["data"]["strategy"] == "rices"
    assert "bank must be given" in run("eval", *options[:6], "--shots", 4, "--strategy", "rices", code=1).stderr
    # what the bank has left out is never shown
    Path("images/broken.png").write_bytes(b"no image")
    with Path("train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "broken", "image": "images/broken.png", "answer": "apple"}) + "\n")
    assert read("eval", *options, "--strategy", "rices")[-1]["exact"] == 1
    assert "1 of 49 rows cannot be used" in run("eval", *options, code=1).stderr


def test_demonstrations_are_never_rows_of_the_test(digit_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before the model is loaded, by picture and question, whatever names and answers they have."""
    monkeypatch.setattr("icl.evaluation.evaluation_plan.load_model", lambda name: pytest.fail("the model was loaded"))
    options = ("eval", "--data", "test.jsonl", "--model", "testbed", "--shots", 2)
    assert "pool must be given" in run(*options, code=1).stderr
    assert "8 of its 8 rows are rows of the test set" in run(*options, "--pool", "test.jsonl", code=1).stderr
    row = json.loads(Path("test.jsonl").read_text().splitlines()[3])
    shutil.copy(row["image"], "images/renamed.png")
    leaked = {**row, "id": "other", "image": "images/renamed.png", "answer": "lemon"}
    Path("pool.jsonl").write_text(Path("train.jsonl").read_text() + json.dumps(leaked) + "\n")
    message = run(*options, "--pool", "pool.jsonl", code=1).stderr
    assert (
        "1 of its 41 rows is a row of the test set, such as pool.jsonl, line 41, which is test.jsonl, line 4" in message
    )
    # the same picture with another question is another row
    Path("pool.jsonl").write_text(json.dumps({**leaked, "question": "cat"}) + "\n")
    refuse_overlap(Records("test.jsonl"), Records("pool.jsonl"), "{question}")
    with pytest.raises(ValueError, match="1 of its 1 rows is"):
        refuse_overlap(Records("test.jsonl"), Records("pool.jsonl"), "")


def test_what_cannot_be_scored_is_told_before_the_model_is_loaded(
    digit_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icl.evaluation.evaluation_plan.load_model", lambda name: pytest.fail("the model was loaded"))
    options = ("eval", "--model", "testbed", "--data")
    message = run(*options, "test.jsonl", "--metric", "exact", "--metric", "vqa", code=1).stderr
    assert "vqa compares with 2 answers or more, and 8 of 8 rows have fewer" in message
    rows = [json.loads(line) for line in Path("test.jsonl").read_text().splitlines()]
    del rows[4]["answer"]
    Path("without.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "an answer, and 1 of 8 rows have fewer" in run(*options, "without.jsonl", code=1).stderr
    Path("capital.jsonl").write_text(Path("test.jsonl").read_text().replace('"answer"', '"Answer"'))
    assert "line 1 has 0; did you mean answer by Answer?" in run(*options, "capital.jsonl", code=1).stderr
    many = (*options, "test.jsonl", "--pool", "train.jsonl", "--shots", 999)
    assert re.search("shots must be at most [0-9]+, the rows of the pool, got 999", run(*many, code=1).stderr)
    assert "prompt must have fields" in run(*options, "test.jsonl", "--prompt", "{ocr}", code=1).stderr
    assert "prompt must be such as" in run(*options, "test.jsonl", "--prompt", "{}", code=1).stderr
    assert "columns must be of" in run(*options, "test.jsonl", "--columns", "exakt", code=1).stderr
    for broken in rows[2:6:3]:
        Path(broken["image"]).write_bytes(b"no image")
    message = run(*options, "test.jsonl", code=1).stderr
    assert "2 of 8 rows cannot be used: test.jsonl, line 3" in message
    assert "test.jsonl, line 6" in message
    assert not Path("out").exists()
    write_digits(digit_files, "test", "test", range(0, 240, 30))
    Path("out").write_text("a file")
    assert "out is a file, and a folder is to be there" in run(*options, "test.jsonl", "--out", "out", code=1).stderr


def test_what_changed_is_answered_anew(digit_files: Path) -> None:
    """The picture, the prompt and the answer of a row in the middle, under the names that they had."""
    options = ("eval", "--data", "test.jsonl", "--model", "testbed", "--pool", "train.jsonl", "--shots", 4)
    read(*options, "--out", "kept")
    pictures = [Path(json.loads(line)["image"]) for line in Path("test.jsonl").read_text().splitlines()]
    third, fourth = pictures[3].read_bytes(), pictures[4].read_bytes()
    pictures[3].write_bytes(fourth)
    pictures[4].write_bytes(third)
    for more in ((), ("--prompt", "apple"), ("--prompt", "apple", "--max-new-tokens", 1)):
        rows, fresh = (read(*options, *more, "--out", out) for out in ("kept", f"fresh{len(more)}"))
        answers = [
            {cell["method"]: cell["answers"] for cell in json.loads(Path(out, "results.json").read_text())["cells"]}
            for out in ("kept", f"fresh{len(more)}")
        ]
        assert answers[0] == answers[1]
        assert [row["exact"] for row in rows] == [row["exact"] for row in fresh]
    lines = Path("test.jsonl").read_text().splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), "answer": answers[1]["k-shot"][3] or "none"})
    Path("test.jsonl").write_text("\n".join(lines) + "\n")
    again = read(*options, *more, "--out", "kept")
    assert again[1]["exact"] == fresh[1]["exact"] + 1 / 8


def test_adapters_of_one_name_are_rows_of_their_own(digit_files: Path) -> None:
    """Two folders of the same method, whose seeds are the same or whose training is another."""
    for out, more in (("a", ()), ("b", ("--lr", 0.1)), ("c", ("--seed", 1))):
        run("train", "--data", "train.jsonl", *BRIEF, "--method", "live", *more, "--out", out)

    def methods(*folders: str) -> list[tuple[str, int]]:
        adapters = [arg for folder in folders for arg in ("--adapter", folder)]
        rows = read("eval", "--data", "test.jsonl", *adapters, "--out", "-".join(folders))
        return [(row["method"], row["seeds"]) for row in rows[1:]]

    assert methods("a", "b") == [("live (a)", 1), ("live (b)", 1)]
    assert methods("a", "c") == [("live", 2)]


def test_table_says_what_it_left_out(digit_files: Path) -> None:
    result = CliRunner().invoke(
        app, ["eval", "--data", "test.jsonl", "--model", "testbed"], env={"COLUMNS": "80", "TERM": "dumb"}
    )
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "--columns chooses" in " ".join(result.stdout.split())
    assert "exact match" in Path("out/eval/results.md").read_text()


def test_seeds_of_adapters_are_those_of_the_testbed(digit_files: Path) -> None:
    """What a task hides depends on it."""
    common = (
        "--data",
        "testbed:fixed_map/dev",
        "--model",
        "testbed",
        "--method",
        "hificl",
        "--samples",
        8,
        "--steps",
        1,
        "--lr",
        0.005,
    )
    for seed in (0, 1):
        run("train", *common, "--seed", seed, "--out", f"seed-{seed}")
    adapters = ("--adapter", "seed-0", "--adapter", "seed-1")
    rows = read("eval", "--data", "testbed:fixed_map/dev", *adapters, "--max-new-tokens", 2, "--batch-size", 64)
    assert [(row["method"], row["seeds"], row["interval_of"]) for row in rows] == [
        ("zero-shot", 2, "seeds"), ("hificl", 2, "seeds"),
    ]  # fmt: skip
    cells = json.loads(Path("out/eval/results.json").read_text())["cells"]
    assert len({cell["test"] for cell in cells}) == 2
