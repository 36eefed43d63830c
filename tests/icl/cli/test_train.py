"""``icl train``, on a folder of images and JSON lines as a user has it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from icl import testbed
from icl.adapters import Adapters, HiFICLConfig
from icl.prompts.collator import Collator
from icl.testbed.vocabulary import WORDS
from icl.training.execution import train
from icl.training.run_configuration import TrainingRun
from icl.training.settings import DemonstrationSettings
from icl.training.splits import FileSplit
from tests.icl.commands import BRIEF, FILES, read, run


def test_trained_and_put_to_the_test(digit_files: Path) -> None:
    told = read("train", *FILES, "--method", "hificl", "--lr", "0.02", "--out", "virtual")
    assert told["adapter"] == "virtual"
    assert told["finished"]
    assert told["examples"] == {"train": 40, "dev": 6}
    assert told["parameters"] == 4 * 2 * 2 * (8 * 8 + 8 * 32)
    evaluations = [entry for entry in told["history"] if "eval_loss" in entry]
    assert [entry["epoch"] for entry in evaluations] == [0, 1, 2]
    model, processor = testbed.load()
    split = FileSplit("dev.jsonl", DemonstrationSettings()).examples(0)
    inputs = Collator(processor)([split[i] for i in range(len(split))])["student"]
    with torch.no_grad():  # virtual demonstrations hold nothing at the start, and next to nothing is lost to them
        assert told["untrained"]["loss"] == pytest.approx(float(model(**inputs).loss), rel=0.3)
    best = min(evaluations[1:], key=lambda entry: entry["eval_loss"])
    assert (told["chosen"]["epoch"], told["chosen"]["value"]) == (best["epoch"], best["eval_loss"])
    assert sorted(p.name for p in Path("virtual").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "run.json",
    ]  # fmt: skip
    rows = read("eval", "--data", "test.jsonl", "--adapter", "virtual", "--shots", 0, "--shots", 2, "--out", "tested")
    assert [(row["method"], row["shots"]) for row in rows] == [("zero-shot", 0), ("k-shot", 2), ("hificl", 0)]
    assert [row["parameters"] for row in rows] == [0, 0, told["parameters"]]
    assert rows[2]["train_seconds"] == told["seconds"]
    assert rows[2]["geodesic"] > 0
    assert all(row["test_reads"] == 1 and row["note"] is None and row["examples"] == 8 for row in rows)
    files = {"results.json", "results.csv", "results.md", ".results.json.lock"}
    assert files == {p.name for p in Path("tested").iterdir()}
    assert "hificl" in run("eval", "--data", "test.jsonl", "--adapter", "virtual").stdout


def test_steps_are_told_where_no_bar_can_be_drawn(digit_files: Path) -> None:
    """Four of them, so that some tenths are passed by; and how long the rest will take."""
    result = run("train", *FILES, "--method", "hificl", "--out", "told")
    lines = re.findall(r"^(\d+) %, training.*?(\d:\d\d:\d\d left)?$", result.stderr, re.MULTILINE)
    assert [tenths for tenths, _ in lines] == ["20", "50", "70", "100"]
    assert all(left for _, left in lines[1:])
    record = json.loads(Path("told/run.json").read_text())
    first, last = record["training_loss"].values()
    assert f"training loss: {first:.4g} at the first step, {last:.4g} at the end" in result.stdout
    assert f"dev loss: {record['untrained']['loss']:.4g} untrained" in result.stdout


def test_epoch_that_is_kept_is_that_of_the_dev_set(digit_files: Path) -> None:
    """Whose digits have other words, so that what is learned is worse and worse for it."""
    lines = Path("dev.jsonl").read_text().splitlines()
    others = [{**row, "answer": WORDS[-1 - WORDS.index(row["answer"])]} for row in map(json.loads, lines)]
    Path("dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    told = read("train", *FILES, "--method", "hificl", "--lr", "0.05", "--epochs", 4, "--out", "a")
    _, first, *later = [entry["eval_loss"] for entry in told["history"] if "eval_loss" in entry]
    assert len(later) == 3
    assert first < later[-1]
    assert told["chosen"]["value"] == min(first, *later)
    model, processor = testbed.load()
    Adapters.from_pretrained(model, "a")
    split = FileSplit("dev.jsonl", DemonstrationSettings())
    examples = split.examples(0)
    inputs = Collator(processor)([examples[i] for i in range(len(examples))])["student"]
    with torch.no_grad():
        assert float(model(**inputs).loss) == pytest.approx(told["chosen"]["value"], rel=1e-4)


def test_same_run_from_yaml_and_from_options(digit_files: Path) -> None:
    options = ("--method", "hyper_icl", "--rank", 2, "--objective", "alignment=1,ce=0.5", "--seed", 3)
    told = read("train", *FILES, *options, "--out", "a")
    described = {
        "model": "testbed",
        "data": {"train": "train.jsonl", "dev": "dev.jsonl", "shots": 2},
        "method": {"name": "hyper_icl", "rank": 2},
        "objective": {"alignment": 1, "ce": 0.5},
        "training": {"epochs": 2, "batch_size": 20, "seed": 3, "learning_rate": "5e-3"},
    }
    Path("run.yaml").write_text(yaml.safe_dump(described))
    again = read("train", "run.yaml", "--out", "b")
    assert again["run"] == told["run"]
    a, b = (load_file(f"{name}/adapter_model.safetensors") for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert TrainingRun.from_dict(told["run"]).to_dict() == told["run"]
    # options overrule the file, and what is given again is another run
    assert "differs in training.seed" in run("train", "run.yaml", "--seed", 4, "--out", "b", code=1).stderr
    run("train", "run.yaml", "--out", "b")


def test_goes_on_where_it_was_cut_short(digit_files: Path) -> None:
    values = {
        "model": "testbed", "data": {"train": "train.jsonl", "dev": "dev.jsonl", "shots": 2}, "method": "hyper_icl",
        "training": {"epochs": 3, "batch_size": 20, "learning_rate": 5e-3},
    }  # fmt: skip
    described = TrainingRun.from_dict(values)
    train(described, "whole")
    seen: list[int] = []

    def stop(step: int, total: int, dev: float | None) -> None:
        seen.append(step)
        assert total == 6
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(described, "cut", stop)
    unfinished = json.loads(Path("cut/run.json").read_text())
    assert not unfinished["finished"]
    assert unfinished["seconds"] > 0
    run("eval", "--data", "test.jsonl", "--adapter", "cut", code=1)
    told = train(described, "cut", lambda step, total, dev: seen.append(step))
    assert seen == [1, 2, 3, 3, 4, 5, 6]
    assert told["seconds"] > unfinished["seconds"]
    whole, cut = (load_file(f"{name}/adapter_model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    train(described, "cut", lambda step, total, dev: pytest.fail("it is finished"))


def test_methods_without_training(digit_files: Path) -> None:
    Path("run.yaml").write_text(yaml.safe_dump({"method": {"name": "function_vector", "heads": 4}}))
    for method in ("task_vector", "function_vector", "in_context_vector"):
        how = ["run.yaml"] if method == "function_vector" else ["--method", method]
        told = read("train", *how, *FILES, "--samples", 12, "--out", method)
        assert told["parameters"] > 0
        assert "chosen" not in told
        tensors = load_file(f"{method}/adapter_model.safetensors")
        assert all(tensor.any() for tensor in tensors.values())


ERRORS = [
    ({"modle": "testbed"}, "run: there is no 'modle'; did you mean model?"),
    ({"data": {"train": "t", "shot": 1}}, "data: there is no 'shot'; did you mean shots?"),
    ({"data": {}}, "data: train is missing"),
    ({"data": "t"}, "data must have fields, got 't'"),
    ({"method": "hyperICL"}, "method: there is no 'hyperICL'; did you mean hyper_icl?"),
    ({"method": {"name": "mimic", "rank": 4}}, "method: there is no 'rank'"),
    ({"method": {"rank": 4}}, "method must be a name"),
    ({"method": {"name": "hyper_icl", "gate": "row"}}, "method.gate must be one of token, head, layer, got 'row'"),
    ({"method": {"name": "hyper_icl", "rank": 0}}, "rank must be a whole number of 1 or more"),
    ({"objective": {"anchors": 1}}, "objective: there is no 'anchors'; did you mean anchor?"),
    ({"objective": {"anchor": 0}}, "at least one weight must be positive"),
    (
        {"training": {"learning_rate": "fast"}},
        "learning_rate must be a finite number above 0 up to 1 or nothing, got 'fast'",
    ),
    ({"training": {"bf16": 1}}, "training.bf16 must be true or false, got 1"),
    ({"training": {"steps": True}}, "training.steps must be a whole number of 1 or more or nothing, got True"),
    ({"training": {"epochs": 0}}, "training.epochs must be a finite number above 0, got 0"),
    ({"training": {"seed": -1}}, "training.seed must be a whole number from 0 up to 4294967295, got -1"),
    ({"data": {"train": "t", "strategy": "nearest"}}, "data.strategy must be one of random, rices"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS)
def test_run_that_is_wrong_is_told_in_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    values = {"model": "testbed", "data": {"train": "t"}, "method": "hyper_icl", **change}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    said = run("train", tmp_path / "run.yaml", "--out", tmp_path / "out", code=1).stderr
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_words_that_the_testbed_does_not_know_are_refused(digit_files: Path) -> None:
    rows = [json.loads(line) for line in Path("train.jsonl").read_text().splitlines()]
    words = ["zebra", "apple pie", "kettle"]
    lines = [json.dumps({**row, "answer": words[i % 3], "question": "which?"}) for i, row in enumerate(rows)]
    Path("foreign.jsonl").write_text("\n".join(lines))
    result = run("train", *BRIEF, "--data", "foreign.jsonl", "--method", "hificl", "--out", "a", code=1)
    for word in ("which?", "zebra", "pie"):
        assert word in result.stderr
    assert result.stderr.count("\n") == 1
    _, processor = testbed.load()
    text = " is zebra<end_of_utterance>pie is"
    with pytest.raises(ValueError, match=r"these are not among them: pie, zebra\. For"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "text", "text": text}]}])


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        ({"image": "Image", "answer": "answer"}, "Image must be written image"),
        ({"image": "imgae", "answer": "answer"}, "did you mean image by imgae?"),
        ({"image": "IMAGE", "answer": "answers"}, "IMAGE must be written image"),
        ({"image": "image", "answer": "Answer"}, "did you mean answer by Answer?"),
    ],
)
def test_columns_nearly_right_get_the_right_name(columns: dict[str, str], hint: str, digit_files: Path) -> None:
    rows = [json.loads(line) for line in Path("train.jsonl").read_text().splitlines()]
    lines = [json.dumps({columns["image"]: row["image"], columns["answer"]: row["answer"]}) for row in rows]
    Path("odd.jsonl").write_text("\n".join(lines).replace('"answers": "', '"answer": "'))
    assert hint in run("train", *BRIEF, "--data", "odd.jsonl", "--method", "hificl", "--out", "a", code=1).stderr


def test_what_train_saves_is_what_from_pretrained_loads(digit_files: Path) -> None:
    run("train", *FILES, "--method", "hificl", "--out", "a")
    model, _ = testbed.load()
    adapters = Adapters.from_pretrained(model, "a")
    assert [part.config for part in adapters["default"]] == [HiFICLConfig()]
