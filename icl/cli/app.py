"""The command line: banks, selection of demonstrations, and lifts; the rest is mounted here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zipfile import BadZipFile

import typer
from rich.table import Table
from rich.text import Text

from icl.cli import adapters as commands
from icl.cli.demo import demo
from icl.cli.testbed import app as testbed_app
from icl.common.choices import Order, Pairing, Strategy
from icl.common.console import MAX_SEED, OUT, AsJson, Failed, Group, finite, print_json, print_result, progress, say

if TYPE_CHECKING:  # what a command works with it imports itself, so that help and wrong usage cost nothing
    from torch import Tensor

    from icl.bank import AnchorBank, Embedder, Hits

app = typer.Typer(cls=Group, no_args_is_help=True, pretty_exceptions_enable=False, help="Demonstrations in context.")
bank_app = typer.Typer(no_args_is_help=True, help="Banks of demonstrations.")
lift_app = typer.Typer(no_args_is_help=True, help="Maps from embeddings to hyperbolic points.")
app.add_typer(bank_app, name="bank")
app.add_typer(lift_app, name="lift")
app.add_typer(testbed_app, name="testbed")
app.add_typer(commands.app)
app.command(epilog="Example: icl demo --quick --out out/demo")(demo)

Bank = Annotated[Path, typer.Argument(metavar="BANK", help="Folder of the bank.")]
Model = Annotated[str | None, typer.Option(help="CLIP-like model, by name or path; default: the one of the bank.")]
Device = Annotated[str | None, typer.Option(help="Where to embed; default: a GPU if there is one.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images or texts embedded at a time.")]
Failures = Annotated[Path | None, typer.Option(help="File for the rows that failed, as JSON lines.")]
K = Annotated[int, typer.Option("-k", min=1, help="How many.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of all that is random.")]
DepthWeight = Annotated[float, typer.Option(callback=finite, help="Weight of the depth in -dist + weight depth.")]
# Of a lift, where none is asked for.
_DIM = 64


@bank_app.command(epilog="Example: icl bank build demos.jsonl --model openai/clip-vit-base-patch32 --out bank")
def build(
    source: Annotated[
        Path, typer.Argument(help="JSONL, Parquet, Arrow or CSV, a folder of these or of images, or a bank.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new bank.")],
    model: Annotated[str | None, typer.Option(help="CLIP-like model for rows without embeddings.")] = None,
    lift: Annotated[Path | None, typer.Option(help="Folder of a lift (icl lift fit) for rows without points.")] = None,
    c: Annotated[
        float, typer.Option(callback=finite, help="Curvature -c of the points, unless a lift brings it.")
    ] = 1.0,
    device: Device = None,
    batch_size: BatchSize = 64,
    failures: Failures = None,
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
    if lift is not None:
        raised: HyperbolicLift | None = HyperbolicLift.load(lift)
    else:
        raised = None if embedder is None else HyperbolicLift(embedder.width, c=c).eval()
    with progress("run the same command again, it goes on there") as advance, Failed.to(failures) as failed:
        made = AnchorBank.build(out, source, embedder=embedder, lift=raised, c=c, on_failure=failed, progress=advance)
    if not has_depth(made):
        say(
            "all rows lie at one depth, where hyperbolic selection is that by cosines: learn a lift, icl lift fit "
            f"{out} --out LIFT, and then icl bank build {out} --lift LIFT --out BANK",
            "yellow",
        )
    print_result(
        {"bank": str(out), "rows": len(made), "failed": failed.count},
        f"{out}: {len(made)} rows of dimension {made.meta.dim}",
        as_json,
    )


@bank_app.command(epilog="Example: icl bank append bank more.jsonl")
def append(
    bank: Bank,
    source: Annotated[Path, typer.Argument(help="Rows, as for build.")],
    model: Model = None,
    device: Device = None,
    batch_size: BatchSize = 64,
    failures: Failures = None,
    as_json: AsJson = False,
) -> None:
    """Add rows, all or none."""
    opened = _open(bank)
    embedder = _embedder(opened, model, device, batch_size)
    with progress("nothing was added") as advance, Failed.to(failures) as failed:
        count = opened.append(source, embedder=embedder, on_failure=failed, progress=advance)
    print_result(
        {"bank": str(bank), "added": count, "rows": len(opened), "failed": failed.count},
        f"{bank}: {count} rows added, now {len(opened)}",
        as_json,
    )


@bank_app.command(epilog="Example: icl bank info bank")
def info(bank: Bank, as_json: AsJson = False) -> None:
    """Show what is in a bank."""
    from icl.bank import BankMetadata

    BankMetadata.read(bank)  # says that there is none before anything else is imported
    from icl.bank import describe_bank, format_fact, open_bank

    known = describe_bank(bank, *open_bank(bank))
    if as_json:
        return print_json(known)
    table = Table(show_header=False, box=None)
    for key, value in known.items():
        table.add_row(key, Text(format_fact(value)))
    OUT.print(table)


@bank_app.command(epilog="Example: icl bank search bank --id demo-3 -k 5")
def search(
    bank: Bank,
    text: Annotated[str | None, typer.Option(help="Search by a text.")] = None,
    image: Annotated[Path | None, typer.Option(help="Search by an image.")] = None,
    row_id: Annotated[str | None, typer.Option("--id", help="Search by a row of the bank, itself left out.")] = None,
    points: Annotated[Path | None, typer.Option(help="Search by points, .npy of shape (N, dimension).")] = None,
    k: K = 10,
    depth_weight: DepthWeight = 0.0,
    where: Annotated[str | None, typer.Option(help="SQL condition on the columns, such as \"task = 'vqa'\".")] = None,
    ann: Annotated[bool, typer.Option("--ann", help="Use the approximate index (icl bank index).")] = False,
    model: Model = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Find the nearest rows."""
    if sum(given is not None for given in (text, image, row_id, points)) != 1:
        raise typer.BadParameter("give one of --text, --image, --id and --points")
    if ann and where is not None:
        raise typer.BadParameter("--ann searches all rows: leave --where or --ann out")
    opened = _open(bank)
    from icl.bank import Hits, Queries

    own = None
    if points is not None:
        query = _points(points)
    elif row_id is not None:
        own = _rows(opened, [row_id])
        query = opened.gather(own)
    else:
        rows = {"text": [text]} if image is None else {"image": [str(image)]}
        given = Queries.read(opened, rows, _embedder(opened, model, device, 1)).points
        assert given is not None  # what is read is lifted
        query = given
    wanted = k if own is None else k + 1
    if ann:
        from icl.bank import search_index

        hits = search_index(opened, query, wanted, depth_weight=depth_weight)
    else:
        hits = opened.search(query, wanted, depth_weight=depth_weight, where=where)
    if own is not None:
        others = (hits.rows[0] != own).nonzero().flatten()[:k]
        hits = Hits(*(column[:, others] for column in hits))
    _print_hits(opened, hits, as_json)


