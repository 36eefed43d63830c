"""A bank as a page to look at: on the Poincaré disk, how deep, and what its neighbours look like."""

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
from icl.bank.selection.select_rows import Queries, own_rows
from icl.bank.summary import describe_bank, readable
from icl.data import VECTOR_COLUMNS

_THUMBNAIL = 240  # pixels
_SAMPLE = 400

# autoescape: every value that is put in is escaped, whatever it is.
_PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; color: #30343b; background: #fff; max-width: 62rem; margin: 2rem auto;
         padding: 0 1rem }
  h1, h2 { font-weight: 600; line-height: 1.2 } h2 { margin-top: 2.5rem }
  table { border-collapse: collapse } th { text-align: left; font-weight: 500; color: #69707c; padding-right: 2rem }
  img { max-width: 100% } p { color: #69707c; max-width: 46rem }
  .sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .8rem }
  figure { margin: 0; border: 1px solid #e2e5ea; border-radius: 6px; overflow: hidden; background: #fbfbfd }
  figure img, figure blockquote { display: block; box-sizing: border-box; width: 100%; height: 10rem; margin: 0 }
  figure img { object-fit: cover } figure blockquote { padding: .7rem; overflow: hidden; font-size: .85rem }
  figcaption { padding: .4rem .7rem; font-size: .8rem; overflow-wrap: anywhere }
  .score { display: block; color: #69707c; font-variant-numeric: tabular-nums } .score span { white-space: nowrap }
</style>
</head>
<body>
<h1>{{ name }}</h1>
<table>
{% for key, value in facts.items() %}
<tr><th>{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
<h2>On the Poincaré disk</h2>
<img src="disk.png" alt="points of the bank on the Poincaré disk, queries as stars">
<p>{{ shown }} rows drawn at random, the queries (stars) and their neighbours, joined by geodesics, from {{ dim }} to 2
dimensions by hyperbolic multidimensional scaling: distances to the origin are kept, directions minimise the stress of
all distances. Stress {{ "%.3f"|format(stress) }}; {{ "%.0f"|format(100 * explained) }} % of the distances' variance
survives. Thin rings carry their radius. <a href="disk.html">To zoom and to hover over</a>.</p>
<h2>Depth</h2>
<img src="depth.png" alt="histogram of the distances to the origin">
{% for query in queries %}
<h2>Neighbours of {{ query.name }}</h2>
<div class="sheet">
{% for card in query.cards %}
<figure>
{% if card.picture %}
<img src="{{ card.picture }}" alt="{{ card.text or card.id }}">
{% else %}
<blockquote>{{ card.text or "no image, no text" }}</blockquote>
{% endif %}
<figcaption>{{ card.id }}{% if card.picture and card.text %}: {{ card.text|truncate(80) }}{% endif %}
<span class="score">
score {{ "%.3f"|format(card.score) }}, <span>distance {{ "%.3f"|format(card.dist) }}</span></span></figcaption>
</figure>
{% endfor %}
</div>
{% endfor %}
</body>
</html>
""")


def write_report(
    bank: AnchorBank,
    folder: str | Path,
    queries: Queries | None = None,
    *,
    k: int = 8,
    depth_weight: float = 0.0,
    label: str | None = None,
) -> Path:
    """Writes ``index.html``, its pictures and an interactive disk into ``folder``; returns the page.

    Args:
        queries: points whose neighbours are shown; default: three rows of the bank, a shallow, a middling and a deep
            one. No query is its own neighbour, by id and by content.
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
    hits = _without(own, bank.search(queries.points, most, depth_weight=depth_weight), k)
    names = [f"query {i + 1}" for i in range(len(queries))]
    if queries.ids is not None:
        names = [name if given is None else str(given) for name, given in zip(names, queries.ids)]
    reduced = _draw(bank, folder, queries.points, names, hits, labels)
    figure = plot.depths(depth, labels).get_figure(root=True)
    _save(figure, folder / "depth.png")
    page = _PAGE.render(
        name=bank.folder.resolve().name,
        facts={key: readable(value) for key, value in describe_bank(bank.folder, bank.meta, bank.dataset).items()},
        shown=min(_SAMPLE, len(bank)),
        dim=bank.meta.dim,
        stress=reduced.stress,
        explained=reduced.explained,
        queries=[{"name": name, "cards": _cards(bank, folder, hits, i)} for i, name in enumerate(names)],
    )
    (folder / "index.html").write_text(page, encoding="utf-8")
    return folder / "index.html"


def _without(own: Sequence[Tensor], hits: Hits, k: int) -> Hits:
    """Return the best ``k`` hits of each query, or as many as all have, that are not the query itself."""
    others = [(~torch.isin(rows, mine)).nonzero().flatten() for rows, mine in zip(hits.rows, own)]
    k = min([k, *map(len, others)])
    return Hits(*(torch.stack([row[kept[:k]] for row, kept in zip(values, others)]) for values in hits))


def _draw(
    bank: AnchorBank, folder: Path, queries: Tensor, names: list[str], hits: Hits, labels: list[Any] | None
) -> plot.Reduced:
    """A sample of the bank, the queries and what they found, as a picture and as a page to zoom."""
    sample = torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))[:_SAMPLE]
    rows = torch.cat([sample, hits.rows.flatten()]).unique()
    points = torch.cat([bank.gather(rows), queries.float()])
    # a line lies in the plane
    points = torch.nn.functional.pad(points, (0, max(0, 2 - bank.meta.dim)))
    reduced = plot.reduce(points, c=bank.meta.c, keep_depth=True)
    found = torch.searchsorted(rows, hits.rows)
    ends = [found, len(rows) + torch.arange(len(queries))[:, None].expand_as(found)]
    edges = torch.stack(ends, -1).flatten(0, 1)
    table = bank.take(rows, ["id", "text", "image"])
    ids, texts, images = (table.column(name).to_pylist() for name in ("id", "text", "image"))
    stars = range(len(rows), len(rows) + len(queries))
    style: dict[str, Any] = {"c": bank.meta.c, "edges": edges, "stars": stars}
    if labels is not None:
        style["labels"] = [labels[row] for row in rows.tolist()] + [None] * len(queries)
    # a few of the sample are enough: there is no room for more
    pictures = {i: _picture(images[i]) for i in [*found.flatten().tolist(), *range(min(len(rows), 100))]}
    thumbnails = [pictures.get(i) for i in range(len(rows))] + [None] * len(queries)
    ax = plot.disk(reduced.points, images=thumbnails, texts=[""] * len(rows) + names, **style)
    _save(ax.get_figure(root=True), folder / "disk.png")
    hover = [f"{name}: {text}" if text else name for name, text in zip(ids, texts)]
    plot.interactive(reduced.points, folder / "disk.html", texts=hover + names, **style)
    return reduced


def _cards(bank: AnchorBank, folder: Path, hits: Hits, query: int) -> list[dict[str, Any]]:
    cards: list[dict[str, Any]] = bank.take(hits.rows[query], ["id", "text", "image"]).to_pylist()
    numbers = zip(hits.rows[query].tolist(), hits.scores[query].tolist(), hits.dist[query].tolist())
    for card, (row, score, dist) in zip(cards, numbers):
        picture = _picture(card.pop("image"))
        card.update(score=score, dist=dist, picture=picture and f"row-{row}.png")
        if picture:
            picture.save(folder / card["picture"])
    return cards


def _picture(path: str | None) -> Any:
    """A small copy of the image, None where there is none or it cannot be read: then its text must do."""
    try:
        return None if path is None else ImageOps.contain(load_image(path), (_THUMBNAIL, _THUMBNAIL))
    except Exception:  # decoders raise whatever a broken file makes them raise
        return None


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=144)
    pyplot.close(figure)
