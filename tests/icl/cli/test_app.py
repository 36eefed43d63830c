"""The program as a whole: errors of its user are one line, and wrong usage is explained."""

import json
from pathlib import Path

import pytest

from icl.bank.anchor_bank import AnchorBank
from tests.icl.commands import FILES, run


def test_errors_of_the_user_are_one_line(bank: AnchorBank, anchor_files: Path) -> None:
    (anchor_files / "empty").mkdir()
    (anchor_files / "plain.jsonl").write_text('{"id": "a", "text": "b"}\n')
    rows = [{"image_embedding": [1.0, i], "label": f"only {i}"} for i in range(5)]
    (anchor_files / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for args, message in [
        (["bank", "info", "nowhere"], "there is no bank at nowhere: build one"),
        (["bank", "build", "more.jsonl", "--out", "bank"], "there is a bank at bank, of other rows: append to it"),
        (["bank", "build", "missing.jsonl", "--out", "new"], "there is nothing at missing.jsonl"),
        (["bank", "build", "empty", "--out", "new"], "holds neither images nor any of"),
        (["bank", "build", "demos.jsonl", "--out", "new", "--lift", "empty"], "empty holds no lift"),
        (["bank", "append", "bank", "demos.jsonl"], "ids must be unique"),
        (["bank", "build", "demos.jsonl", "--out", "new", "--lift", "no"], "there is no lift at no: icl lift fit"),
        (["bank", "append", "bank", "plain.jsonl"], "rows without a point need a lift"),
        (["bank", "build", "plain.jsonl", "--out", "new"], "these have no embeddings either, for which build takes a"),
        (["lift", "fit", "other.jsonl", "--pairs", "label", "--out", "lift"], "4 pairs of rows or more, to learn from"),
        (["bank", "search", "bank", "--id", "[red]x"], "has no row with id [red]x"),
        (["bank", "search", "bank", "--where", "nothing = 3", "--id", "demo-1"], "cannot filter by nothing = 3"),
        (["bank", "report", "bank", "--out", "page", "--label", "none"], "has no column none to colour by"),
        (["select", "bank", "--id", "demo-1", "-k", "30"], "k must be from 1 to 29"),
        (["select", "bank", "--id", "demo-1", "--strategy", "rices"], "compares the image_embedding of every query"),
        (["lift", "fit", "demos.jsonl", "--out", "lift"], "has neither image_embedding nor text_embedding"),
        (["lift", "fit", "embeddings.parquet", "--out", "lift", "--c", "99"], "c must be between"),
    ]:
        result = run(*args, code=1)
        assert result.stdout == ""
        assert message in result.stderr
        assert result.stderr.count("\n") == 1, result.stderr


def test_usage(bank: AnchorBank) -> None:
    for args in (
        ["bank", "search", "bank"],
        ["bank", "search", "bank", "--id", "a", "--text", "b"],
        ["bank", "search", "bank", "--id", "a", "--ann", "--where", "true"],
        ["bank", "search", "bank", "--id", "a", "-k", "0"],
        ["bank", "build"],
        ["select", "bank"],
        ["select", "bank", "--id", "a", "--query", "queries.jsonl"],
        ["select", "bank", "--id", "a", "--strategy", "best"],
        ["nothing"],
    ):
        result = run(*args, code=2)
        assert result.stdout == ""
        assert "Usage" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", *FILES, "--method", "mimic", "--rank", "2"], "method: there is no 'rank'"),
        (["train", *FILES, "--method", "hierarchy_bias"], "hierarchy_bias is told where demonstrations are"),
        (["train", *FILES, "--method", "live", "--method", "task_vector"], "partly fitted and partly trained"),
        (["train", *FILES, "--method", "live", "--shots", "0"], "data.shots must be at least 1"),
        (["train", *FILES, "--method", "live", "--samples", "41"], "samples must be from 1 to 40"),
        (["train", *FILES, "--method", "live", "--data", "testbed:option"], "the task must be one of fixed_map"),
        (["train", *FILES, "--method", "live", "--data", "testbed:options/all"], "the split must be one of train"),
        (["train", *FILES, "--method", "live", "--data", "no.jsonl"], "there is nothing at no.jsonl"),
        (["train", "no.yaml"], "No such file"),
        (["eval", "--data", "test.jsonl", "--model", "testbed", "--adapter", "no"], "there is no folder no"),
        (["eval", "--data", "testbed:options", "--model", "testbed", "--shots", "17"], "shots must be at most 16"),
        (["eval", "--data", "testbed", "--model", "testbed"], "name a task of it, such as testbed:options"),
        (["bank", "build", "images", "--model", "testbed", "--out", "b"], "the testbed embeds nothing: name a model"),
        (["adapters", "info", "no"], "there is no folder no"),
        (["adapters", "info", "images"], "images cannot be read as an adapter, it has no adapter_config.json"),
    ],
)
def test_errors_are_told_in_one_line(args: list[str], message: str, digit_files: Path) -> None:
    result = run(*args, code=1)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("out/adapter").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train"], "give RUN.YAML, or --model, --data and --method"),
        (["train", "--model", "testbed", "--method", "live"], "give RUN.YAML, or --model, --data and --method"),
        (["train", *FILES, "--method", "live", "--objective", "anchor"], "must be weights such as anchor=1,ce=0.5"),
        (["eval", "--data", "test.jsonl", "--metric", "bleu"], "there is no 'bleu'; did you mean bleu4?"),
        (["eval", "--data", "test.jsonl", "--strategy", "no"], "only hyperbolic, random, rices, topk_clip"),
        (["eval", "--data", "test.jsonl", "--shots", "-1"], "Invalid value for '--shots'"),
    ],
)
def test_wrong_usage_is_explained(args: list[str], message: str, digit_files: Path) -> None:
    assert message in run(*args, code=2).stderr
