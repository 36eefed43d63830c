"""The disk, and depths, on axes of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from hyperbolic import models
from hyperbolic.plot.pictures import load_image
from hyperbolic.plot.style import (
    ARC,
    INK,
    PAPER,
    RING,
    STAR,
    Group,
    arcs_between,
    extent_of,
    groups_of,
    hyperboloid,
    rings_within,
    shortened,
    split,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

# In points, of 1/72 inch.
_THUMBNAIL, _FONT = 36, 8


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
    """Draw points (N, 2) of either model on the Poincaré disk, scaled to the unit disk, and return the axes.

    The view is zoomed about the origin to the points, so the rim is only seen where points are near it.

    Args:
        points: (N, 2), of the model.
        c: the curvature is -c.
        model: "lorentz" or "poincare".
        labels: (N,) colour the points: the most frequent values get a colour each and a legend, a floating point
            tensor a colour bar.
        texts: written beside the points, where there is room; the earlier ones first.
        images: thumbnails on the points, paths or Pillow's, or None; where texts leave room.
        edges: (E, 2) int64, rows of ``points`` to join by geodesics, which are arcs that meet the rim at right angles.
        stars: rows of ``points`` to draw as red stars above the others; they have no part in the labels.
        ax: drawn into, in place of a new figure.

    Thin rings carry their radius, which is sqrt(c) times the distance to the origin.

    >>> ax = disk(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), texts=["origin", "far"])
    >>> ax.collections[0].get_offsets().data.round(4)
    array([[0.    , 0.    ],
           [0.4919, 0.6558]])
    """
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Circle

    x = hyperboloid("disk", points, c, model, labels=labels, texts=texts, images=images)
    xy = models.lorentz_to_poincare(x).numpy()
    extent = extent_of(xy)
    width = 1.0 if texts is None else 1.2
    ax = ax or _axes(6.2 * width + (0 if labels is None else 1.8), 6.2)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set(xlim=(-width * extent, width * extent), ylim=(-extent, extent))
    ax.add_patch(Circle((0, 0), 1, facecolor=PAPER, edgecolor=INK, linewidth=1.2, zorder=0))
    for ring, radius in rings_within(extent).items():
        ax.add_patch(Circle((0, 0), radius, fill=False, edgecolor=RING, linewidth=0.8, zorder=1))
        ax.text(0, radius, f"{ring:g}", color=ARC, fontsize=_FONT, ha="center", va="center", zorder=1)
    if edges is not None:
        ax.add_collection(LineCollection(list(arcs_between(x, edges).numpy()), colors=ARC, linewidths=0.8, zorder=2))
    style: dict[str, Any] = {
        "s": min(45.0, max(7.0, 6000 / max(1, len(x)))),
        "edgecolors": "white",
        "linewidths": 0.4,
        "zorder": 3,
    }
    stars, dots = split("disk", stars, len(x))
    if isinstance(labels, Tensor) and labels.is_floating_point():
        shown = ax.scatter(xy[dots, 0], xy[dots, 1], c=labels[dots].detach().cpu().numpy(), cmap="viridis", **style)
        ax.figure.colorbar(shown, ax=ax, shrink=0.6, pad=0.02)
    else:
        groups = groups_of(labels, dots)
        for _, colour, rows in groups:
            ax.scatter(xy[rows, 0], xy[rows, 1], color=colour, **style)
        if labels is not None:
            _legend(ax, groups, loc="center left", bbox_to_anchor=(1.0, 0.5))
    if stars:
        ax.scatter(xy[stars, 0], xy[stars, 1], marker="*", s=180, color=STAR, edgecolors="white", zorder=6)
    taken: list[np.ndarray] = []
    if texts is not None:
        _texts(ax, xy, texts, taken)
    if images is not None:
        _thumbnails(ax, xy, images, taken)
    return ax


def depths(depth: Tensor, labels: Sequence[Any] | None = None) -> Axes:
    """A histogram of distances to the origin (N,), stacked by label; returns the axes.

    >>> from hyperbolic import lorentz
    >>> ax = depths(lorentz.dist0(torch.randn(100, 3)), labels=["a", "b"] * 50)
    """
    from matplotlib.ticker import MaxNLocator

    ax = _axes(8, 3.5)
    values, groups = depth.detach().double().cpu().numpy(), groups_of(labels, range(len(depth)))
    colours = [colour for _, colour, _ in groups]
    # at least 1 % of the depth, so that points at one depth are one bar and no picture of their rounding
    ends = values.min(), max(values.max(), values.min() + 0.01 * values.max())
    stacks = [values[rows] for _, _, rows in groups]
    ax.hist(stacks, bins=40, range=ends, stacked=True, color=colours, edgecolor="white", lw=0.3)
    ax.set(xlabel="distance to the origin", ylabel="points")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    if labels is not None:
        _legend(ax, groups, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _axes(width: float, height: float) -> Axes:
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def _legend(ax: Axes, groups: list[Group], **where: Any) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], marker="o", linestyle="", color=colour) for _, colour, _ in groups]
    legend = ax.legend(marks, [str(i) for i in range(len(groups))], frameon=False, fontsize=9, **where)
    for text, (name, _, rows) in zip(legend.get_texts(), groups):
        # set here, because matplotlib takes a leading underscore and dollars for its own
        text.set_parse_math(False)
        text.set_text(f"{shortened(name)} ({len(rows)})")


def _texts(ax: Axes, xy: np.ndarray, texts: Sequence[str], taken: list[np.ndarray]) -> None:
    from matplotlib.patheffects import withStroke

    rows = [i for i, text in enumerate(texts) if text]
    short, xy = [shortened(str(texts[i])) for i in rows], xy[rows]
    size = np.array([[0.62 * _FONT * len(text), 1.4 * _FONT] for text in short]).reshape(-1, 2)
    side = np.where(xy[:, :1] < 0, -1.0, 1.0)
    shift = side * (size[:, :1] / 2 + 5)
    for i in _apart(ax, xy, size, np.hstack([shift, np.zeros_like(shift)]), taken):
        ax.annotate(
            short[i], tuple(xy[i]), xytext=(5 * side[i, 0], 0), textcoords="offset points", va="center", fontsize=_FONT,
            ha="left" if side[i, 0] > 0 else "right", color=INK, parse_math=False, zorder=5, in_layout=False,
            path_effects=[withStroke(linewidth=2.0, foreground="white")],
        )  # fmt: skip


def _thumbnails(ax: Axes, xy: np.ndarray, images: Sequence[str | Path | Image | None], taken: list[np.ndarray]) -> None:
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage
    from PIL import ImageOps

    given = [(i, image) for i, image in enumerate(images) if image is not None]
    size = np.full((len(given), 2), _THUMBNAIL + 4.0)
    for i, image in (given[j] for j in _apart(ax, xy[[i for i, _ in given]], size, np.zeros_like(size), taken)):
        picture = load_image(image)
        # twice as many pixels as points, for sharp prints
        shown = OffsetImage(np.asarray(ImageOps.contain(picture, (2 * _THUMBNAIL, 2 * _THUMBNAIL))), zoom=0.5)
        box = {"edgecolor": INK, "linewidth": 0.5}
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
