"""``icl eval``: a model put to the test, zero-shot, with demonstrations, and with adapters in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from icl.cli.adapters import check_adapter_folder
from icl.cli.options import MAX_SEED, AsJson, LanguageModel, Pool, PoolBank, Prompt, System, repeated_choice
from icl.common.choices import Metric, Strategy
from icl.common.console import OUT, print_json, row_progress


def evaluate(
    data: Annotated[str, typer.Option(help="Rows to be tested by, or testbed: and a task.")],
    model: LanguageModel = None,
    adapter: Annotated[list[Path] | None, typer.Option(help="Folder of an adapter; can be repeated.")] = None,
    shots: Annotated[
        list[int] | None, typer.Option(min=0, help="Demonstrations in the prompt; can be repeated.")
    ] = None,
    strategy: Annotated[list[str] | None, repeated_choice(Strategy, "How they are chosen.")] = None,
    pool: Pool = None,
    bank: PoolBank = None,
    prompt: Prompt = None,
    system: System = None,
    metric: Annotated[list[str] | None, repeated_choice(Metric, "How answers are scored.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, max=MAX_SEED, help="Of demonstrations; can be repeated.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 32,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts answered at a time.")] = 16,
    columns: Annotated[
        str | None,
        typer.Option(help="Of the table, such as method,exact,prefill_ms; default: as many as there is room for."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results.json, .csv and .md.")] = Path("out/eval"),
    as_json: AsJson = False,
) -> None:
    """Put a model to the test: zero-shot, with demonstrations, and with adapters in their place.

    What is not given is as in the first adapter's run. Run again, what is in results.json is not done again; and the
    table says where a test set was read for more than one choice.
    """
    for folder in adapter or ():
        check_adapter_folder(folder)
    from icl.evaluation import EvaluationPlan, Results, markdown_tables, parse_columns, terminal_tables
    from icl.evaluation import evaluate as run_evaluation

    selected_columns = parse_columns(columns) if columns else ()
    strategies = cast("tuple[Strategy, ...]", tuple(strategy or ("random",)))
    plan = EvaluationPlan(
        data, model, tuple(adapter or ()), tuple(shots or (0,)), strategies, tuple(seed or ()),
        pool, bank, prompt, system, tuple(metric or ("exact",)), max_new_tokens, batch_size,
    )  # fmt: skip
    results = Results(out / "results.json")
    with row_progress("run the same command again, what is measured is kept") as advance:
        run_evaluation(plan, results, advance)
    results.write(".csv", results.csv)
    results.write(".md", lambda: markdown_tables(results.rows()))
    if as_json:
        return print_json(results.rows())
    OUT.print(terminal_tables(results.rows(), OUT.width, selected_columns))
    print(f"All columns: {out / 'results.md'}\nAll answers: {out / 'results.json'}")