@bank_app.command(epilog="Example: icl bank index bank")
def index(bank: Bank, as_json: AsJson = False) -> None:
    """Build the approximate index of a bank's latest version."""
    opened = _open(bank)
    from icl.bank import build_index

    with progress("no index was made") as advance:
        record = build_index(opened, progress=advance)
    print_result(
        asdict(record),
        f"{bank}: index of version {record.version}, recall@{record.k} {record.recall:.3f} as measured",
        as_json,
    )


@bank_app.command(epilog="Example: icl bank report bank --out page --id demo-3")
def report(
    bank: Bank,
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
    opened = _open(bank)
    from icl.bank import Queries, write_report

    queries = Queries.of_rows(opened, _rows(opened, ids)) if ids else None
    page = write_report(opened, out, queries, k=k, depth_weight=depth_weight, label=label)
    print_result({"page": str(page)}, str(page), as_json)


@app.command(epilog="Example: icl select bank --query queries.jsonl --strategy hyperbolic -k 4")
def select(
    bank: Bank,
    query: Annotated[Path | None, typer.Option(help="Rows, as for build, to choose demonstrations for.")] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Row of the bank as a query; can be repeated.")] = None,
    strategy: Annotated[Strategy, typer.Option(help="How rows are ranked.")] = "hyperbolic",
    k: K = 4,
    depth_weight: DepthWeight = 0.0,
    diversity: Annotated[
        float, typer.Option(callback=finite, help="From 0, the best, towards 1, unlike each other (MMR).")
    ] = 0.0,
    order: Annotated[Order, typer.Option(help="How they stand in the prompt.")] = "nearest_last",
    seed: Seed = 0,
    model: Model = None,
    device: Device = None,
    batch_size: BatchSize = 64,
    failures: Failures = None,
) -> None:
    """Choose demonstrations: one JSON line a query, its id and theirs."""
    if (query is None) == (not ids):
        raise typer.BadParameter("give --query or --id")
    opened = _open(bank)
    from icl.bank import Queries
    from icl.bank import select as choose

    if query is None:
        queries = Queries.of_rows(opened, _rows(opened, ids or []))
    else:
        embedder = _embedder(opened, model, device, batch_size)
        with Failed.to(failures) as failed:
            queries = Queries.read(opened, query, embedder, failed)
    rows = choose(opened, queries, k, strategy, depth_weight=depth_weight, diversity=diversity, order=order, seed=seed)
    names = opened.take(rows.flatten(), ["id"]).column("id").to_pylist()
    for i, name in enumerate(queries.ids or []):
        print_json({"id": name, "demonstrations": names[i * k : (i + 1) * k]}, indent=None)


@lift_app.command(epilog="Example: icl lift fit embeddings.parquet --out lift --pairs label --dim 8")
def fit(
    source: Annotated[Path, typer.Argument(help="A bank, or a file of rows with embeddings.")],
    out: Annotated[Path, typer.Option(help="Folder of the lift.")],
    paired: Annotated[
        Pairing,
        typer.Option("--pairs", help="What belongs together: image and text, rows of one label, row and parent."),
    ] = "text",
    label: Annotated[str, typer.Option(help="Column of the labels, for --pairs label.")] = "label",
    dim: Annotated[
        int | None, typer.Option(min=1, help="Of the points; default: 64, or that of the embeddings if it is less.")
    ] = None,
    c: Annotated[float, typer.Option(callback=finite, help="Where the curvature starts.")] = 1.0,
    epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 50,
    entailment: Annotated[float, typer.Option(callback=finite, help="Weight of the entailment loss.")] = 0.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Learn a lift from pairs."""
    import torch

    from icl.bank import HyperbolicLift, fit_lift, load_pairs

    embeddings, together, groups = load_pairs(source, paired, seed, label)
    torch.manual_seed(seed)  # where a head starts
    made = HyperbolicLift(embeddings.shape[1], dim or min(_DIM, embeddings.shape[1]), c=c)
    moved = fit_lift(made, embeddings, together, groups=groups, entailment=entailment, epochs=epochs, seed=seed)
    made.save(out)
    if as_json:
        return print_json({"lift": str(out), **asdict(moved)})
    table = Table("on held-out pairs", "before", "after")
    for name, before in asdict(moved.before).items():
        after = getattr(moved.after, name)
        for key in before if isinstance(before, dict) else [None]:
            values = (before, after) if key is None else (before[key], after[key])
            if None not in values:
                title = name.replace("_", " ") + ("" if key is None else f"@{key}")
                table.add_row(title, *(f"{value:.4g}" for value in values))
    OUT.print(table)
    print(f"{out}: lift to dimension {made.dim}, c = {moved.c:.4g}, epoch {moved.best_epoch} of {len(moved.dev_loss)}")


def _open(folder: Path) -> AnchorBank:
    from icl.bank import BankMetadata

    BankMetadata.read(folder)  # says that there is none before torch is imported
    from icl.bank import AnchorBank

    return AnchorBank.open(folder)


def _embedder(bank: AnchorBank, model: str | None, device: str | None, batch_size: int) -> Embedder | None:
    from icl.bank import Embedder

    name = model or bank.meta.embedder
    return None if name is None else Embedder(name, device, batch_size=batch_size)


def _rows(bank: AnchorBank, ids: list[str]) -> Tensor:
    import torch

    from icl.bank import BankError

    found = [bank.rows_of("id", name) for name in ids]
    missing = [name for name, rows in zip(ids, found) if not len(rows)]
    if missing:
        raise BankError(f"{bank.folder} has no row with id {', '.join(missing)}")
    return torch.cat(found)


def _points(file: Path) -> Tensor:
    """The points of a .npy file. ``ValueError`` for what is no array of numbers."""
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
    numbers = zip(hits.rows.flatten().tolist(), hits.scores.flatten().tolist(), hits.dist.flatten().tolist())
    found = [
        {**row, "row": number, "score": score, "dist": dist}
        for row, (number, score, dist) in zip(bank.take(hits.rows.flatten()).to_pylist(), numbers)
    ]
    k = hits.rows.shape[1]
    queries = [found[i * k : (i + 1) * k] for i in range(len(hits.rows))]
    if as_json:
        return print_json(queries)
    table = Table("query", "id", "score", "distance", "depth", "text or image")
    for i, rows in enumerate(queries):
        for row in rows:
            what = row["text"] or row["image"] or ""
            values = (f"{row[name]:.4f}" for name in ("score", "dist", "depth"))
            table.add_row(str(i), Text(row["id"]), *values, Text(what), end_section=row is rows[-1])
    OUT.print(table)
