"""The Poincaré disk, drawn: points, geodesics between them, and points of more dimensions brought down to two.

Needs matplotlib, and plotly for :func:`interactive`; ``hyperbolic`` itself imports neither this module nor those.

>>> points, stress, explained = reduce(lorentz.expmap0(torch.eye(5)), dim=2)
>>> ax = disk(points, labels=["a", "a", "b", "b", "b"], edges=torch.tensor([[0, 1], [2, 3]]))
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hyperbolic import lorentz, models, pairwise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

# Paul Tol's "muted" scheme, told apart by colour-blind readers too; what has no colour of its own is grey.
_COLOURS = ("#332288", "#cc6677", "#117733", "#88ccee", "#ddaa33", "#882255", "#44aa99", "#aa4499", "#999933")
_GREY, _PAPER, _INK, _RING, _ARC, _STAR = "#b8bcc2", "#fbfbfd", "#30343b", "#e2e5ea", "#8d96a3", "#d62728"
_RINGS = (1.0, 2.0, 3.0, 4.0)
# Points on a drawn geodesic: between opposite points at radius 15 the polygon is within 1e-3 of the arc.
_STEPS = 129
# In points, of 1/72 inch.
_THUMBNAIL, _FONT = 36, 8
_ITERATIONS = 100
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


class Reduced(NamedTuple):
    """What :func:`reduce` returns."""

    points: Tensor
    """(N, dim), on the hyperboloid of the same curvature."""
    stress: float
    """Kruskal's stress-1, ``sqrt(sum (d - d')^2 / sum d^2)`` over all pairs: 0 if every distance is kept."""
    explained: float
    """The share of the distances' variance that survives, the squared correlation of d and d' (Tenenbaum et al., 2000);
    NaN if all distances are equal."""


def reduce(points: Tensor, dim: int = 2, c: float = 1.0, *, keep_depth: bool = False) -> Reduced:
    """Lorentz points (N, D) in ``dim`` dimensions, their distances kept as well as stress allows.

    Hyperbolic multidimensional scaling: the start is PCA in the tangent space at the Lorentz centroid, which becomes
    the origin; from there L-BFGS minimises the stress of the geodesic distances. A set inside a hyperbolic subspace of
    ``dim`` dimensions comes back isometric. With ``keep_depth`` the origin stays where it is, every point keeps its
    distance to it, and only directions move. Deterministic. Memory is O(N^2): a few thousand points.

    >>> x = lorentz.expmap0(torch.tensor([[1.0, 0.0, 1.0], [-2.0, 0.0, -2.0], [0.0, 1.0, 0.0]]))
    >>> reduce(x).stress < 1e-6
    True
    """
    if points.dim() != 2 or not 1 <= dim <= points.shape[1]:
        raise ValueError(f"reduce: points must have shape (N, {dim} or more), got {tuple(points.shape)}")
    points = points.detach()
    target, depth = pairwise.pairwise_dist(points, points, c=c), lorentz.dist0(points, c=c)
    centred = points if keep_depth else lorentz.boost(points, -lorentz.centroid(points, c=c), c=c)
    tangent = lorentz.logmap0(centred, c=c)
    spread = (tangent - tangent.mean(0)).double()
    axes = torch.linalg.eigh(spread.mT @ spread).eigenvectors[:, -dim:].flip(1)
    start = tangent @ axes.to(tangent)
    # a direction for points that have none in this plane
    start[:, 0] = torch.where((start == 0).all(1), depth, start[:, 0])

    def place(v: Tensor) -> Tensor:
        return lorentz.expmap0(depth[:, None] * normalize(v, dim=1) if keep_depth else v, c=c)

    def errors(v: Tensor) -> Tensor:
        x = place(v)
        return pairwise.pairwise_dist(x, x, c=c) - target

    with torch.enable_grad():
        v = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([v], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")
        scale = target.square().sum() / len(points)

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = errors(v).square().sum() / scale
            value.backward()
            return value

        if scale > 0:
            optimizer.step(loss)
    with torch.no_grad():
        pairs = torch.ones_like(target, dtype=torch.bool).triu(1)
        d, error = target[pairs].double(), errors(v)[pairs].double()
        stress = (error.square().sum() / d.square().sum()).sqrt().item() if scale > 0 else 0.0
        explained = torch.corrcoef(torch.stack([d, d + error]))[0, 1].square().item() if len(d) > 1 else math.nan
        return Reduced(place(v), stress, explained)


def disk(
    points: Tensor,
    c: float = 1.0,
    *,
    model: str = "lorentz",
    labels: Sequence[Any] | Tensor | None = None,
    texts: Sequence[str] | None = None,
    images: Sequence[str | Path | Image | None] | None = None,
    edges: Tensor | None = None,
    stars: Sequence[int] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draws points (N, 2) of either model on the Poincaré disk, scaled to the unit disk; returns the axes.

    Args:
        labels: (N,) colour the points: the most frequent values get a colour each and a legend, a floating point
            tensor a colour bar.
        texts: written beside the points, where there is room; the earlier ones first.
        images: thumbnails on the points, paths or Pillow's, or None; where texts leave room.
        edges: (E, 2) int64, rows of ``points`` to join by geodesics, which are arcs that meet the rim at right angles.
        stars: rows of ``points`` to draw as red stars above the others; they have no part in the labels.

    Thin rings are at radius 1, 2, 3 and 4, the radius being sqrt(c) times the distance to the origin.

    >>> ax = disk(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), texts=["origin", "far"])
    >>> ax.collections[0].get_offsets().data.round(4)
    array([[0.    , 0.    ],
           [0.4919, 0.6558]])
    """
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Circle

    x = _hyperboloid("disk", points, c, model, labels=labels, texts=texts, images=images)
    xy = models.lorentz_to_poincare(x).numpy()
    width = 1.03 if texts is None else 1.25
    ax = ax or _axes(6.2 * width + (0 if labels is None else 1.8), 6.2)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set(xlim=(-width, width), ylim=(-1.03, 1.03))
    ax.add_patch(Circle((0, 0), 1, facecolor=_PAPER, edgecolor=_INK, linewidth=1.2, zorder=0))
    for radius in _RINGS:
        ax.add_patch(Circle((0, 0), math.tanh(radius / 2), fill=False, edgecolor=_RING, linewidth=0.8, zorder=1))
    if edges is not None:
        ax.add_collection(LineCollection(list(_arcs(x, edges).numpy()), colors=_ARC, linewidths=0.8, zorder=2))
    style: dict[str, Any] = {
        "s": min(45.0, max(7.0, 6000 / max(1, len(x)))),
        "edgecolors": "white",
        "linewidths": 0.4,
        "zorder": 3,
    }
    stars, dots = _split("disk", stars, len(x))
    if isinstance(labels, Tensor) and labels.is_floating_point():
        shown = ax.scatter(xy[dots, 0], xy[dots, 1], c=labels[dots].detach().cpu().numpy(), cmap="viridis", **style)
        ax.figure.colorbar(shown, ax=ax, shrink=0.6, pad=0.02)
    else:
        groups = _groups(labels, dots)
        for _, colour, rows in groups:
            ax.scatter(xy[rows, 0], xy[rows, 1], color=colour, **style)
        if labels is not None:
            _legend(ax, groups, loc="center left", bbox_to_anchor=(1.0, 0.5))
    if stars:
        ax.scatter(xy[stars, 0], xy[stars, 1], marker="*", s=180, color=_STAR, edgecolors="white", zorder=6)
    taken: list[np.ndarray] = []
    if texts is not None:
        _texts(ax, xy, texts, taken)
    if images is not None:
        _thumbnails(ax, xy, images, taken)
    return ax


