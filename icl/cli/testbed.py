"""``icl testbed``: train the small model, measure it, show its card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, track

from icl.common.choices import Style
from icl.common.configuration import MAX_SEED
from icl.common.console import ERR, OUT

if TYPE_CHECKING:
    from icl.testbed import PretrainingState, TestbedScore

app = typer.Typer(help="A small vision-language model that really learns in context.", no_args_is_help=True)

Weights = Annotated[str, typer.Argument(help="base, base-0, base-2, or a folder that pretrain has made.")]


@app.command(epilog="Example: icl testbed pretrain --seed 3 --out base-3")
def pretrain(
    seed: Annotated[int, typer.Option(help="Decides the first weights and all data.", min=0, max=2**31 - 1)] = 0,
    style: Annotated[Style, typer.Option(help="base: one token an image; long: four, and more text.")] = "base",
    out: Annotated[Path | None, typer.Option(help="Default: out/testbed/STYLE-SEED.")] = None,
) -> None:
    """Train the model in minutes. A run that was cut short goes on where it was."""
    from icl.testbed import NoBreakthroughError, Pretraining, save_weights

    folder = out or Path("out/testbed") / f"{style}-{seed}"
    pretraining = Pretraining(style, seed, folder)
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} steps"), TimeElapsedColumn()
    with Progress(*columns, console=ERR) as bar:
        tasks = [bar.add_task(phase.name, total=phase.steps, start=False) for phase in pretraining.phases]

        def advance(state: PretrainingState) -> None:
            name = f"{pretraining.phases[state.phase].name}, accuracy {state.accuracy:.2f}"
            bar.start_task(tasks[state.phase])
            bar.update(tasks[state.phase], completed=state.step, description=name)

        try:
            model = pretraining.run(advance)
        except NoBreakthroughError as error:
            raise typer.BadParameter(str(error), param_hint="--seed") from error
    scores = _measure(model, pretraining.processor, seed=0)
    save_weights(pretraining, scores, folder)
    _print_scores(scores, f"Weights and card are in {folder}.")


@app.command("eval", epilog="Example: icl testbed eval base --out tested")
def evaluate(
    weights: Weights = "base",
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Decides demonstrations, words and what tasks hide.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Folder for testbed.csv, .png and .md.")] = Path("out/testbed"),
) -> None:
    """Accuracy by number and choice of demonstrations, and on the tasks as student and as teacher."""
    from icl.testbed import load, write_report

    scores = _measure(*load(weights), seed)
    write_report(scores, out)
    _print_scores(scores, f"Also in {out}: testbed.csv, testbed.png, testbed.md.")


@app.command(epilog="Example: icl testbed card base")
def card(weights: Weights = "base") -> None:
    """How the weights were made, and how good they are."""
    from rich.markdown import Markdown

    from icl.testbed import card_markdown, read_card

    OUT.print(Markdown(card_markdown(read_card(weights))))


def _measure(model: Any, processor: Any, seed: int) -> list[TestbedScore]:
    """Return all scores of a model, with a bar while they are measured."""
    from icl.testbed import SCORE_COUNT, measure_scores

    scores = measure_scores(model, processor, seed)
    return list(track(scores, "measuring", total=SCORE_COUNT, console=ERR, transient=True))


def _print_scores(scores: list[TestbedScore], note: str) -> None:
    """Print the tables of the scores, and where they are written."""
    from icl.testbed import rich_tables

    OUT.print(*rich_tables(scores), note, sep="\n")
