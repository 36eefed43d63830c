"""``icl bank``: banks of demonstrations built, extended, described, searched, indexed and drawn."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zipfile import BadZipFile

import typer
from rich.table import Table
from rich.text import Text

from icl.cli.options import (
    AsJson,
    BankFolder,
    BatchSize,
    DepthWeight,
    Device,
    EmbeddingModel,
    FailureFile,
    K,
    check_finite,
)
from icl.common.console import OUT, FailureLog, print_facts, print_json, print_result, row_progress, say

if TYPE_CHECKING:
    from torch import Tensor

    from icl.bank import AnchorBank, Embedder, Hits

app = typer.Typer(no_args_is_help=True, help="Banks of demonstrations.")


@app.command(epilog="Example: icl bank build demos.jsonl --model openai/clip-vit-base-patch32 --out bank")
def build(
    source: Annotated[
        Path, typer.Argument(help="JSONL, Parquet, Arrow or CSV, a folder of these or of images, or a bank.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new bank.")],
    model: Annotated[str | None, typer.Option(help="CLIP-like model for rows without embeddings.")] = None,
    lift: Annotated[Path | None, typer.Option(help="Folder of a lift (icl lift fit) for rows without points.")] = None,
    c: Annotated[
        float, typer.Option(callback=check_finite, help="Curvature -c of the points, unless a lift brings it.")
    ] = 1.0,
    device: Device = None,
    batch_size: BatchSize = 64,
    failures: FailureFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a bank. Run again after an interruption, it goes on where it was.

    With a model and without a lift, embeddings of unit length are taken as tangents at the origin: all rows lie at one
    depth, and hyperbolic selection is that by cosines. A lift that was learned (icl lift fit) gives depths. The rows
    of a bank are lifted again without being embedded again.
    """
    from icl.bank import METADATA_FILE, AnchorBank, BankMetadata, Embedder, HyperbolicLift, has_depth

    if model is None and (source / METADATA_FILE).exists():
        model = BankMetadata.read(source).embedder
    embedder = None if model is None else Embedder(model, device, batch_size=batch_size)
    lifting: HyperbolicLift | None = None
    if lift is not None:
        lifting = HyperbolicLift.load(lift)
    elif embedder is not None:
        lifting = HyperbolicLift(embedder.width, c=c).eval()
    with row_progress("run the same command again, it goes on there") as advance, FailureLog.open(failures) as failed:
        bank = AnchorBank.build(out, source, embedder=embedder, lift=lifting, c=c, on_failure=failed, progress=advance)
    if not has_depth(bank):
        say(
            "all rows lie at one depth, where hyperbolic selection is that by cosines: learn a lift, icl lift fit "
            f"{out} --out LIFT, and then icl bank build {out} --lift LIFT --out BANK",
            "yellow",
        )
    result = {"bank": str(out), "rows": len(bank), "failed": failed.count}
    print_result(result, f"{out}: {len(bank)} rows of dimension {bank.meta.dim}", as_json)


@app.command(epilog="Example: icl bank append bank more.jsonl")
def append(
    bank: BankFolder,
    source: Annotated[Path, typer.Argument(help="Rows, as for build.")],
    model: EmbeddingModel = None,
    device: Device = None,
    batch_size: BatchSize = 64,
    failures: FailureFile = None,
    as_json: AsJson = False,
) -> None:
    """Add rows, all or none."""
    opened = open_bank(bank)
    embedder = load_embedder(opened, model, device, batch_size)
    with row_progress("nothing was added") as advance, FailureLog.open(failures) as failed:
        count = opened.append(source, embedder=embedder, on_failure=failed, progress=advance)
    result = {"bank": str(bank), "added": count, "rows": len(opened), "failed": failed.count}
    print_result(result, f"{bank}: {count} rows added, now {len(opened)}", as_json)


@app.command(epilog="Example: icl bank info bank")
def info(bank: BankFolder, as_json: AsJson = False) -> None:
    """Show what is in a bank."""
    from icl.bank import BankMetadata

    BankMetadata.read(bank)  # says that there is none before anything else is imported
    from icl.bank import describe_bank
    from icl.bank import open_bank as open_version

    print_facts(describe_bank(bank, *open_version(bank)), as_json)


