"""The file of results, which several processes write to, and the tables that are made of it."""

import csv
import io
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from icl.evaluation.measurement import Cost, Distances, Measurement
from icl.evaluation.metrics.scoring import MetricScore
from icl.evaluation.result_tables import markdown_tables, parse_columns, terminal_tables
from icl.evaluation.results import Results


def cell(method: str, seed: int, *right: float, **more: Any) -> Measurement:
    zero = more.pop("zero_ms", 2.0)
    taken = Cost(10, more.pop("prefill", 1.0) * zero, 1.0, zero, 1.0, 4_000_000, 1000, 2000, None)
    values = {
        "model": "m", "base": "b", "task": "task", "settings": {},
        "shots": 0, "strategy": None, "test": "t", "choice": f"{method} {seed}", "ids": ("x",) * len(right),
        "parameters": 0, "train_seconds": None, "note": None, "cost": taken, "distances": None,
    }  # fmt: skip
    scores = {"exact": MetricScore(sum(right) / len(right), right)}
    values = {**values, "method": method, "seed": seed, "answers": ("",) * len(right), "scores": scores, **more}
    return Measurement(**values)


def test_intervals_are_for_seeds_where_there_are_some_else_for_examples(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    for seed, right in enumerate(([1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0])):
        results.add(cell("several", seed, *right, train_seconds=10.0 * seed))
    results.add(cell("right or wrong", 0, *[1.0] * 10))
    results.add(cell("shares", 0, 0.3, 0.6, 0.9))
    several, binary, shares = Results(tmp_path / "results.json").rows()
    half = 4.302653 * 0.25 / math.sqrt(3)  # Student's t of two degrees of freedom
    assert (several["exact"], several["interval_of"], several["seeds"]) == (0.75, "seeds", 3)
    assert several["train_seconds"] == 10
    assert several["exact_low"] == pytest.approx(0.75 - half)
    assert several["exact_high"] == pytest.approx(0.75 + half)
    z2 = 1.959964**2
    assert (binary["interval_of"], binary["exact_high"]) == ("examples", 1)
    assert binary["exact_low"] == pytest.approx(10 / (10 + z2))  # Wilson's, where all are right
    assert shares["exact_low"] == pytest.approx(0.6 - 4.302653 * 0.3 / math.sqrt(3))


def test_cost_is_compared_with_the_most_demonstrations() -> None:
    results = Results()
    results.add(cell("zero-shot", 0, 0.0))
    results.add(cell("k-shot", 0, 1.0, shots=4, strategy="random", prefill=4.0))
    results.add(cell("k-shot", 0, 1.0, shots=16, strategy="random", prefill=8.0))
    results.add(cell("adapter", 0, 1.0, prefill=1.2, parameters=2312))
    assert [row["prefill_of_k_shot"] for row in results.rows()] == [1 / 8, 4 / 8, 1, pytest.approx(0.15)]
    lines = list(csv.DictReader(io.StringIO(results.csv())))
    assert [line["method"] for line in lines] == ["zero-shot", "k-shot", "k-shot", "adapter"]
    assert lines[3]["prefill_of_zero_shot"] == "1.2"
    assert "| adapter | 0 | 2,312 |" in markdown_tables(results.rows())
    assert "peak MB" not in markdown_tables(results.rows())  # what is nowhere known has no column


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", "0"), ("seed", True), ("seed", 10**30), ("train_seconds", 1e300),
        ("ids", {}), ("ids", ["x"]), ("answers", [1, 2, 3]),
        ("cost", None), ("scores", {"exact": {"value": math.nan, "rows": None}}),
        ("scores", {"exact": {"value": 0.5, "rows": [0.5]}}),
        ("settings", {"data": 1}), ("distances", {"geodesic": 1}),
    ],
)  # fmt: skip
def test_cell_of_foreign_types_is_refused(field: str, value: Any, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    Results(file).add(cell("adapter", 0, 1.0, 0.0, 1.0))
    content = json.loads(file.read_text())
    content["cells"][0][field] = value
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"results\.json cannot be read"):
        Results(file)


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
    mine.add(cell("mine", 0, 1.0))
    processes = [writer(file, name, 40) for name in "ab"]
    for process in processes:
        process.communicate(timeout=100)
    mine.add(cell("mine", 1, 1.0))
    methods = [c.method for c in Results(file).measurements]
    assert sorted(methods) == sorted(["mine", "mine", *(f"{name} {i}" for name in "ab" for i in range(40))])
    # what another process has measured is found
    assert mine.find(Results(file).measurements[5].key) is not None


