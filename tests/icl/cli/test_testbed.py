"""``icl testbed``: the model trained, measured and described."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from icl.cli.testbed import app
from icl.testbed import accuracy, load, pretrain


def test_commands_start_without_transformers() -> None:
    code = "import sys, icl.cli.testbed; sys.exit('transformers' in sys.modules or 'datasets' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pretrain_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "PHASES", (pretrain.PretrainingPhase("chat", 2, 1e-3),))
    score = accuracy.TestbedScore("random", "1", 3, 7)
    monkeypatch.setattr("icl.testbed.measure_scores", lambda model, processor, seed: iter([score]))
    out = tmp_path / "long"
    result = CliRunner().invoke(app, ["pretrain", "--style", "long", "--seed", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    card = json.loads((out / "card.json").read_text())
    assert card["command"] == "icl testbed pretrain --style long --seed 1"
    assert card["scores"] == [{"what": "random", "prompt": "1", "right": 3, "prompts": 7}]
    built, processor = load(out)
    saved = load_file(out / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in built.state_dict().items())
    assert processor.image_seq_len == 4
    wrong = CliRunner().invoke(app, ["pretrain", "--style", "short"])
    assert wrong.exit_code == 2
    with pytest.raises(FileNotFoundError, match="icl testbed pretrain makes them"):
        load(tmp_path)
    save_file(saved, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="metadata name no style"):
        load(tmp_path)
