"""What is wrong with an evaluation is told before a model is loaded; what it measures, tests of ``icl eval`` show."""

from pathlib import Path
from typing import Any

import pytest

from icl.evaluation.evaluation_plan import EvaluationPlan, evaluate
from icl.evaluation.results import Results


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": (4, -1)}, "shots must be a list, each a whole number of 0 or more"),
        ({"seeds": (-1,)}, "seeds must be a list, each a whole number from 0 up to"),
        ({"metrics": ("bleu",)}, r"metrics must be a list, each one of exact, vqa, .*got \('bleu',\)"),
        ({"metrics": ()}, "got none"),
    ],
)
def test_plan_that_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationPlan("testbed:options", **options)


def test_model_must_be_named_where_no_adapter_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model must be given where no adapter"):
        evaluate(EvaluationPlan("testbed:options"), Results(tmp_path / "results.json"))
    assert not list(tmp_path.iterdir())
