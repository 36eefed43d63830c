"""A bank as a page to look at: on the Poincaré disk, how deep, and what its neighbours look like (report.html)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
from PIL import ImageOps
from torch import Tensor

from hyperbolic import plot
from hyperbolic.plot.pictures import load_image
from icl.bank.anchor_bank import AnchorBank, Hits
from icl.bank.schema import BankError
from icl.bank.selection.queries import Queries, own_rows
from icl.bank.summary import describe_bank
from icl.common.files import write_text
from icl.common.formatting import format_fact
from icl.data import VECTOR_COLUMNS

_THUMBNAIL = 240  # pixels
_SAMPLE = 400
_PICTURES = 100  # On the disk, where there is no room for more.


def write_report(
    bank: AnchorBank,
    folder: str | Path,
    queries: Queries | None = None,
    *,
    k: int = 8,
    depth_weight: float = 0.0,
    label: str | None = None,
) -> Path:
    """Write a page, its pictures and an interactive disk, and return the page's path, ``folder / "index.html"``.

    Args:
        bank: which has rows.
        folder: of the page, made if need be.
        queries: points whose neighbours the page has; default: three rows of the bank, a shallow, a middling and a
            deep one. No query is its own neighbour, by id and by content.
        k: neighbours of each query.
        depth_weight: of the score that ranks them (:meth:`AnchorBank.search`).
        label: the column that colours the points; default: "label", if there is one.
    """
    folder = Path(folder)
    if not len(bank):
        raise BankError(f"{bank.folder} has no rows to report")
    if label is None:
        label = "label" if "label" in bank.dataset.schema.names else None
    elif label not in bank.dataset.schema.names or label in VECTOR_COLUMNS:
        raise BankError(f"{bank.folder} has no column {label} to colour by")
    table = bank.table(["depth", *([label] if label else [])])
    depth = torch.tensor(table.column("depth").to_numpy())
    labels = table.column(label).to_pylist() if label else None
    if queries is None:
        places = torch.tensor([0.1, 0.5, 0.9]) * (len(bank) - 1)
        queries = Queries.of_rows(bank, depth.sort(stable=True).indices[places.round().long().unique()])
    if queries.points is None or not len(queries):
        raise BankError("report: queries need points: lift their embeddings")
    folder.mkdir(parents=True, exist_ok=True)
    own = own_rows(bank, queries)
    most = k + max((len(rows) for rows in own), default=0)
    hits = _without_own(own, bank.search(queries.points, most, depth_weight=depth_weight), k)
    ids = queries.ids or [None] * len(queries)
    names = [f"query {i}" if name is None else str(name) for i, name in enumerate(ids, 1)]
    reduced = _draw_disk(bank, folder, queries.points, names, hits, labels)
    _save(plot.depths(depth, labels), folder / "depth.png")
    # With autoescape, every value that is put in is escaped, whatever it is.
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("icl.bank", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = pages.get_template("report.html").render(
        name=bank.folder.resolve().name,
        facts={key: format_fact(value) for key, value in describe_bank(bank.folder, bank.meta, bank.dataset).items()},
        sample=min(_SAMPLE, len(bank)),
        dim=bank.meta.dim,
        stress=reduced.stress,
        explained=reduced.explained,
        queries=[{"name": name, "cards": _save_cards(bank, folder, hits, i)} for i, name in enumerate(names)],
    )
    write_text(folder / "index.html", page)
    return folder / "index.html"


def _without_own(own: Sequence[Tensor], hits: Hits, k: int) -> Hits:
    """Return the best ``k`` hits of each query, or as many as all have, that are not the query itself."""
    others = [(~torch.isin(rows, mine)).nonzero().flatten() for rows, mine in zip(hits.rows, own)]
    k = min([k, *map(len, others)])
    return Hits(*(torch.stack([row[places[:k]] for row, places in zip(values, others)]) for values in hits))


def _draw_disk(
    bank: AnchorBank, folder: Path, queries: Tensor, names: list[str], hits: Hits, labels: list[Any] | None
) -> plot.Reduced:
    """Draw a sample of the bank, the queries and their neighbours, as a picture and as a page to zoom."""
    sample = torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))[:_SAMPLE]
    rows = torch.cat([sample, hits.rows.flatten()]).unique()
    points = torch.cat([bank.gather(rows), queries.float()])
    points = torch.nn.functional.pad(points, (0, max(0, 2 - bank.meta.dim)))  # A line lies in the plane.
    reduced = plot.reduce(points, c=bank.meta.c, keep_depth=True)
    neighbours = torch.searchsorted(rows, hits.rows)
    stars = range(len(rows), len(points))
    ends = [neighbours, torch.tensor(stars)[:, None].expand_as(neighbours)]
    style: dict[str, Any] = {"c": bank.meta.c, "edges": torch.stack(ends, -1).flatten(0, 1), "stars": stars}
    if labels is not None:
        style["labels"] = [labels[row] for row in rows.tolist()] + [None] * len(stars)
    anchors = bank.take(rows, ["id", "text", "image"]).to_pylist()
    pictured = {*neighbours.flatten().tolist(), *range(_PICTURES)}
    images = [_thumbnail(anchor["image"]) if i in pictured else None for i, anchor in enumerate(anchors)]
    disk = plot.disk(reduced.points, images=images + [None] * len(stars), texts=[""] * len(rows) + names, **style)
    _save(disk, folder / "disk.png")
    hover = [f"{anchor['id']}: {anchor['text']}" if anchor["text"] else anchor["id"] for anchor in anchors]
    plot.interactive(reduced.points, folder / "disk.html", texts=hover + names, **style)
    return reduced


def _save_cards(bank: AnchorBank, folder: Path, hits: Hits, query: int) -> list[dict[str, Any]]:
    """Return what the page says of each neighbour of a query, and save their pictures."""
    rows, scores, dist = (values[query].tolist() for values in hits)
    cards: list[dict[str, Any]] = bank.take(rows, ["id", "text", "image"]).to_pylist()
    for i, card in enumerate(cards):
        thumbnail = _thumbnail(card["image"])
        card.update(score=scores[i], dist=dist[i], picture=thumbnail and f"row-{rows[i]}.png")
        if thumbnail:
            thumbnail.save(folder / card["picture"])
    return cards


def _thumbnail(path: str | None) -> Any:
    """Return a small copy of the image, or None where there is none or it cannot be read: then its text must do."""
    try:
        return None if path is None else ImageOps.contain(load_image(path), (_THUMBNAIL, _THUMBNAIL))
    except Exception:  # Decoders raise whatever a broken file makes them raise.
        return None


def _save(axes: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure = axes.get_figure(root=True)
    figure.savefig(path, dpi=144)
    pyplot.close(figure)
