"""``icl train``: an adapter learned from examples, by a run in YAML, by options, or by both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from icl.cli.options import AsJson, LanguageModel, repeated_choice, take_settings
from icl.common.choices import Method, Term
from icl.common.console import ProgressBar, interruptible, print_result
from icl.training import DataSettings, TrainingSettings


@take_settings(
    {"train": "--data", "learning_rate": "--lr"}, required=False, data=DataSettings, training=TrainingSettings
)
def train(
    file: Annotated[
        Path | None, typer.Argument(metavar="[RUN.YAML]", help="A run in YAML; options overrule it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the adapter.")] = Path("out/adapter"),
    model: LanguageModel = None,
    method: Annotated[list[str] | None, repeated_choice(Method, "Several act together.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Of a method that has one.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(help=f"Weights of {', '.join(get_args(Term))}, such as anchor=1,ce=0.5; default: the method's."),
    ] = None,
    as_json: AsJson = False,
    *,
    settings: dict[str, dict[str, Any]],
) -> None:
    """Learn an adapter. Run again after an interruption, it goes on after its last epoch.

    The folder gets the adapter, and run.json with all that it takes to do it again.
    """
    if file is None and (model is None or "train" not in settings["data"] or not method):
        raise typer.BadParameter("give RUN.YAML, or --model, --data and --method")
    from icl.training import TrainingRun, override_settings, read_yaml

    values = override_settings({} if file is None else read_yaml(file), {"": {"model": model}, **settings})
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
