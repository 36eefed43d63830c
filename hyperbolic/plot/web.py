"""The disk as a page to look at and to zoom, by plotly."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperbolic import lorentz, models
from hyperbolic.plot.style import (
    ARC,
    INK,
    PAPER,
    RING,
    STAR,
    arcs_between,
    extent_of,
    groups_of,
    hyperboloid,
    rings_within,
    split,
)

# plotly's own page tells telephones nothing of the width.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Poincaré disk</title>
<style>body { margin: 0 }</style>
</head>
<body>
FIGURE
</body>
</html>
"""


def interactive(
    points: Tensor,
    path: str | Path,
    c: float = 1.0,
    *,
    model: str = "lorentz",
    labels: Sequence[Any] | None = None,
    texts: Sequence[str] | None = None,
    edges: Tensor | None = None,
    stars: Sequence[int] = (),
) -> None:
    """Writes what :func:`disk` draws as one HTML file to look at and to zoom: needs no network, shows texts on hover.

    >>> import tempfile
    >>> interactive(torch.randn(5, 2), f"{tempfile.mkdtemp()}/disk.html", texts=["a", "b", "c", "d", "e"])
    """
    shown = figure(points, c, model=model, labels=labels, texts=texts, edges=edges, stars=stars)
    drawn = shown.to_html(full_html=False, include_plotlyjs=True, default_height="100vh")
    Path(path).write_text(_PAGE.replace("FIGURE", drawn), encoding="utf-8")


def figure(
    points: Tensor,
    c: float = 1.0,
    *,
    model: str = "lorentz",
    labels: Sequence[Any] | None = None,
    texts: Sequence[str] | None = None,
    edges: Tensor | None = None,
    stars: Sequence[int] = (),
) -> Any:
    """What :func:`interactive` shows, as a figure of plotly for a page of one's own; ``customdata`` has the rows.

    >>> shown = figure(torch.randn(5, 2), labels=["a", "b", "a", "a", "b"])
    >>> [list(trace.customdata) for trace in shown.data]
    [[0, 2, 3], [1, 4]]
    """
    import plotly.graph_objects as go

    x = hyperboloid("figure", points, c, model, labels=labels, texts=texts)
    xy, depth = models.lorentz_to_poincare(x).numpy(), (lorentz.dist0(x) / math.sqrt(c)).tolist()
    names = [str(i) for i in range(len(x))] if texts is None else texts
    hover = [f"{_escaped(name)}<br>depth {d:.3f}" for name, d in zip(names, depth)]
    shown = go.Figure()
    extent = extent_of(xy)
    rings = rings_within(extent)
    for radius in (1.0, *rings.values()):
        shown.add_shape(
            type="circle", x0=-radius, y0=-radius, x1=radius, y1=radius, layer="below",
            line={"color": INK if radius == 1 else RING, "width": 1.5 if radius == 1 else 1},
            fillcolor=PAPER if radius == 1 else None,
        )  # fmt: skip
    for ring, radius in rings.items():
        shown.add_annotation(x=0, y=radius, text=f"{ring:g}", showarrow=False, font={"color": ARC, "size": 10})
    if edges is not None:
        arcs = torch.nn.functional.pad(arcs_between(x, edges), (0, 0, 0, 1), value=torch.nan).flatten(0, 1).numpy()
        line = {"color": ARC, "width": 1}
        shown.add_scatter(x=arcs[:, 0], y=arcs[:, 1], mode="lines", line=line, hoverinfo="skip", showlegend=False)
    stars, dots = split("figure", stars, len(x))
    dot: dict[str, Any] = {"size": 7, "line": {"color": "white", "width": 0.5}}
    for name, colour, rows in groups_of(labels, dots):
        shown.add_scatter(
            x=xy[rows, 0], y=xy[rows, 1], mode="markers", name=_escaped(name), hovertext=[hover[i] for i in rows],
            hoverinfo="text", customdata=rows, marker={**dot, "color": colour},
        )  # fmt: skip
    if stars:
        shown.add_scatter(
            x=xy[stars, 0], y=xy[stars, 1], mode="markers", hovertext=[hover[i] for i in stars], hoverinfo="text",
            marker={**dot, "color": STAR, "size": 15, "symbol": "star"}, customdata=stars, showlegend=False,
        )  # fmt: skip
    hidden = {"visible": False, "range": [-extent, extent]}
    shown.update_layout(
        template="plotly_white", xaxis=hidden, yaxis={**hidden, "scaleanchor": "x"}, showlegend=labels is not None,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        # below, where a telephone has room for it
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": 0, "yanchor": "top"},
    )  # fmt: skip
    return shown


def _escaped(text: Any) -> str:
    """Plotly reads tags in texts, so data is escaped even there; quotes are not, it would show what stands for them."""
    return html.escape(str(text), quote=False)