def depths(depth: Tensor, labels: Sequence[Any] | None = None, ax: Axes | None = None) -> Axes:
    """A histogram of distances to the origin (N,), stacked by label; returns the axes.

    >>> ax = depths(lorentz.dist0(torch.randn(100, 3)), labels=["a", "b"] * 50)
    """
    from matplotlib.ticker import MaxNLocator

    ax = ax or _axes(8, 3.5)
    values, groups = depth.detach().cpu().numpy(), _groups(labels, range(len(depth)))
    colours = [colour for _, colour, _ in groups]
    ax.hist([values[rows] for _, _, rows in groups], bins=40, stacked=True, color=colours, edgecolor="white", lw=0.3)
    ax.set(xlabel="distance to the origin", ylabel="points")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    if labels is not None:
        _legend(ax, groups, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


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

    x = _hyperboloid("figure", points, c, model, labels=labels, texts=texts)
    xy, depth = models.lorentz_to_poincare(x).numpy(), (lorentz.dist0(x) / math.sqrt(c)).tolist()
    names = [str(i) for i in range(len(x))] if texts is None else texts
    hover = [f"{_escaped(name)}<br>depth {d:.3f}" for name, d in zip(names, depth)]
    shown = go.Figure()
    for radius in (1.0, *(math.tanh(r / 2) for r in _RINGS)):
        shown.add_shape(
            type="circle", x0=-radius, y0=-radius, x1=radius, y1=radius, layer="below",
            line={"color": _INK if radius == 1 else _RING, "width": 1.5 if radius == 1 else 1},
            fillcolor=_PAPER if radius == 1 else None,
        )  # fmt: skip
    if edges is not None:
        arcs = torch.nn.functional.pad(_arcs(x, edges), (0, 0, 0, 1), value=torch.nan).flatten(0, 1).numpy()
        line = {"color": _ARC, "width": 1}
        shown.add_scatter(x=arcs[:, 0], y=arcs[:, 1], mode="lines", line=line, hoverinfo="skip", showlegend=False)
    stars, dots = _split("figure", stars, len(x))
    dot: dict[str, Any] = {"size": 7, "line": {"color": "white", "width": 0.5}}
    for name, colour, rows in _groups(labels, dots):
        shown.add_scatter(
            x=xy[rows, 0], y=xy[rows, 1], mode="markers", name=_escaped(name), hovertext=[hover[i] for i in rows],
            hoverinfo="text", customdata=rows, marker={**dot, "color": colour},
        )  # fmt: skip
    if stars:
        shown.add_scatter(
            x=xy[stars, 0], y=xy[stars, 1], mode="markers", hovertext=[hover[i] for i in stars], hoverinfo="text",
            marker={**dot, "color": _STAR, "size": 15, "symbol": "star"}, customdata=stars, showlegend=False,
        )  # fmt: skip
    hidden = {"visible": False, "range": [-1.03, 1.03]}
    shown.update_layout(
        template="plotly_white", xaxis=hidden, yaxis={**hidden, "scaleanchor": "x"}, showlegend=labels is not None,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        # below, where a telephone has room for it
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": 0, "yanchor": "top"},
    )  # fmt: skip
    return shown


Group = tuple[str, str, list[int]]


def _hyperboloid(
    function: str, points: Tensor, c: float, model: str, **columns: Sequence[Any] | Tensor | None
) -> Tensor:
    """The points as float64 points of the hyperboloid of curvature -1, where all maps to the unit disk begin."""
    if points.dim() != 2 or points.shape[1] != 2:
        raise ValueError(
            f"{function}: points must have shape (N, 2), got {tuple(points.shape)}; reduce brings down more dimensions"
        )
    if model not in ("lorentz", "poincare"):
        raise ValueError(f"{function}: model must be 'lorentz' or 'poincare', got {model!r}")
    for name, column in columns.items():
        if column is not None and len(column) != len(points):
            raise ValueError(f"{function}: {name} must have one entry a point, got {len(column)} for {len(points)}")
    x = points.detach().double().cpu()
    return math.sqrt(c) * (x if model == "lorentz" else models.poincare_to_lorentz(x, c))


def _axes(width: float, height: float) -> Axes:
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def _arcs(x: Tensor, edges: Tensor) -> Tensor:
    """Points (E, steps, 2) of the disk on the geodesics between rows of ``x``, on the hyperboloid of curvature -1."""
    ends = x[edges.cpu()]
    t = torch.linspace(0, 1, _STEPS, dtype=x.dtype)
    return models.lorentz_to_poincare(lorentz.geodesic(ends[:, :1], ends[:, 1:], t))


def _escaped(text: Any) -> str:
    """Plotly reads tags in texts, so data is escaped even there; quotes are not, it would show what stands for them."""
    return html.escape(str(text), quote=False)


def _split(function: str, stars: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """The rows that are stars, and the others."""
    if not set(stars) <= set(range(count)):
        raise ValueError(f"{function}: stars must be rows of the {count} points, got {list(stars)}")
    return list(stars), sorted(set(range(count)) - set(stars))


def _groups(labels: Sequence[Any] | Tensor | None, rows: Sequence[int]) -> list[Group]:
    """Name, colour and rows of each label that gets a colour, the most frequent first, after the rest in grey."""
    if labels is None:
        return [("", _COLOURS[0], list(rows))]
    values = labels.tolist() if isinstance(labels, Tensor) else labels
    names = {i: str(values[i]) for i in rows}
    frequent = [name for name, _ in Counter(names.values()).most_common(len(_COLOURS))]
    members: dict[str, list[int]] = {name: [] for name in frequent}
    rest = [i for i, name in names.items() if name not in members]
    for i, name in names.items():
        if name in members:
            members[name].append(i)
    coloured = [(name, colour, members[name]) for name, colour in zip(frequent, _COLOURS)]
    others = {names[i] for i in rest}
    return ([(others.pop() if len(others) == 1 else "other", _GREY, rest)] if rest else []) + coloured


def _legend(ax: Axes, groups: list[Group], **where: Any) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], marker="o", linestyle="", color=colour) for _, colour, _ in groups]
    legend = ax.legend(marks, [str(i) for i in range(len(groups))], frameon=False, fontsize=9, **where)
    for text, (name, _, rows) in zip(legend.get_texts(), groups):
        # set here, because matplotlib takes a leading underscore and dollars for its own
        text.set_parse_math(False)
        text.set_text(f"{_shortened(name)} ({len(rows)})")