def test_killed_while_it_writes(tmp_path: Path) -> None:
    """Cells that were told to be written are there, whenever the process died."""
    file = tmp_path / "results.json"
    Results(file).add(cell("mine", 0, *[1.0] * 2000))
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
    Results(file).add(cell("after", 0, 1.0))
    assert "after" in {c.method for c in Results(file).measurements}


def test_scores_of_two_processes_are_joined(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    first, second = Results(file), Results(file)
    first.add(cell("a", 0, 1.0, scores={"exact": MetricScore(1.0, (1.0,))}))
    second.add(cell("a", 0, 1.0, scores={"vqa": MetricScore(0.5, (0.5,))}))
    (found,) = Results(file).measurements
    assert {name: score.value for name, score in found.scores.items()} == {"exact": 1.0, "vqa": 0.5}


def test_rows_of_two_models_are_apart() -> None:
    """Ratios are within a model; other weights under the same name are another."""
    results = Results()
    for model, base, prefill in (("small", "1", 2.0), ("large", "2", 8.0), ("large", "3", 4.0)):
        results.add(cell("zero-shot", 0, 0.0, model=model, base=base))
        results.add(cell("k-shot", 0, 1.0, model=model, base=base, shots=4, strategy="random", prefill=prefill))
        results.add(cell("adapter", 0, 1.0, model=model, base=base, prefill=1.0))
    rows = results.rows()
    assert [row["model"] for row in rows] == ["small"] * 3 + ["large (2)"] * 3 + ["large (3)"] * 3
    assert [row["prefill_of_k_shot"] for row in rows] == [0.5, 1, 0.5, 0.125, 1, 0.125, 0.25, 1, 0.25]
    assert "| large (3) | task | k-shot |" in markdown_tables(rows)
    assert "large (2)" in shown(rows, 120)


def test_milliseconds_agree_with_ratios_whatever_the_load() -> None:
    """The machine was three times as slow when zero-shot was measured."""
    results = Results()
    results.add(cell("zero-shot", 0, 0.0, zero_ms=30.0))
    results.add(cell("k-shot", 0, 1.0, shots=4, strategy="random", zero_ms=10.0, prefill=2.0))
    results.add(cell("adapter", 0, 1.0, zero_ms=11.0, prefill=1.1))
    zero, *others = results.rows()
    assert zero["prefill_ms"] == 11
    assert [row["prefill_ms"] / zero["prefill_ms"] for row in others] == [2, pytest.approx(1.1)]
    assert [row["prefill_of_zero_shot"] for row in others] == [2, 1.1]


def test_times_that_load_has_swallowed_are_unknown() -> None:
    results = Results()
    results.add(cell("zero-shot", 0, 0.0))
    swallowed = Cost(10, 2.0, -0.5, 2.0, 1.0, 1, 1, 1, None)
    results.add(cell("adapter", 0, 0.0, cost=swallowed))
    assert [row["decode_of_zero_shot"] for row in results.rows()] == [1, None]


def test_seed_that_decides_nothing_is_no_seed() -> None:
    results = Results()
    for seed in range(3):
        results.add(cell("zero-shot", seed, 1.0, 0.0, choice="the same"))
    (row,) = results.rows()
    assert (row["seeds"], row["interval_of"]) == (1, "examples")


def test_seeds_measured_with_other_settings_are_not_averaged() -> None:
    results = Results()
    results.add(cell("k-shot", 0, 0.0, settings={"prompt": "a"}))
    results.add(cell("k-shot", 1, 0.0, settings={"prompt": "a"}))
    results.add(cell("adapter", 0, 0.0, settings={"prompt": "a"}))
    results.add(cell("k-shot", 0, 1.0, settings={"prompt": "b"}, choice="b"))
    rows = {row["method"]: row for row in results.rows()}
    assert (rows["k-shot"]["exact"], rows["k-shot"]["seeds"], rows["k-shot"]["test_reads"]) == (1, 1, 2)
    assert rows["adapter"]["note"] == "other prompt than rows measured later"
    assert rows["adapter"]["prefill_of_k_shot"] is None
    # the earlier choice again counts as the last
    results.add(cell("k-shot", 0, 0.0, settings={"prompt": "a"}))
    rows = {row["method"]: row for row in results.rows()}
    assert (rows["k-shot"]["exact"], rows["k-shot"]["seeds"], rows["adapter"]["note"]) == (0, 2, None)


def test_distances_from_another_teacher_are_not_shown() -> None:
    results = Results()
    results.add(cell("adapter", 0, 0.0, distances=Distances(1.0, 1.0, 1.0, "4 shots")))
    results.add(cell("zero-shot", 0, 0.0, distances=Distances(2.0, 2.0, 2.0, "8 shots")))
    assert [row["geodesic"] for row in results.rows()] == [2, None]


def test_metric_that_only_some_seeds_have_is_no_mean() -> None:
    results = Results()
    results.add(cell("a", 0, 1.0))
    results.add(cell("a", 1, 0.0, scores={"vqa": MetricScore(0.5, (0.5,))}))
    (row,) = results.rows()
    assert (row["exact"], row["vqa"], row["seeds"]) == (None, 0.5, 1)


def shown(rows: Any, width: int, columns: str = "") -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(terminal_tables(rows, width, parse_columns(columns) if columns else ()))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def results() -> Results:
    """As wide as they get."""
    results = Results()
    far = Distances(1.2345, 0.5, 0.01, "p")
    scores = {name: MetricScore(0.25, (0.0, 0.5)) for name in ("exact", "vqa", "cider")}
    for model in ("HuggingFaceM4/idefics2-8b", "testbed"):
        more = {"model": model, "scores": scores}
        results.add(cell("zero-shot", 0, 0.0, 1.0, distances=far, **more))
        results.add(cell("k-shot", 0, 1.0, 0.0, shots=16, strategy="hyperbolic", prefill=8.0, **more))
        long = "hyper_icl rank=2 gate=token layers=(0,2), anchor=1 ce=0.5 c=1.0"
        more |= {"parameters": 123_456_789, "train_seconds": 12345.6}
        results.add(cell(long, 0, 1.0, 1.0, **more))
        results.add(cell(long, 0, 0.0, 0.0, choice="other", note="last epoch, no dev set", **more))
    return results


@pytest.mark.parametrize("width", [80, 100, 170, 300])
def test_table_fits_the_terminal(results: Results, width: int) -> None:
    """No line is longer, no word is cut, and what is left out is named."""
    text = shown(results.rows(), width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    for whole in ("zero-shot", "16 hyperbolic", "parameters", "prefill", "0.250 (-2.92", "123,456,789"):
        assert whole in text
    words = " ".join(text.split())
    assert "last epoch, no dev set; the test set was read for 2 choices" in words
    assert "test read: for how many choices" in words or "test_reads" in words
    assert ("No room" in words) == (width < 300)


def test_columns_are_explained_where_they_stand(results: Results) -> None:
    wide, narrow = shown(results.rows(), 300), shown(results.rows(), 300, "method,exact")
    for start in ("geodesic, L2: how far", "attention KL: Kullback", "test read: for how many", "prefill: time to"):
        assert start in wide
        assert start not in narrow
        assert start in markdown_tables(results.rows())


def test_columns_that_are_asked_for_are_shown(results: Results) -> None:
    lines = shown(results.rows(), 60, "seeds, method").splitlines()
    assert lines[1].split("┃")[1:-1] == [
        " seeds ",
        " method" + " " * len(lines[1].split("┃")[2].removeprefix(" method")),
    ]
    with pytest.raises(ValueError, match=r"columns must be of model, task, method, .*, got 'exakt'"):
        parse_columns("method,exakt")


def test_markdown_keeps_its_columns() -> None:
    results = Results()
    results.add(cell("a|b", 0, 0.0, note="one\ntwo"))
    lines = markdown_tables(results.rows()).splitlines()
    assert [line.replace("\\|", "").count("|") for line in lines[:3]] == [lines[0].count("|")] * 3
