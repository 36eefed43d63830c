"""``icl eval``: a model put to the test, zero-shot, with demonstrations, and with adapters in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from icl.cli.adapters import check_adapter_folder
from icl.cli.options import AsJson, take_settings
from icl.common.console import OUT, print_json, row_progress
from icl.evaluation import EvaluationPlan

_NAMES = {"adapters": "--adapter", "strategies": "--strategy", "metrics": "--metric", "seeds": "--seed"}


@take_settings(_NAMES, required=True, plan=EvaluationPlan)
def evaluate(
    columns: Annotated[
        str | None,
        typer.Option(help="Of the table, such as method,exact,prefill_ms; default: as many as there is room for."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results.json, .csv and .md.")] = Path("out/eval"),
    as_json: AsJson = False,
    *,
    settings: dict[str, dict[str, Any]],
) -> None:
    """Put a model to the test: zero-shot, with demonstrations, and with adapters in their place.

    What is not given is as in the first adapter's run. Run again, what is in results.json is not done again; and the
    table says where a test set was read for more than one choice.
    """
    for folder in settings["plan"].get("adapters", ()):
        check_adapter_folder(folder)
    from icl.evaluation import Results, markdown_tables, parse_columns, terminal_tables
    from icl.evaluation import evaluate as run_evaluation

    selected_columns = parse_columns(columns) if columns else ()
    plan = EvaluationPlan(**settings["plan"])
    results = Results(out / "results.json")
    with row_progress("run the same command again, what is measured is kept") as advance:
        run_evaluation(plan, results, advance)
    results.write(".csv", results.csv)
    results.write(".md", lambda: markdown_tables(results.rows()))
    if as_json:
        return print_json(results.rows())
    OUT.print(terminal_tables(results.rows(), OUT.width, selected_columns))
    print(f"All columns: {out / 'results.md'}\nAll answers: {out / 'results.json'}")