def _texts(ax: Axes, xy: np.ndarray, texts: Sequence[str], taken: list[np.ndarray]) -> None:
    from matplotlib.patheffects import withStroke

    rows = [i for i, text in enumerate(texts) if text]
    short, xy = [_shortened(str(texts[i])) for i in rows], xy[rows]
    size = np.array([[0.62 * _FONT * len(text), 1.4 * _FONT] for text in short]).reshape(-1, 2)
    side = np.where(xy[:, :1] < 0, -1.0, 1.0)
    shift = side * (size[:, :1] / 2 + 5)
    for i in _apart(ax, xy, size, np.hstack([shift, np.zeros_like(shift)]), taken):
        ax.annotate(
            short[i], tuple(xy[i]), xytext=(5 * side[i, 0], 0), textcoords="offset points", va="center", fontsize=_FONT,
            ha="left" if side[i, 0] > 0 else "right", color=_INK, parse_math=False, zorder=5, in_layout=False,
            path_effects=[withStroke(linewidth=2.0, foreground="white")],
        )  # fmt: skip


def _thumbnails(ax: Axes, xy: np.ndarray, images: Sequence[str | Path | Image | None], taken: list[np.ndarray]) -> None:
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage
    from PIL import Image, ImageOps

    rows = [i for i, image in enumerate(images) if image is not None]
    size = np.full((len(rows), 2), _THUMBNAIL + 4.0)
    for i in (rows[j] for j in _apart(ax, xy[rows], size, np.zeros_like(size), taken)):
        given = images[i]
        if isinstance(given, Image.Image):
            picture = given.convert("RGB")
        else:
            with Image.open(str(given)) as file:
                picture = file.convert("RGB")
        # twice as many pixels as points, for sharp prints
        shown = OffsetImage(np.asarray(ImageOps.contain(picture, (2 * _THUMBNAIL, 2 * _THUMBNAIL))), zoom=0.5)
        box = {"edgecolor": _INK, "linewidth": 0.5}
        ax.add_artist(AnnotationBbox(shown, tuple(xy[i]), pad=0.08, bboxprops=box, zorder=4))


def _apart(ax: Axes, xy: np.ndarray, size: np.ndarray, shift: np.ndarray, taken: list[np.ndarray]) -> list[int]:
    """Rows, the earlier first, whose boxes of this size in points (1/72 inch) cover none of those ``taken``.

    A box is a centre and a size; those of the rows are added to ``taken``.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # settles where the axes are
    boxes = np.hstack([ax.transData.transform(xy) * 72 / figure.dpi + shift, size])
    kept: list[int] = []
    for i, box in enumerate(boxes):
        others = np.array(taken).reshape(-1, 4)
        gap = np.abs(others[:, :2] - box[:2]) - (others[:, 2:] + box[2:]) / 2
        if not (gap < 0).all(1).any():
            taken.append(box)
            kept.append(i)
    return kept


def _shortened(text: str, most: int = 32) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
