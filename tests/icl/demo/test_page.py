"""The page and its files say what was measured."""

import csv
import io
import json
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from icl.demo.demo_plan import FULL, QUICK, STANDARD
from icl.testbed.trials import Trial
from tests.icl.demos import ONE_A_CLASS, TINY, written


def test_page(tmp_path: Path) -> None:
    text = written(FULL, tmp_path)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text(encoding="utf-8"))))
    for line in lines:
        assert unescape(text).count(f"<td>{line['method']}</td>") >= 1
    judged = [line for line in lines if line["holds"]]
    assert text.count('<span class="yes">') == sum(line["holds"] == "True" for line in judged) > 0
    assert text.count('<span class="no">') == sum(line["holds"] == "False" for line in judged) > 0
    every = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in every["methods"]] == [line["method"] for line in lines]
    assert len(every["ablations"]) == len(FULL.ablations)
    # seeds 0, 1, 2 are right in 7, 8 and 9 of 10
    hyper = next(line for line in lines if line["method"] == "Hyper-ICL, CE")
    assert float(hyper["accuracy"]) == pytest.approx(0.8)


def test_page_of_a_cut_plan_judges_nothing(tmp_path: Path) -> None:
    text = written(QUICK, tmp_path)
    assert "nothing is judged" in text
    assert 'class="yes"' not in text
    assert 'class="no"' not in text
    assert f"{QUICK.steps} of 400 steps" in text


def test_page_of_one_base_leaves_marks_to_three(tmp_path: Path) -> None:
    text = written(STANDARD, tmp_path)
    assert "Marks are of three trainings: icl demo --full judges them." in text
    assert 'class="yes"' not in text
    assert len(json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["ablations"]) == len(FULL.ablations)


def test_names_are_no_markup(tmp_path: Path) -> None:
    hostile: Trial = replace(ONE_A_CLASS, name="</script><script>alert(1)</script>, CE")
    text = written(replace(TINY, trials=(hostile,)), tmp_path)
    assert "<script>alert(1)" not in text
