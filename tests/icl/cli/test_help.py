"""The examples in the help of every command run as they stand there, with the files that they name."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from icl import testbed
from icl.adapters.base import METHODS
from icl.bank.anchor_bank import AnchorBank
from icl.cli.app import app
from icl.common.choices import Method, Metric, Style
from icl.evaluation.metrics.scoring import METRICS
from icl.testbed import accuracy, images, pretrain
from icl.testbed.vocabulary import STYLES, WORDS
from tests.icl.demos import invented
from tests.icl.models import tiny_model
from tests.icl.testbed.test_pretrain import SHORT

WIDE = {"COLUMNS": "500", "TERM": "dumb"}


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def text(*command: str) -> str:
    result = CliRunner().invoke(app, [*command, "--help"], env=WIDE)
    assert result.exit_code == 0, result.output
    return result.stdout


def examples() -> list[list[str]]:
    """Of all commands, each of which has one."""
    found = []
    for command in commands(get_command(app)):
        lines = re.findall(r"^ *Example: icl (.*?) *$", text(*command), re.MULTILINE)
        assert lines, command
        for line in lines:
            words = shlex.split(line)
            assert tuple(words[: len(command)]) == command
            found.append(words)
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all files and models that the examples name, each small."""
    monkeypatch.chdir(tmp_path)
    tiny_model("clip", tmp_path / "openai" / "clip-vit-base-patch32")
    model, processor = testbed.load()
    model.save_pretrained(tmp_path / "HuggingFaceM4" / "idefics2-8b")
    processor.save_pretrained(tmp_path / "HuggingFaceM4" / "idefics2-8b")
    (tmp_path / "images").mkdir()
    shades = [(i, 0) for i in range(34)] + [(i, 1) for i in range(34)]
    for number, (i, blue) in enumerate(shades):
        Image.new("RGB", (16, 16), (7 * i, 200 * blue, 90)).save(tmp_path / "images" / f"{number}.png")
    for name, numbers in (("demos", range(30)), ("more", range(30, 34)), ("queries", range(40, 43))):
        squares = [{"image": f"images/{i}.png", "text": f"a {'red' if i % 2 else 'blue'} square"} for i in numbers]
        lines = [json.dumps({"id": f"demo-{i}", **square}) for i, square in zip(numbers, squares)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    for name in ("train", "dev"):
        source, rows = images.load_digits(name), []
        for i in range(12):
            (tmp_path / "images" / f"{name}-{i}.png").write_bytes(source.png(i))
            rows.append({"image": f"images/{name}-{i}.png", "answer": WORDS[int(source.labels[i])]})
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    embeddings = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)).tolist()
    table = {"id": [str(i) for i in range(60)], "label": [i % 4 for i in range(60)], "image_embedding": embeddings}
    pq.write_table(pa.table(table), tmp_path / "embeddings.parquet")
    return tmp_path


@pytest.mark.filterwarnings("default:all rows of bank lie at one depth")
def test_every_example_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other; what takes minutes, the testbed's training and the demo's jobs, is cut short."""
    monkeypatch.setattr(pretrain, "PHASES", SHORT)
    monkeypatch.setattr(accuracy, "SHOTS", (0, 1))
    monkeypatch.setattr(accuracy, "TASKS", {"parity": testbed.TASKS["parity"]})
    monkeypatch.setattr("icl.demo.run_plan", lambda plan, folder, progress: {job: invented(job) for job in plan.jobs()})
    lines = examples()
    assert {"build", "train", "eval", "pretrain", "demo"} <= {word for words in lines for word in words[:2]}
    # in the order of the help, which trains adapters before it measures them, but for banks, which are needed first
    for words in sorted(lines, key=lambda words: words[0] != "bank"):
        result = CliRunner().invoke(app, words, env=WIDE)
        assert result.exit_code == 0, f"icl {shlex.join(words)}\n{result.output}{result.exception!r}"
        if words[0] == "select":  # by a bank that no lift was learned for
            assert re.search(r"^all rows of bank lie at one depth, [^\n]*$", result.stderr, re.MULTILINE)
    assert len(AnchorBank.open("bank")) == 34
    assert json.loads(Path("adapter/run.json").read_text())["finished"]
    assert json.loads(Path("my-adapter/run.json").read_text())["examples"] == {"train": 12, "dev": 12}


def test_help_lists_what_there_is() -> None:
    """The names stand apart from the code behind them."""
    for kind, there in ((Method, METHODS), (Metric, METRICS), (Style, STYLES)):
        assert set(get_args(kind)) == set(there)
    for name in METHODS:
        assert name in text("train")
    for name in METRICS:
        assert name in text("eval")
    for name in ("anchor", "alignment", "relational", "contrastive", "logits", "attention"):
        assert name in text("train")


@pytest.mark.parametrize("name", ["hyperICL", "Hyper_ICL", "hifcl", "HIFICL"])
def test_a_name_nearly_right_gets_the_right_one(name: str) -> None:
    result = CliRunner().invoke(app, ["train", "--method", name], env=WIDE)
    assert result.exit_code == 2
    assert f"there is no '{name}'; did you mean {'hificl' if 'f' in name.lower() else 'hyper_icl'}?" in result.stderr
