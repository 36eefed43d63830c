"""``icl testbed``: train the small model, measure it, show its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, track

from icl.common.choices import Style
from icl.common.console import ERR, MAX_SEED, OUT

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
    from safetensors.torch import save_file

    from icl.testbed import PHASES, NoBreakthroughError, Pretraining, card_markdown, make_card

    folder = out or Path("out/testbed") / f"{style}-{seed}"
    run = Pretraining(style, seed, folder)
    columns = (BarColumn(), TextColumn("{task.completed} steps, accuracy {task.fields[accuracy]:.2f}"))
    with Progress(TextColumn("{task.description}"), *columns, TimeElapsedColumn(), console=ERR) as bar:
        lines = [bar.add_task(phase.name, total=phase.steps, start=False, accuracy=0.0) for phase in PHASES]

        def show(state: PretrainingState) -> None:
            bar.start_task(lines[state.phase])
            bar.update(lines[state.phase], completed=state.step, accuracy=state.accuracy)

        try:
            model = run.run(show)
        except NoBreakthroughError as error:
            raise typer.BadParameter(str(error), param_hint="--seed") from error
    scores = _scores(model, run.processor, seed=0)
    card = make_card(run.state, model.num_parameters(), scores)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"style": style})
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (folder / "card.md").write_text(card_markdown(card))
    _show(scores, f"Weights and card are in {folder}.")


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

    scores = _scores(*load(weights), seed)
    write_report(scores, out)
    _show(scores, f"Also in {out}: testbed.csv, testbed.png, testbed.md.")


@app.command(epilog="Example: icl testbed card base")
def card(weights: Weights = "base") -> None:
    """How the weights were made, and how good they are."""
    from rich.markdown import Markdown

    from icl.testbed import card_markdown, read_card

    OUT.print(Markdown(card_markdown(read_card(weights))))


def _scores(model: Any, processor: Any, seed: int) -> list[TestbedScore]:
    from icl.testbed import SCORE_COUNT, measure_scores

    scores = measure_scores(model, processor, seed)
    return list(track(scores, "measuring", total=SCORE_COUNT, console=ERR, transient=True))


def _show(scores: list[TestbedScore], where: str) -> None:
    from icl.testbed import rich_tables

    for table in rich_tables(scores):
        OUT.print(table)
    OUT.print(where)
