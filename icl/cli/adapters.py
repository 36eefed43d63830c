"""``icl train``, ``icl eval`` and ``icl adapters``: adapters learned from examples, put to the test, and looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from icl.common.choices import Method, Metric, Strategy, Term
from icl.common.console import (
    INTERRUPTED,
    MAX_SEED,
    OUT,
    AsJson,
    Bar,
    choices,
    finite,
    print_json,
    print_result,
    progress,
    say,
)

app = typer.Typer()
adapters_app = typer.Typer(no_args_is_help=True, help="Adapters that replace demonstrations.")
app.add_typer(adapters_app, name="adapters")

Model = Annotated[str | None, typer.Option(help="Path or name of a vision-language model, or testbed.")]
Pool = Annotated[str | None, typer.Option(help="Rows that demonstrations are taken from.")]
Bank = Annotated[str | None, typer.Option(help="Bank of the pool, for strategies other than random.")]
Prompt = Annotated[str | None, typer.Option(help='How a row is asked about: "{question} Short answer:".')]
System = Annotated[str | None, typer.Option(help="A message before all others.")]


@app.command(
    epilog="Example: icl train --model testbed --data testbed:options --dev testbed:options --samples 64 --epochs 1 "
    "--method hyper_icl --out adapter\n\n"
    "Example: icl train --model HuggingFaceM4/idefics2-8b --data train.jsonl --dev dev.jsonl --method hyper_icl "
    "--out my-adapter"
)
def train(
    file: Annotated[
        Path | None, typer.Argument(metavar="[RUN.YAML]", help="A run in YAML; options overrule it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the adapter.")] = Path("out/adapter"),
    model: Model = None,
    data: Annotated[str | None, typer.Option(help="Rows to learn from, or testbed: and a task.")] = None,
    dev: Annotated[str | None, typer.Option(help="Rows that the epoch is chosen by.")] = None,
    method: Annotated[list[str] | None, choices(Method, "Several act together.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Of a method that has one.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(help=f"Weights of {', '.join(get_args(Term))}, such as anchor=1,ce=0.5; default: the method's."),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="How many rows are used; default: all.")] = None,
    shots: Annotated[int | None, typer.Option(min=0, help="Demonstrations that the teacher sees; default: 8.")] = None,
    strategy: Annotated[Strategy | None, typer.Option(help="How they are chosen; default: random.")] = None,
    pool: Pool = None,
    bank: Bank = None,
    prompt: Prompt = None,
    system: System = None,
    epochs: Annotated[float | None, typer.Option(callback=finite, help="Default: 5.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the optimiser, instead of epochs.")] = None,
    lr: Annotated[
        float | None,
        typer.Option(callback=finite, help="Learning rate; default: the best in a few short trainings."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Default: 8.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="Of parameters, order and demonstrations; default: 0.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Learn an adapter. Run again after an interruption, it goes on after its last epoch.

    The folder gets the adapter, and run.json with all that it takes to do it again.
    """
    if file is None and (model is None or data is None or not method):
        raise typer.BadParameter("give RUN.YAML, or --model, --data and --method")
    from icl.training import TrainingRun, override_settings, read_yaml

    values = {} if file is None else read_yaml(file)
    given: dict[str, dict[str, Any]] = {
        "": {"model": model},
        "data": {"train": data, "dev": dev, "samples": samples, "shots": shots, "strategy": strategy}
        | {"pool": pool, "bank": bank, "prompt": prompt, "system": system},
        "training": {"epochs": epochs, "steps": steps, "learning_rate": lr, "batch_size": batch_size, "seed": seed},
    }
    values = override_settings(values, given)
    if method:
        values["method"] = list(method)
    if rank is not None:
        values["method"] = _with_rank(values.get("method"), rank)
    if objective is not None:
        values["objective"] = _weights(objective)
    run = TrainingRun.from_dict(values)
    from icl.training import train as execute

    columns = TextColumn("{task.fields[what]}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps")
    try:
        with Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), transient=True) as bar:
            line = bar.add_task("", total=None, what="loading")

            def show(step: int, total: int, best: float | None) -> None:
                what = "training" if best is None else f"training, dev {run.training.choose_by} {best:.4g}"
                bar.update(line, completed=step, total=total, what=what)

            told = execute(run, out, show)
    except KeyboardInterrupt as error:
        say("stopped: run the same command again, it goes on after the last epoch", "yellow")
        raise typer.Exit(INTERRUPTED) from error
    text = f"{out}: {run.label}, {told['parameters']:,} parameters, {told['seconds']:.1f} s{_learned(told)}"
    print_result({"adapter": str(out), **told}, text, as_json)


