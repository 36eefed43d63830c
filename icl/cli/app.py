"""The program ``icl``: every command and group of commands, mounted."""

from __future__ import annotations

import typer

from icl.cli import adapters, bank, lift, testbed
from icl.cli.config import config
from icl.cli.demo import demo
from icl.cli.evaluate import evaluate
from icl.cli.selection import select
from icl.cli.train import train
from icl.common.console import ErrorLineGroup

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
app.command(epilog="Example: icl config --schema")(config)
app.command(epilog="Example: icl demo --quick --out out/demo")(demo)
