"""A folder with data and with two runs, which is made once."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import pytest

from icl.training.execution import train
from tests.icl.runs import (
    CutError,
    cut_at,
    describe_run,
    write_rows,
)


@pytest.fixture(scope="session", autouse=True)
def _frozen() -> None:
    """Each training collects garbage, among all that was ever imported unless this is told to stay."""
    gc.freeze()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a run that is finished, and one that was cut short after its third epoch."""
    folder = tmp_path_factory.mktemp("runs")
    for name, first in (("train", 0), ("dev", 20), ("pool", 40)):
        write_rows(folder, name, first)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(describe_run(), "whole")
        with pytest.raises(CutError):
            train(describe_run(), "cut", cut_at(7))
    return folder


@pytest.fixture
def here(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
