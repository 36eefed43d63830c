"""``icl select``: demonstrations of a bank, chosen for each query."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icl.cli.bank import load_embedder, open_bank, rows_of_ids
from icl.cli.options import (
    BankFolder,
    BatchSize,
    DepthWeight,
    Device,
    EmbeddingModel,
    FailureFile,
    K,
    Seed,
    check_finite,
)
from icl.common.choices import Order, Strategy
from icl.common.console import FailureLog, print_json


def select(
    bank: BankFolder,
    query: Annotated[Path | None, typer.Option(help="Rows, as for build, to choose demonstrations for.")] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Row of the bank as a query; can be repeated.")] = None,
    strategy: Annotated[Strategy, typer.Option(help="How rows are ranked.")] = "hyperbolic",
    k: K = 4,
    depth_weight: DepthWeight = 0.0,
    diversity: Annotated[
        float, typer.Option(callback=check_finite, help="From 0, the best, towards 1, unlike each other (MMR).")
    ] = 0.0,
    order: Annotated[Order, typer.Option(help="How they stand in the prompt.")] = "nearest_last",
    seed: Seed = 0,
    model: EmbeddingModel = None,
    device: Device = None,
    batch_size: BatchSize = 64,
    failures: FailureFile = None,
) -> None:
    """Choose demonstrations: one JSON line a query, its id and theirs."""
    if (query is None) == (not ids):
        raise typer.BadParameter("give --query or --id")
    opened = open_bank(bank)
    from icl.bank import Queries
    from icl.bank import select as select_rows

    if query is None:
        queries = Queries.of_rows(opened, rows_of_ids(opened, ids or []))
    else:
        embedder = load_embedder(opened, model, device, batch_size)
        with FailureLog.open(failures) as failed:
            queries = Queries.read(opened, query, embedder, failed)
    rows = select_rows(
        opened, queries, k, strategy, depth_weight=depth_weight, diversity=diversity, order=order, seed=seed
    )
    names = opened.take(rows.flatten(), ["id"]).column("id").to_pylist()
    for i, name in enumerate(queries.ids or []):
        print_json({"id": name, "demonstrations": names[i * k : (i + 1) * k]}, indent=None)
