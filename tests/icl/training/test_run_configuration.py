"""Training runs as data: objectives, labels and YAML."""

import re
from pathlib import Path

import pytest

from icl.adapters import HyperICLConfig, LIVEConfig
from icl.losses.objective import Objective
from icl.training.run_configuration import TrainingRun, describe_method, read_yaml


@pytest.mark.parametrize(
    ("named", "terms"),
    [
        ({"anchor": 1}, {"anchor": 1}),
        ({"anchor": 1, "ce": 0.5}, {"ce": 0.5, "anchor": 1}),
        ({"logits": 2, "ce": 0}, {"logits": 2}),
        ({"ce": 2}, {"ce": 2}),
        ({"c": 0.5}, {"ce": 1}),
        ({}, {"ce": 1}),
    ],
)
def test_no_weights_but_those_named(named: dict[str, float], terms: dict[str, float]) -> None:
    """In Python and in YAML."""
    values = {"model": "m", "data": {"train": "t"}, "method": "hyper_icl", "objective": named}
    assert Objective(**named).terms == terms  # type: ignore[arg-type]
    assert TrainingRun.from_dict(values).aim == Objective(**named)  # type: ignore[arg-type]


def test_weights_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="anchor must be a finite number of 0 or more or nothing, got -1"):
        Objective(anchor=-1)
    with pytest.raises(ValueError, match="at least one weight"):
        Objective(ce=0.0)


def test_labels_tell_runs_apart() -> None:
    base = {"model": "m", "data": {"train": "t"}, "method": "hyper_icl"}
    assert TrainingRun.from_dict(base).label == "hyper_icl"
    both = TrainingRun.from_dict({**base, "method": ["hyper_icl", {"name": "hificl", "tokens": 4}]})
    assert both.label == "hyper_icl + hificl tokens=4"
    assert both.aim == HyperICLConfig.objective
    other = TrainingRun.from_dict({**base, "objective": {"anchor": 1, "c": 1}})
    assert other.label == "hyper_icl, anchor=1 c=1.0"
    # what the method has anyway is not told
    assert TrainingRun.from_dict({**base, "objective": {"anchor": 1, "ce": 0.5}}).label == "hyper_icl"
    assert describe_method(LIVEConfig(layers=(0, 2))) == "live layers=(0,2)"


def test_yaml_that_is_none(tmp_path: Path) -> None:
    for content in ("[1, 2]", "a: [", "text"):
        (tmp_path / "run.yaml").write_text(content)
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / "run.yaml"))):
            read_yaml(tmp_path / "run.yaml")
