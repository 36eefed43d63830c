"""The testbed's scores as tables, CSV and a figure, and the card that goes with its weights."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table
from safetensors.torch import save_file

from hyperbolic.version import __version__
from icl.common.files import read_json, replacing, write_json, write_text
from icl.testbed.accuracy import TestbedScore
from icl.testbed.model import weights_folder
from icl.testbed.pretrain import Pretraining

# The colours of Okabe and Ito, told apart with any colour vision, and the marker of each choice of demonstrations.
_LINES = {
    "class present": ("#0072B2", "o"),
    "nearest": ("#009E73", "s"),
    "random": ("#D55E00", "^"),
    "class absent": ("#CC79A7", "D"),
}
_BEGIN, _END = "<!-- icl testbed eval -->", "<!-- end -->"


def _make_tables(scores: Sequence[TestbedScore]) -> list[list[list[str]]]:
    """Return accuracy by number and choice of demonstrations, and by task and prompt, each as lines of cells."""
    shots = {(score.prompt, score.what): score for score in scores if score.what in _LINES}
    tasks = {(score.what, score.prompt): score for score in scores if score.what not in _LINES}
    return [_make_grid("demonstrations", shots), _make_grid("task", tasks)]


def _make_grid(corner: str, scores: Mapping[tuple[str, str], TestbedScore]) -> list[list[str]]:
    """Return the lines of a table from its scores by row and column."""
    cells = {}
    for place, score in scores.items():
        low, high = score.interval
        cells[place] = f"{score.accuracy:.3f} ({low:.2f}-{high:.2f})"
    columns = list(dict.fromkeys(column for _, column in cells))
    rows = dict.fromkeys(row for row, _ in cells)
    return [[corner, *columns], *([row, *(cells.get((row, column), "") for column in columns)] for row in rows)]


def markdown(scores: Sequence[TestbedScore]) -> str:
    """Return both tables in Markdown."""
    lines = []
    for head, *rows in _make_tables(scores):
        lines += ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)] + [""]
    return "\n".join(lines)


def rich_tables(scores: Sequence[TestbedScore]) -> list[Table]:
    """Return both tables for a terminal, intervals on a line of their own."""
    tables = []
    for head, *rows in _make_tables(scores):
        tables.append(table := Table(*head))
        for row in rows:
            table.add_row(*(cell.replace(" (", "\n(") for cell in row))
    return tables


def draw_figure(scores: Sequence[TestbedScore]) -> Figure:
    """Return accuracy against the number of demonstrations, a line for each choice of them, with 95 % intervals."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for choice, (color, marker) in _LINES.items():
        line = [score for score in scores if score.what == choice]
        if not line:
            continue
        below = [score.accuracy - score.interval[0] for score in line]
        above = [score.interval[1] - score.accuracy for score in line]
        shots, accuracy = [int(score.prompt) for score in line], [score.accuracy for score in line]
        axes.errorbar(shots, accuracy, yerr=[below, above], color=color, marker=marker, capsize=3, label=choice)
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xticks(ticks := sorted({int(score.prompt) for score in scores if score.what in _LINES}), map(str, ticks))
    axes.set_xlabel("demonstrations")
    axes.set_ylabel("accuracy on held-out images")
    axes.set_ylim(-0.03, 1.03)
    axes.legend(title="choice of demonstrations", loc="center left")
    return figure


def write_report(scores: Sequence[TestbedScore], folder: Path) -> None:
    """Write ``testbed.csv``, ``testbed.png`` and ``testbed.md``, of which only what is between its markers if any."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["what,prompt,right,prompts,accuracy,low,high"]
    for score in scores:
        numbers = (f"{x:.4f}" for x in (score.accuracy, *score.interval))
        lines.append(",".join([score.what, score.prompt, str(score.right), str(score.prompts), *numbers]))
    write_text(folder / "testbed.csv", "\n".join(lines) + "\n")
    with replacing(folder / "testbed.png") as draft:
        draw_figure(scores).savefig(draft, dpi=120, format="png")
    page = folder / "testbed.md"
    block = f"{_BEGIN}\n\n{markdown(scores)}\n![Accuracy against demonstrations](testbed.png)\n\n{_END}"
    text = page.read_text(encoding="utf-8") if page.exists() else block + "\n"
    write_text(page, re.sub(f"{_BEGIN}.*?{_END}", lambda _: block, text, flags=re.DOTALL))


def save_weights(pretraining: Pretraining, scores: Sequence[TestbedScore], folder: Path) -> None:
    """Write the weights of a finished training, and their card: how they were made and how good they are."""
    state, model = pretraining.state, pretraining.model
    card = {
        "command": f"icl testbed pretrain --style {state.style} --seed {state.seed}",
        "style": state.style,
        "seed": state.seed,
        "parameters": model.num_parameters(),
        "steps": state.total,
        "seconds": round(state.seconds),
        "cpu_seconds": round(state.cpu_seconds),
        "versions": {
            "hyperbolic-icl": __version__,
            "python": platform.python_version(),
            "torch": metadata.version("torch"),
            "transformers": metadata.version("transformers"),
        },
        "machine": platform.machine(),
        "scores": [asdict(score) for score in scores],
    }
    with replacing(folder / "model.safetensors") as draft:
        save_file(model.state_dict(), draft, metadata={"style": state.style})
    write_json(folder / "card.json", card, indent=1)
    write_text(folder / "card.md", card_markdown(card))


def read_card(weights: str | Path = "base") -> dict[str, Any]:
    """Return the card of weights, named as :func:`icl.testbed.load` names them."""
    card: dict[str, Any] = read_json(weights_folder(weights) / "card.json")
    return card


def card_markdown(card: dict[str, Any]) -> str:
    """Return a card in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    return (
        f"# Testbed, style {card['style']}, seed {card['seed']}\n\n"
        f"Idefics2 with {card['parameters']:,} parameters, made by `{card['command']}`\n"
        f"in {card['steps']} steps and {card['cpu_seconds']} seconds of one CPU core ({card['machine']}),\n"
        f"with {versions}.\n\n"
        "Trained on 1437 of scikit-learn's handwritten digits, measured on the 360 others.\n\n"
        + markdown([TestbedScore(**score) for score in card["scores"]])
    )
