"""``icl lift``: maps from embeddings to hyperbolic points, learned from pairs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from icl.cli.options import AsJson, Seed, check_finite
from icl.common.choices import Pairing
from icl.common.console import OUT, print_json

app = typer.Typer(no_args_is_help=True, help="Maps from embeddings to hyperbolic points.")
_DIM = 64


@app.command(epilog="Example: icl lift fit embeddings.parquet --out lift --pairs label --dim 8")
def fit(
    source: Annotated[Path, typer.Argument(help="A bank, or a file of rows with embeddings.")],
    out: Annotated[Path, typer.Option(help="Folder of the lift.")],
    pairing: Annotated[
        Pairing,
        typer.Option("--pairs", help="What belongs together: image and text, rows of one label, row and parent."),
    ] = "text",
    label: Annotated[str, typer.Option(help="Column of the labels, for --pairs label.")] = "label",
    dim: Annotated[
        int | None,
        typer.Option(min=1, help=f"Of the points; default: {_DIM}, or that of the embeddings if it is less."),
    ] = None,
    c: Annotated[float, typer.Option(callback=check_finite, help="Where the curvature starts.")] = 1.0,
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 50,
    entailment: Annotated[float, typer.Option(callback=check_finite, help="Weight of the entailment loss.")] = 0.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Learn a lift from pairs."""
    import torch

    from icl.bank import HyperbolicLift, LiftTraining, fit_lift, load_pairs

    embeddings, pairs, groups = load_pairs(source, pairing, seed, label)
    torch.manual_seed(seed)  # where a head starts
    lifting = HyperbolicLift(embeddings.shape[1], dim or min(_DIM, embeddings.shape[1]), c=c)
    fitted = fit_lift(lifting, embeddings, pairs, LiftTraining(epochs, entailment, seed=seed), groups=groups)
    lifting.save(out)
    if as_json:
        return print_json({"lift": str(out), **asdict(fitted)})
    table = Table("on held-out pairs", "before", "after")
    before, after = _flatten_quality(fitted.before), _flatten_quality(fitted.after)
    for name in before:
        if name in after:
            table.add_row(name, f"{before[name]:.4g}", f"{after[name]:.4g}")
    OUT.print(table)
    best = f"epoch {fitted.best_epoch} of {len(fitted.dev_loss)}"
    print(f"{out}: lift to dimension {lifting.dim}, c = {fitted.c:.4g}, {best}")


def _flatten_quality(quality: Any) -> dict[str, float]:
    """Return the measures that there are by title; those at several k, such as recall, once for each k."""
    measures: dict[str, float] = {}
    for name, value in asdict(quality).items():
        title = name.replace("_", " ")
        if isinstance(value, dict):
            measures |= {f"{title}@{k}": each for k, each in value.items()}
        elif value is not None:
            measures[title] = value
    return measures
