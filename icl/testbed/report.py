"""Scores as tables, CSV and a figure, and the card that goes with weights."""

from __future__ import annotations

import csv
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from hyperbolic.version import __version__
from icl.testbed.accuracy import TestbedScore
from icl.testbed.model import weights_folder
from icl.testbed.pretrain import PretrainingState

# The colours of Okabe and Ito, told apart with any colour vision.
_LINES = {
    "class present": ("#0072B2", "o"),
    "nearest": ("#009E73", "s"),
    "random": ("#D55E00", "^"),
    "class absent": ("#CC79A7", "D"),
}
_BEGIN, _END = "<!-- icl testbed eval -->", "<!-- end -->"


def tables(scores: Sequence[TestbedScore]) -> list[tuple[list[str], list[list[str]]]]:
    """Header and rows: accuracy by number and choice of demonstrations, and by task and prompt."""
    shots = [(score.prompt, score.what, score) for score in scores if score.what in _LINES]
    tasks = [(score.what, score.prompt, score) for score in scores if score.what not in _LINES]
    return [_grid("demonstrations", shots), _grid("task", tasks)]


def _grid(first: str, cells: Sequence[tuple[str, str, TestbedScore]]) -> tuple[list[str], list[list[str]]]:
    rows = dict.fromkeys(row for row, _, _ in cells)
    columns = dict.fromkeys(column for _, column, _ in cells)
    written = {(row, column): _cell(score) for row, column, score in cells}
    return [first, *columns], [[row, *(written.get((row, column), "") for column in columns)] for row in rows]


def _cell(score: TestbedScore) -> str:
    low, high = score.interval
    return f"{score.accuracy:.3f} ({low:.2f}-{high:.2f})"


def markdown(scores: Sequence[TestbedScore]) -> str:
    lines = []
    for header, rows in tables(scores):
        lines += ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)] + [""]
    return "\n".join(lines)


def rich_tables(scores: Sequence[TestbedScore]) -> list[Table]:
    out = []
    for header, rows in tables(scores):
        table = Table(*header)
        for row in rows:
            table.add_row(*(cell.replace(" (", "\n(") for cell in row))
        out.append(table)
    return out


def figure(scores: Sequence[TestbedScore]) -> Figure:
    """Accuracy against the number of demonstrations, a line for each choice of them, with 95 % intervals."""
    drawing = Figure(figsize=(6, 4), layout="constrained")
    axes = drawing.add_subplot()
    for choice, (color, marker) in _LINES.items():
        line = [score for score in scores if score.what == choice]
        if not line:
            continue
        below = [score.accuracy - score.interval[0] for score in line]
        above = [score.interval[1] - score.accuracy for score in line]
        axes.errorbar(
            [int(score.prompt) for score in line],
            [score.accuracy for score in line],
            yerr=[below, above],
            color=color,
            marker=marker,
            capsize=3,
            label=choice,
        )
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xticks(ticks := sorted({int(score.prompt) for score in scores if score.what in _LINES}), map(str, ticks))
    axes.set_xlabel("demonstrations")
    axes.set_ylabel("accuracy on held-out images")
    axes.set_ylim(-0.03, 1.03)
    axes.legend(title="choice of demonstrations", loc="center left")
    return drawing


def write_report(scores: Sequence[TestbedScore], folder: Path) -> None:
    """``testbed.csv``, ``testbed.png``, and, between its markers if there are, ``testbed.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "testbed.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["what", "prompt", "right", "prompts", "accuracy", "low", "high"])
        for score in scores:
            numbers = (f"{x:.4f}" for x in (score.accuracy, *score.interval))
            rows.writerow([score.what, score.prompt, score.right, score.prompts, *numbers])
    figure(scores).savefig(folder / "testbed.png", dpi=120)
    page = folder / "testbed.md"
    block = f"{_BEGIN}\n\n{markdown(scores)}\n![Accuracy against demonstrations](testbed.png)\n\n{_END}"
    before = page.read_text(encoding="utf-8") if page.exists() else block + "\n"
    page.write_text(re.sub(f"{_BEGIN}.*?{_END}", lambda _: block, before, flags=re.DOTALL), encoding="utf-8")


def make_card(state: PretrainingState, parameters: int, scores: Sequence[TestbedScore]) -> dict[str, Any]:
    """What there is to know of weights: how they were made, with what, and how good they are."""
    return {
        "command": f"icl testbed pretrain --style {state.style} --seed {state.seed}",
        "style": state.style,
        "seed": state.seed,
        "parameters": parameters,
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


def read_card(weights: str | Path = "base") -> dict[str, Any]:
    """The card of weights, named as :func:`icl.testbed.load` names them."""
    found: dict[str, Any] = json.loads((weights_folder(weights) / "card.json").read_text())
    return found


def card_markdown(card: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    return (
        f"# Testbed, style {card['style']}, seed {card['seed']}\n\n"
        f"Idefics2 with {card['parameters']:,} parameters, made by `{card['command']}`\n"
        f"in {card['steps']} steps and {card['cpu_seconds']} seconds of one CPU core ({card['machine']}),\n"
        f"with {versions}.\n\n"
        "Trained on 1437 of scikit-learn's handwritten digits, measured on the 360 others.\n\n"
        + markdown([TestbedScore(**score) for score in card["scores"]])
    )
