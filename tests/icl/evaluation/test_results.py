"""The file of results, which several processes write to."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icl.evaluation.metrics.scoring import MetricScore
from icl.evaluation.results import Results
from tests.icl.measurements import make_measurement


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "its format is None"),
        ('{"format": 9}', "its format is 9"),
        ('{"format": 1, "cells": []}', "an earlier version wrote it"),
        ('{"format": 2, "cells": [{}]}', r"cells\.0\.model: Field required"),
    ],
)
def test_file_that_is_none_is_refused_and_left(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        Results(file)
    assert file.read_text() == content


WRITER = """
import sys
from dataclasses import replace
from icl.evaluation.results import Results
results = Results(sys.argv[1])
first = results.measurements[0]
for i in range(int(sys.argv[3])):
    results.add(replace(first, method=f"{sys.argv[2]} {i}", choice=f"{sys.argv[2]} {i}"))
    print(i, flush=True)
"""


def writer(file: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(file), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    """Both have read the file before either has written to it, which goes on for as long as the other lives."""
    file = tmp_path / "results.json"
    mine = Results(file)
    mine.add(make_measurement("mine", 0, 1.0))
    processes = [writer(file, name, 40) for name in "ab"]
    for process in processes:
        process.communicate(timeout=100)
    mine.add(make_measurement("mine", 1, 1.0))
    methods = [c.method for c in Results(file).measurements]
    assert sorted(methods) == sorted(["mine", "mine", *(f"{name} {i}" for name in "ab" for i in range(40))])
    # what another process has measured is found
    assert mine.find(Results(file).measurements[5].key) is not None


def test_killed_while_it_writes(tmp_path: Path) -> None:
    """Cells that were told to be written are there, whenever the process died."""
    file = tmp_path / "results.json"
    Results(file).add(make_measurement("mine", 0, *[1.0] * 2000))
    process = writer(file, "a", 100_000)
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(5)]
    time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    told += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    methods = {c.method for c in Results(file).measurements}
    assert {f"a {int(line)}" for line in told if line.endswith("\n")} <= methods
    Results(file).add(make_measurement("after", 0, 1.0))
    assert "after" in {c.method for c in Results(file).measurements}


def test_scores_of_two_processes_are_joined(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    first, second = Results(file), Results(file)
    first.add(make_measurement("a", 0, 1.0, scores={"exact": MetricScore(1.0, (1.0,))}))
    second.add(make_measurement("a", 0, 1.0, scores={"vqa": MetricScore(0.5, (0.5,))}))
    (found,) = Results(file).measurements
    assert {name: score.value for name, score in found.scores.items()} == {"exact": 1.0, "vqa": 0.5}