@app.command(epilog="Example: icl bank search bank --id demo-3 -k 5")
def search(
    bank: BankFolder,
    text: Annotated[str | None, typer.Option(help="Search by a text.")] = None,
    image: Annotated[Path | None, typer.Option(help="Search by an image.")] = None,
    row_id: Annotated[str | None, typer.Option("--id", help="Search by a row of the bank, itself left out.")] = None,
    points: Annotated[Path | None, typer.Option(help="Search by points, .npy of shape (N, dimension).")] = None,
    k: K = 10,
    depth_weight: DepthWeight = 0.0,
    where: Annotated[str | None, typer.Option(help="SQL condition on the columns, such as \"task = 'vqa'\".")] = None,
    ann: Annotated[bool, typer.Option("--ann", help="Use the approximate index (icl bank index).")] = False,
    model: EmbeddingModel = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Find the nearest rows."""
    if sum(option is not None for option in (text, image, row_id, points)) != 1:
        raise typer.BadParameter("give one of --text, --image, --id and --points")
    if ann and where is not None:
        raise typer.BadParameter("--ann searches all rows: leave --where or --ann out")
    opened = open_bank(bank)
    from icl.bank import Hits, Queries

    itself = None
    if points is not None:
        query = _read_points(points)
    elif row_id is not None:
        itself = rows_of_ids(opened, [row_id])
        query = opened.gather(itself)
    else:
        rows = {"text": [text]} if image is None else {"image": [str(image)]}
        lifted = Queries.read(opened, rows, load_embedder(opened, model, device, 1)).points
        assert lifted is not None  # what is read is lifted
        query = lifted
    count = k if itself is None else k + 1
    if ann:
        from icl.bank import search_index

        hits = search_index(opened, query, count, depth_weight=depth_weight)
    else:
        hits = opened.search(query, count, depth_weight=depth_weight, where=where)
    if itself is not None:
        others = (hits.rows[0] != itself).nonzero().flatten()[:k]
        hits = Hits(*(column[:, others] for column in hits))
    _print_hits(opened, hits, as_json)


@app.command(epilog="Example: icl bank index bank")
def index(bank: BankFolder, as_json: AsJson = False) -> None:
    """Build the approximate index of a bank's latest version."""
    opened = open_bank(bank)
    from icl.bank import build_index

    with row_progress("no index was made") as advance:
        record = build_index(opened, progress=advance)
    text = f"{bank}: index of version {record.version}, recall@{record.k} {record.recall:.3f} as measured"
    print_result(asdict(record), text, as_json)


@app.command(epilog="Example: icl bank report bank --out page --id demo-3")
def report(
    bank: BankFolder,
    out: Annotated[Path, typer.Option(help="Folder for the page and its pictures.")],
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Row whose neighbours to show; can be repeated.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column that colours the points; default: label.")] = None,
    k: K = 8,
    depth_weight: DepthWeight = 0.0,
    as_json: AsJson = False,
) -> None:
    """Write a page about a bank: the disk, the depths, neighbours."""
    opened = open_bank(bank)
    from icl.bank import Queries, write_report

    queries = Queries.of_rows(opened, rows_of_ids(opened, ids)) if ids else None
    page = write_report(opened, out, queries, k=k, depth_weight=depth_weight, label=label)
    print_result({"page": str(page)}, str(page), as_json)


def open_bank(folder: Path) -> AnchorBank:
    """Return the bank of a folder. ``BankError`` says that there is none before torch is imported."""
    from icl.bank import BankMetadata

    BankMetadata.read(folder)
    from icl.bank import AnchorBank

    return AnchorBank.open(folder)


def load_embedder(bank: AnchorBank, model: str | None, device: str | None, batch_size: int) -> Embedder | None:
    """Return the embedder of this name, by default the one of the bank, or ``None`` if it has none."""
    from icl.bank import Embedder

    name = model or bank.meta.embedder
    return None if name is None else Embedder(name, device, batch_size=batch_size)


def rows_of_ids(bank: AnchorBank, ids: list[str]) -> Tensor:
    """Return the row numbers (N,) of these ids. ``BankError`` lists ids that the bank does not have."""
    import torch

    from icl.bank import BankError

    rows = [bank.rows_of("id", name) for name in ids]
    if missing := [name for name, row in zip(ids, rows) if not len(row)]:
        raise BankError(f"{bank.folder} has no row with id {', '.join(missing)}")
    return torch.cat(rows)


def _read_points(file: Path) -> Tensor:
    """Return the points (N, D) of a .npy file. ``ValueError`` for a file that is no array of finite numbers."""
    import numpy as np
    import torch

    try:
        with file.open("rb") as content:
            array = np.load(content, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"--points: {file} is no array of numpy.save: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        kind = array.dtype if isinstance(array, np.ndarray) else "several arrays"
        raise ValueError(f"--points: {file} must hold one array of real numbers, got {kind}")
    points = torch.from_numpy(array.astype(np.float64)).float()
    if not points.isfinite().all():
        raise ValueError(f"--points: {file} must hold finite numbers of float32")
    return points


def _print_hits(bank: AnchorBank, hits: Hits, as_json: bool) -> None:
    """Print the rows of each query, nearest first, with their scores."""
    numbers = zip(hits.rows.flatten().tolist(), hits.scores.flatten().tolist(), hits.dist.flatten().tolist())
    records = [
        {**record, "row": row, "score": score, "dist": dist}
        for record, (row, score, dist) in zip(bank.take(hits.rows.flatten()).to_pylist(), numbers)
    ]
    k = hits.rows.shape[1]
    queries = [records[i * k : (i + 1) * k] for i in range(len(hits.rows))]
    if as_json:
        return print_json(queries)
    table = Table("query", "id", "score", "distance", "depth", "text or image")
    for i, nearest in enumerate(queries):
        for record in nearest:
            values = (f"{record[name]:.4f}" for name in ("score", "dist", "depth"))
            content = Text(record["text"] or record["image"] or "")
            table.add_row(str(i), Text(record["id"]), *values, content, end_section=record is nearest[-1])
    OUT.print(table)
