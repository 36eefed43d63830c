"""How commands end, and what they list on stderr."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from icl.cli.app import app
from icl.common.console import FailureLog
from icl.common.failures import RowFailure
from tests.icl.commands import run


def test_too_little_memory_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*args: Any, **kwargs: Any) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr("icl.bank.schema.BankMetadata.read", allocate)
    assert "not enough memory" in run("bank", "info", "bank", code=1).stderr


def test_faults_of_ours_are_no_errors_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*args: Any, **kwargs: Any) -> None:
        raise TypeError("a fault")

    monkeypatch.setattr("icl.bank.schema.BankMetadata.read", fault)
    result = CliRunner().invoke(app, ["bank", "info", "bank"])
    assert isinstance(result.exception, TypeError)


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("icl.bank.schema.BankMetadata.read", interrupted)
    result = CliRunner().invoke(app, ["bank", "info", "bank"])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "stopped\n")


def test_failures_are_counted_listed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FailureLog.open(tmp_path / "failed.jsonl") as log:
        for row in range(7):
            log(RowFailure(row, f"image [bold]{row}", "broken"))
    assert log.count == 7
    lines = [json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
    assert lines[6] == {"row": 6, "what": "image [bold]6", "reason": "broken"}
    listed = capsys.readouterr().err.splitlines()
    assert listed[0] == "7 rows failed and were left out:"
    assert listed[5] == "  row 4: image [bold]4: broken"
    assert listed[6:] == ["  and 2 more"]
