"""``icl train``, ``icl eval`` and ``icl adapters info``, on a folder of images and JSON lines as a user has it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from icl import testbed
from icl.adapters import Adapters, HiFICLConfig
from icl.bank.anchor_bank import AnchorBank
from icl.cli.app import app
from icl.data.overlap import refuse_overlap
from icl.data.records import Records
from icl.prompts.collator import Collator
from icl.testbed import images
from icl.testbed.source import TaskSplit
from icl.testbed.vocabulary import WORDS
from icl.training.execution import train
from icl.training.run_configuration import TrainingRun
from icl.training.settings import DemonstrationSettings
from icl.training.splits import FileSplit


def run(*args: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def read(*args: Any) -> Any:
    return json.loads(run(*args, "--json").stdout)


def write(folder: Path, name: str, split: str, rows: range, **more: Any) -> None:
    """A file of digits, each called by a word of its own."""
    source = images.load_digits(split)
    with (folder / f"{name}.jsonl").open("w") as file:
        for i in rows:
            Image.fromarray(source.pixels[i].numpy()).save(folder / "images" / f"{name}-{i}.png")
            digit = int(source.labels[i])
            row = {"id": f"{name}-{i}", "image": f"images/{name}-{i}.png", "answer": WORDS[digit], "kind": digit}
            place = [float(digit == d) for d in range(10)]
            point = [(1 + digit / 20) * value for value in place]
            file.write(json.dumps({**row, "point": point, "image_embedding": place, **more}) + "\n")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("icl.evaluation.cost.SECONDS", 0)
    (tmp_path / "images").mkdir()
    # they are in the order of their digits
    write(tmp_path, "train", "train", range(0, 1437, 36))
    write(tmp_path, "dev", "dev", range(0, 120, 20))
    write(tmp_path, "test", "test", range(0, 240, 30))
    return tmp_path


FAST = ("--model", "testbed", "--shots", "2", "--epochs", "2", "--batch-size", "20", "--lr", "0.005")
DATA = ("--data", "train.jsonl", "--dev", "dev.jsonl", *FAST)


def test_trained_and_put_to_the_test(here: Path) -> None:
    told = read("train", *DATA, "--method", "hificl", "--lr", "0.02", "--out", "virtual")
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


def test_steps_are_told_where_no_bar_can_be_drawn(here: Path) -> None:
    """Four of them, so that some tenths are passed by; and how long the rest will take."""
    result = run("train", *DATA, "--method", "hificl", "--out", "told")
    lines = re.findall(r"^(\d+) %, training.*?(\d:\d\d:\d\d left)?$", result.stderr, re.MULTILINE)
    assert [tenths for tenths, _ in lines] == ["20", "50", "70", "100"]
    assert all(left for _, left in lines[1:])
    record = json.loads(Path("told/run.json").read_text())
    first, last = record["training_loss"].values()
    assert f"training loss: {first:.4g} at the first step, {last:.4g} at the end" in result.stdout
    assert f"dev loss: {record['untrained']['loss']:.4g} untrained" in result.stdout


def test_epoch_that_is_kept_is_that_of_the_dev_set(here: Path) -> None:
    """Whose digits have other words, so that what is learned is worse and worse for it."""
    lines = Path("dev.jsonl").read_text().splitlines()
    others = [{**row, "answer": WORDS[-1 - WORDS.index(row["answer"])]} for row in map(json.loads, lines)]
    Path("dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    told = read("train", *DATA, "--method", "hificl", "--lr", "0.05", "--epochs", 4, "--out", "a")
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


def test_same_run_from_yaml_and_from_options(here: Path) -> None:
    options = ("--method", "hyper_icl", "--rank", 2, "--objective", "alignment=1,ce=0.5", "--seed", 3)
    told = read("train", *DATA, *options, "--out", "a")
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


def test_goes_on_where_it_was_cut_short(here: Path) -> None:
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


def test_methods_without_training(here: Path) -> None:
    Path("run.yaml").write_text(yaml.safe_dump({"method": {"name": "function_vector", "heads": 4}}))
    for method in ("task_vector", "function_vector", "in_context_vector"):
        how = ["run.yaml"] if method == "function_vector" else ["--method", method]
        told = read("train", *how, *DATA, "--samples", 12, "--out", method)
        assert told["parameters"] > 0
        assert "chosen" not in told
        tensors = load_file(f"{method}/adapter_model.safetensors")
        assert all(tensor.any() for tensor in tensors.values())


def test_what_a_reader_has_to_know_is_noted(here: Path) -> None:
    run("train", "--data", "train.jsonl", *FAST, "--method", "live", "--out", "a")
    (_, row) = read("eval", "--data", "test.jsonl", "--adapter", "a", "--out", "1")
    assert row["note"] == "last epoch, no dev set"
    (_, row) = read("eval", "--data", "train.jsonl", "--adapter", "a", "--out", "2")
    assert row["note"] == "not a test: its train set"
    Path("a/run.json").unlink()
    (_, row) = read("eval", "--data", "test.jsonl", "--adapter", "a", "--model", "testbed", "--out", "3")
    assert "no run.json" in row["note"]
    assert "model must be given" in run("eval", "--data", "test.jsonl", "--adapter", "a", code=1).stderr


def test_demonstrations_by_a_bank(here: Path) -> None:
    AnchorBank.build("bank", "train.jsonl")
    options = ("--data", "test.jsonl", "--model", "testbed", "--pool", "train.jsonl", "--bank", "bank", "--shots", 4)
    rows = read("eval", *options, "--strategy", "random", "--strategy", "rices", "--strategy", "hyperbolic")
    assert [row["strategy"] for row in rows] == [None, "random", "rices", "hyperbolic"]
    # embeddings are of digits, so the nearest are of the query's, whose word they have
    scores = {row["strategy"]: row["exact"] for row in rows}
    assert scores["rices"] == scores["hyperbolic"] == 1
    assert scores["random"] < 1
    told = read("train", *DATA, "--method", "hyper_icl", "--strategy", "rices", "--bank", "bank", "--out", "a")
    assert told["run"]["data"]["strategy"] == "rices"
    assert "bank must be given" in run("eval", *options[:6], "--shots", 4, "--strategy", "rices", code=1).stderr
    # what the bank has left out is never shown
    Path("images/broken.png").write_bytes(b"no image")
    with Path("train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "broken", "image": "images/broken.png", "answer": "apple"}) + "\n")
    assert read("eval", *options, "--strategy", "rices")[-1]["exact"] == 1
    assert "1 of 49 rows cannot be used" in run("eval", *options, code=1).stderr


def test_demonstrations_are_never_rows_of_the_test(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_cannot_be_scored_is_told_before_the_model_is_loaded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    write(here, "test", "test", range(0, 240, 30))
    Path("out").write_text("a file")
    assert "out is a file, and a folder is to be there" in run(*options, "test.jsonl", "--out", "out", code=1).stderr


def test_what_changed_is_answered_anew(here: Path) -> None:
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


def test_adapters_of_one_name_are_rows_of_their_own(here: Path) -> None:
    """Two folders of the same method, whose seeds are the same or whose training is another."""
    for out, more in (("a", ()), ("b", ("--lr", 0.1)), ("c", ("--seed", 1))):
        run("train", "--data", "train.jsonl", *FAST, "--method", "live", *more, "--out", out)

    def methods(*folders: str) -> list[tuple[str, int]]:
        adapters = [arg for folder in folders for arg in ("--adapter", folder)]
        rows = read("eval", "--data", "test.jsonl", *adapters, "--out", "-".join(folders))
        return [(row["method"], row["seeds"]) for row in rows[1:]]

    assert methods("a", "b") == [("live (a)", 1), ("live (b)", 1)]
    assert methods("a", "c") == [("live", 2)]


def test_table_says_what_it_left_out(here: Path) -> None:
    result = CliRunner().invoke(
        app, ["eval", "--data", "test.jsonl", "--model", "testbed"], env={"COLUMNS": "80", "TERM": "dumb"}
    )
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "--columns chooses" in " ".join(result.stdout.split())
    assert "exact match" in Path("out/eval/results.md").read_text()


def test_seeds_of_adapters_are_those_of_the_testbed(here: Path) -> None:
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


def test_info_says_whether_it_fits(here: Path) -> None:
    run("train", *DATA, "--method", "hyper_icl", "--rank", 2, "--out", "a")
    known = read("adapters", "info", "a", "--model", "testbed")
    assert known["method"] == "hyper_icl rank=2"
    assert known["numbers"] == 4 * 2 * (2 * 32 * 2 + 32 + 1)
    assert known["fits"]
    assert known["trained on"] == "train.jsonl"
    described = json.loads(Path("a/adapter_config.json").read_text())
    described["base"]["width"] = 128
    Path("a/adapter_config.json").write_text(json.dumps(described))
    known = read("adapters", "info", "a", "--model", "testbed")
    assert (known["fits"], known["reason"]) == (False, "width is 64, and was 128")
    assert re.search(r"fits +no", run("adapters", "info", "a", "--model", "testbed").stdout)
    Path("a/adapter_model.safetensors").write_bytes(b"damaged")
    assert "cannot be read" in run("adapters", "info", "a", code=1).stderr


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
    ({"training": {"seed": -1}}, "training.seed must be a whole number from 0 to below 4294967296, got -1"),
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


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", *DATA, "--method", "mimic", "--rank", "2"], "method: there is no 'rank'"),
        (["train", *DATA, "--method", "hierarchy_bias"], "hierarchy_bias is told where demonstrations are"),
        (["train", *DATA, "--method", "live", "--method", "task_vector"], "partly fitted and partly trained"),
        (["train", *DATA, "--method", "live", "--shots", "0"], "data.shots must be at least 1"),
        (["train", *DATA, "--method", "live", "--samples", "41"], "samples must be from 1 to 40"),
        (["train", *DATA, "--method", "live", "--data", "testbed:option"], "the task must be one of fixed_map"),
        (["train", *DATA, "--method", "live", "--data", "testbed:options/all"], "the split must be one of train"),
        (["train", *DATA, "--method", "live", "--data", "no.jsonl"], "there is nothing at no.jsonl"),
        (["train", "no.yaml"], "No such file"),
        (["eval", "--data", "test.jsonl", "--model", "testbed", "--adapter", "no"], "there is no folder no"),
        (["eval", "--data", "testbed:options", "--model", "testbed", "--shots", "17"], "shots must be at most 16"),
        (["eval", "--data", "testbed", "--model", "testbed"], "name a task of it, such as testbed:options"),
        (["bank", "build", "images", "--model", "testbed", "--out", "b"], "the testbed embeds nothing: name a model"),
        (["adapters", "info", "no"], "there is no folder no"),
        (["adapters", "info", "images"], "images cannot be read as an adapter, it has no adapter_config.json"),
    ],
)
def test_errors_are_told_in_one_line(args: list[str], message: str, here: Path) -> None:
    result = run(*args, code=1)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("out/adapter").exists()


def test_words_that_the_testbed_does_not_know_are_refused(here: Path) -> None:
    rows = [json.loads(line) for line in Path("train.jsonl").read_text().splitlines()]
    words = ["zebra", "apple pie", "kettle"]
    lines = [json.dumps({**row, "answer": words[i % 3], "question": "which?"}) for i, row in enumerate(rows)]
    Path("foreign.jsonl").write_text("\n".join(lines))
    result = run("train", *FAST, "--data", "foreign.jsonl", "--method", "hificl", "--out", "a", code=1)
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
def test_columns_nearly_right_get_the_right_name(columns: dict[str, str], hint: str, here: Path) -> None:
    rows = [json.loads(line) for line in Path("train.jsonl").read_text().splitlines()]
    lines = [json.dumps({columns["image"]: row["image"], columns["answer"]: row["answer"]}) for row in rows]
    Path("odd.jsonl").write_text("\n".join(lines).replace('"answers": "', '"answer": "'))
    assert hint in run("train", *FAST, "--data", "odd.jsonl", "--method", "hificl", "--out", "a", code=1).stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train"], "give RUN.YAML, or --model, --data and --method"),
        (["train", "--model", "testbed", "--method", "live"], "give RUN.YAML, or --model, --data and --method"),
        (["train", *DATA, "--method", "live", "--objective", "anchor"], "must be weights such as anchor=1,ce=0.5"),
        (["eval", "--data", "test.jsonl", "--metric", "bleu"], "there is no 'bleu'; did you mean bleu4?"),
        (["eval", "--data", "test.jsonl", "--strategy", "no"], "only hyperbolic, random, rices, topk_clip"),
        (["eval", "--data", "test.jsonl", "--shots", "-1"], "Invalid value for '--shots'"),
    ],
)
def test_wrong_usage_is_explained(args: list[str], message: str, here: Path) -> None:
    assert message in run(*args, code=2).stderr


def test_task_keeps_the_last_demonstrations() -> None:
    split = TaskSplit("options", "dev")
    whole, some = (split.examples(shots)[0] for shots in (None, 3))
    assert len(whole.teacher) == 33
    assert some.teacher == whole.teacher[-7:]
    assert some.student == whole.student
    assert split.digest(0) != split.digest(1)


def test_what_train_saves_is_what_from_pretrained_loads(here: Path) -> None:
    run("train", *DATA, "--method", "hificl", "--out", "a")
    model, _ = testbed.load()
    adapters = Adapters.from_pretrained(model, "a")
    assert [part.config for part in adapters["default"]] == [HiFICLConfig()]
