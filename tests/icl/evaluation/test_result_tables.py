"""Tables for terminals of any width, and in Markdown."""

import pytest
from rich.cells import cell_len

from icl.evaluation.measurement import Distances
from icl.evaluation.metrics.scoring import MetricScore
from icl.evaluation.result_tables import markdown_tables, parse_columns
from icl.evaluation.results import Results
from tests.icl.measurements import make_measurement, print_tables


@pytest.fixture
def results() -> Results:
    """As wide as they get."""
    results = Results()
    far = Distances(1.2345, 0.5, 0.01, "p")
    scores = {name: MetricScore(0.25, (0.0, 0.5)) for name in ("exact", "vqa", "cider")}
    for model in ("HuggingFaceM4/idefics2-8b", "testbed"):
        more = {"model": model, "scores": scores}
        results.add(make_measurement("zero-shot", 0, 0.0, 1.0, distances=far, **more))
        results.add(make_measurement("k-shot", 0, 1.0, 0.0, shots=16, strategy="hyperbolic", prefill=8.0, **more))
        long = "hyper_icl rank=2 gate=token layers=(0,2), anchor=1 ce=0.5 c=1.0"
        more |= {"parameters": 123_456_789, "train_seconds": 12345.6}
        results.add(make_measurement(long, 0, 1.0, 1.0, **more))
        results.add(make_measurement(long, 0, 0.0, 0.0, choice="other", note="last epoch, no dev set", **more))
    return results


@pytest.mark.parametrize("width", [80, 100, 170, 300])
def test_table_fits_the_terminal(results: Results, width: int) -> None:
    """No line is longer, no word is cut, and what is left out is named."""
    text = print_tables(results.rows(), width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    for whole in ("zero-shot", "16 hyperbolic", "parameters", "prefill", "0.250 (-2.92", "123,456,789"):
        assert whole in text
    words = " ".join(text.split())
    assert "last epoch, no dev set; the test set was read for 2 choices" in words
    assert "test read: for how many choices" in words or "test_reads" in words
    assert ("No room" in words) == (width < 300)


def test_columns_are_explained_where_they_stand(results: Results) -> None:
    wide, narrow = print_tables(results.rows(), 300), print_tables(results.rows(), 300, "method,exact")
    for start in ("geodesic, L2: how far", "attention KL: Kullback", "test read: for how many", "prefill: time to"):
        assert start in wide
        assert start not in narrow
        assert start in markdown_tables(results.rows())


def test_columns_that_are_asked_for_are_shown(results: Results) -> None:
    lines = print_tables(results.rows(), 60, "seeds, method").splitlines()
    assert lines[1].split("┃")[1:-1] == [
        " seeds ",
        " method" + " " * len(lines[1].split("┃")[2].removeprefix(" method")),
    ]
    with pytest.raises(ValueError, match=r"columns must be of model, task, method, .*, got 'exakt'"):
        parse_columns("method,exakt")


def test_markdown_keeps_its_columns() -> None:
    results = Results()
    results.add(make_measurement("a|b", 0, 0.0, note="one\ntwo"))
    lines = markdown_tables(results.rows()).splitlines()
    assert [line.replace("\\|", "").count("|") for line in lines[:3]] == [lines[0].count("|")] * 3
