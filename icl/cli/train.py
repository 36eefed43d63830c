"""``icl train``: an adapter learned from examples, by a run in YAML, by options, or by both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from icl.cli.options import (
    MAX_SEED,
    AsJson,
    LanguageModel,
    Pool,
    PoolBank,
    Prompt,
    System,
    check_finite,
    repeated_choice,
)
from icl.common.choices import Method, Strategy, Term
from icl.common.console import ProgressBar, interruptible, print_result


def train(
    file: Annotated[
        Path | None, typer.Argument(metavar="[RUN.YAML]", help="A run in YAML; options overrule it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the adapter.")] = Path("out/adapter"),
    model: LanguageModel = None,
    data: Annotated[str | None, typer.Option(help="Rows to learn from, or testbed: and a task.")] = None,
    dev: Annotated[str | None, typer.Option(help="Rows that the epoch is chosen by.")] = None,
    method: Annotated[list[str] | None, repeated_choice(Method, "Several act together.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Of a method that has one.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(help=f"Weights of {', '.join(get_args(Term))}, such as anchor=1,ce=0.5; default: the method's."),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="How many rows are used; default: all.")] = None,
    shots: Annotated[int | None, typer.Option(min=0, help="Demonstrations that the teacher sees; default: 8.")] = None,
    strategy: Annotated[Strategy | None, typer.Option(help="How they are chosen; default: random.")] = None,
    pool: Pool = None,
    bank: PoolBank = None,
    prompt: Prompt = None,
    system: System = None,
    epochs: Annotated[float | None, typer.Option(callback=check_finite, help="Default: 5.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the optimiser, instead of epochs.")] = None,
    lr: Annotated[
        float | None,
        typer.Option(callback=check_finite, help="Learning rate; default: the best in a few short trainings."),
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

    options: dict[str, dict[str, Any]] = {
        "": {"model": model},
        "data": {"train": data, "dev": dev, "samples": samples, "shots": shots, "strategy": strategy}
        | {"pool": pool, "bank": bank, "prompt": prompt, "system": system},
        "training": {"epochs": epochs, "steps": steps, "learning_rate": lr, "batch_size": batch_size, "seed": seed},
    }
    values = override_settings({} if file is None else read_yaml(file), options)
    if method:
        values["method"] = list(method)
    if rank is not None:
        values["method"] = _set_rank(values.get("method"), rank)
    if objective is not None:
        values["objective"] = _parse_weights(objective)
    run = TrainingRun.from_dict(values)
    from icl.training import train as train_adapter

    columns = TextColumn("{task.fields[activity]}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps")
    times = TimeElapsedColumn(), TimeRemainingColumn()
    with (
        interruptible("run the same command again, it goes on after the last epoch"),
        ProgressBar(*columns, *times, transient=True) as bar,
    ):
        task = bar.add_task("", total=None, activity="loading")

        def advance(step: int, total: int, best: float | None) -> None:
            activity = "training" if best is None else f"training, dev {run.training.choose_by} {best:.4g}"
            bar.update(task, completed=step, total=total, activity=activity)

        record = train_adapter(run, out, advance)
    costs = f"{record['parameters']:,} parameters, {record['seconds']:.1f} s"
    text = f"{out}: {run.label}, {costs}{_describe_learning(record)}"
    print_result({"adapter": str(out), **record}, text, as_json)


def _describe_learning(record: dict[str, Any]) -> str:
    """Return the epoch that was kept, and losses and accuracy before and after; nothing for a fitted method."""
    if "chosen" not in record:
        return ""
    epoch, loss = record["chosen"], record["training_loss"]
    lines = [f", epoch {epoch['epoch']:.3g}" + (f" by {epoch['by']}" if epoch["by"] is not None else "")]
    lines.append(f"training loss: {loss['first']:.4g} at the first step, {loss['last']:.4g} at the end")
    if "untrained" in record:
        before, after = record["untrained"], record["trained"]
        lines.append(f"dev loss: {before['loss']:.4g} untrained, {after['loss']:.4g} trained")
        lines.append(f"dev answers all right: {before['accuracy']:.1%} untrained, {after['accuracy']:.1%} trained")
    return "\n  ".join(lines)


def _set_rank(method: Any, rank: int) -> list[Any]:
    """Return the methods of a run, each with this rank; a method that has none refuses it when it is built."""
    methods = method if isinstance(method, list) else [method]
    named = ({"name": each} if isinstance(each, str) else each for each in methods)
    return [{**each, "rank": rank} if isinstance(each, dict) else each for each in named]


def _parse_weights(objective: str) -> dict[str, Any]:
    """Return the weights of "anchor=1,ce=0.5", with values as YAML has them."""
    import yaml  # type: ignore[import-untyped]

    try:
        pairs = [part.split("=", maxsplit=1) for part in objective.split(",")]
        return {name.strip(): yaml.safe_load(value) for name, value in pairs}
    except (yaml.YAMLError, ValueError) as error:
        raise typer.BadParameter("must be weights such as anchor=1,ce=0.5", param_hint="--objective") from error
