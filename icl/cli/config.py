"""``icl config``: the settings that there are, as JSON schema."""

from __future__ import annotations

from typing import Annotated

import typer

from icl.common.console import print_json


def config(
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of all settings.")] = False,
) -> None:
    """Describe the settings of a training run, an evaluation and every adapter method, for editors and other tools."""
    if not schema:
        raise typer.BadParameter("give --schema")
    from icl.adapters import METHODS
    from icl.common.configuration import schema as describe
    from icl.evaluation import EvaluationPlan
    from icl.training import TrainingRun

    methods = {name: describe(METHODS[name]) for name in sorted(METHODS)}
    print_json({"training_run": describe(TrainingRun), "evaluation": describe(EvaluationPlan), "methods": methods})
