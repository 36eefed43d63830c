"""The program ``icl``: every command and group of commands, mounted."""

from __future__ import annotations

from typing import Annotated

import typer

from icl.cli import adapters, bank, lift, testbed
from icl.cli.demo import demo
from icl.cli.evaluate import evaluate
from icl.cli.selection import select
from icl.cli.train import train
from icl.common.console import ErrorLineGroup, print_json

app = typer.Typer(
    cls=ErrorLineGroup, no_args_is_help=True, pretty_exceptions_enable=False, help="Demonstrations in context."
)
app.add_typer(bank.app, name="bank")
app.add_typer(lift.app, name="lift")
app.add_typer(testbed.app, name="testbed")
app.command(epilog="Example: icl select bank --query queries.jsonl --strategy hyperbolic -k 4")(select)
app.command(
    epilog="Example: icl train --model testbed --data testbed:options --dev testbed:options --samples 64 --epochs 1 "
    "--method hyper_icl --out adapter\n\n"
    "Example: icl train --model HuggingFaceM4/idefics2-8b --data train.jsonl --dev dev.jsonl --method hyper_icl "
    "--out my-adapter"
)(train)
app.command("eval", epilog="Example: icl eval --data testbed:options --adapter adapter --shots 0 --shots 4")(evaluate)
app.add_typer(adapters.app, name="adapters")
app.command(epilog="Example: icl demo --quick --out out/demo")(demo)


@app.command(epilog="Example: icl config --schema")
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