@app.command("eval", epilog="Example: icl eval --data testbed:options --adapter adapter --shots 0 --shots 4")
def evaluate(
    data: Annotated[str, typer.Option(help="Rows to be tested by, or testbed: and a task.")],
    model: Model = None,
    adapter: Annotated[list[Path] | None, typer.Option(help="Folder of an adapter; can be repeated.")] = None,
    shots: Annotated[
        list[int] | None, typer.Option(min=0, help="Demonstrations in the prompt; can be repeated.")
    ] = None,
    strategy: Annotated[list[str] | None, choices(Strategy, "How they are chosen.")] = None,
    pool: Pool = None,
    bank: Bank = None,
    prompt: Prompt = None,
    system: System = None,
    metric: Annotated[list[str] | None, choices(Metric, "How answers are scored.")] = None,
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
        _check_adapter(folder)
    from icl.evaluation import EvaluationPlan, Results, markdown_tables, parse_columns, terminal_tables
    from icl.evaluation import evaluate as execute

    chosen = parse_columns(columns) if columns else ()
    strategies = cast("tuple[Strategy, ...]", tuple(strategy or ("random",)))
    plan = EvaluationPlan(
        data, model, tuple(adapter or ()), tuple(shots or (0,)), strategies, tuple(seed or ()),
        pool, bank, prompt, system, tuple(metric or ("exact",)), max_new_tokens, batch_size,
    )  # fmt: skip
    results = Results(out / "results.json")
    with progress("run the same command again, what is measured is kept") as advance:
        execute(plan, results, advance)
    results.write(".csv", results.csv)
    results.write(".md", lambda: markdown_tables(results.rows()))
    if as_json:
        return print_json(results.rows())
    OUT.print(terminal_tables(results.rows(), OUT.width, chosen))
    print(f"All columns: {out / 'results.md'}\nAll answers: {out / 'results.json'}")


@adapters_app.command(epilog="Example: icl adapters info adapter --model testbed")
def info(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of an adapter.")],
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Show what an adapter is, and whether it fits a model."""
    _check_adapter(folder)
    from icl.adapters import AdapterConfig, count_parameters, read_config
    from icl.training import describe_method, read_run

    described, told = read_config(folder), read_run(folder)
    base = described["base"]
    known: dict[str, Any] = {
        "method": " + ".join(describe_method(AdapterConfig.from_dict(part)) for part in described["parts"]),
        "numbers": count_parameters(folder),
        "base": described["base_model_name_or_path"] or "unknown",
        "architecture": "{architecture}, {layers} layers, {heads} heads, width {width}".format(**base),
    }
    if told is not None:
        known |= {"trained on": told["run"]["data"]["train"], "seconds": told["seconds"]}
    if model is not None:
        from icl.attention import Decoder, load_model

        reason = Decoder(load_model(model)[0]).mismatch(base)
        known["fits"] = reason is None
        if reason is not None:
            known["reason"] = reason
    if as_json:
        return print_json(known)
    table = Table(show_header=False, box=None)
    for key, value in known.items():
        shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
        table.add_row(key, Text(f"{shown:,}" if isinstance(shown, int) else str(shown)))
    OUT.print(table)


def _check_adapter(folder: Path) -> None:
    """Say that there is none before seconds of imports."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name one that icl train --out has made")
    if not any((folder / name).exists() for name in ("adapter_config.json", "run.json")):
        raise ValueError(f"{folder} cannot be read as an adapter, it has no adapter_config.json")


def _learned(record: dict[str, Any]) -> str:
    """Of a method that is trained: the epoch that was kept, and losses and accuracy before and after."""
    if "chosen" not in record:
        return ""
    chosen, loss = record["chosen"], record["training_loss"]
    lines = [f", epoch {chosen['epoch']:.3g}" + (f" by {chosen['by']}" if chosen["by"] is not None else "")]
    lines.append(f"training loss: {loss['first']:.4g} at the first step, {loss['last']:.4g} at the end")
    if "untrained" in record:
        before, after = record["untrained"], record["trained"]
        lines.append(f"dev loss: {before['loss']:.4g} untrained, {after['loss']:.4g} trained")
        lines.append(f"dev answers all right: {before['accuracy']:.1%} untrained, {after['accuracy']:.1%} trained")
    return "\n  ".join(lines)


def _with_rank(method: Any, rank: int) -> list[dict[str, Any]]:
    """Given to each method; one that has none says so."""
    methods = method if isinstance(method, list) else [method]
    named = ({"name": each} if isinstance(each, str) else each for each in methods)
    return [{**each, "rank": rank} if isinstance(each, dict) else each for each in named]


def _weights(objective: str) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    pairs = [part.partition("=") for part in objective.split(",")]
    if not all(separator for _, separator, _ in pairs):
        raise typer.BadParameter("must be weights such as anchor=1,ce=0.5", param_hint="--objective")
    try:
        return {name.strip(): yaml.safe_load(value) for name, _, value in pairs}
    except (yaml.YAMLError, ValueError) as error:
        raise typer.BadParameter("must be weights such as anchor=1,ce=0.5", param_hint="--objective") from error
