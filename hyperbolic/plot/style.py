"""What all pictures of the disk share: colours, the points as they are drawn, and which of them go together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperbolic import lorentz, models

# Paul Tol's "muted" scheme, told apart by colour-blind readers too; what has no colour of its own is grey.
COLOURS = ("#332288", "#cc6677", "#117733", "#88ccee", "#ddaa33", "#882255", "#44aa99", "#aa4499", "#999933")
GREY, PAPER, INK, RING, ARC, STAR = "#b8bcc2", "#fbfbfd", "#30343b", "#e2e5ea", "#8d96a3", "#d62728"
RINGS = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
# The half width of a view of the whole disk, and how much wider than its points a narrower one is.
_WHOLE, _MARGIN = 1.03, 1.1
# Points on a drawn geodesic: between opposite points at radius 15 the polygon is within 1e-3 of the arc.
_STEPS = 129

Group = tuple[str, str, list[int]]


def hyperboloid(
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


def extent_of(xy: np.ndarray) -> float:
    """Return the half width of a square about the origin that holds the points (N, 2) of the disk, with a margin.

    Geodesics among the points stay within it. The whole disk where there is no point but the origin.
    """
    return min(_WHOLE, _MARGIN * float(np.hypot(*xy.T).max(initial=0.0))) or _WHOLE


def rings_within(extent: float) -> dict[float, float]:
    """Return the rings to draw in a square of this half width: Euclidean radius on the disk by hyperbolic radius."""
    return {ring: math.tanh(ring / 2) for ring in RINGS if math.tanh(ring / 2) < extent}


def arcs_between(x: Tensor, edges: Tensor) -> Tensor:
    """Points (E, steps, 2) of the disk on the geodesics between rows of ``x``, on the hyperboloid of curvature -1."""
    ends = x[edges.cpu()]
    t = torch.linspace(0, 1, _STEPS, dtype=x.dtype)
    return models.lorentz_to_poincare(lorentz.geodesic(ends[:, :1], ends[:, 1:], t))


def split(function: str, stars: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """The rows that are stars, and the others."""
    if not set(stars) <= set(range(count)):
        raise ValueError(f"{function}: stars must be rows of the {count} points, got {list(stars)}")
    return list(stars), sorted(set(range(count)) - set(stars))


def groups_of(labels: Sequence[Any] | Tensor | None, rows: Sequence[int]) -> list[Group]:
    """Name, colour and rows of each label that gets a colour, the most frequent first, after the rest in grey."""
    if labels is None:
        return [("", COLOURS[0], list(rows))]
    values = labels.tolist() if isinstance(labels, Tensor) else labels
    names = {i: str(values[i]) for i in rows}
    frequent = [name for name, _ in Counter(names.values()).most_common(len(COLOURS))]
    members: dict[str, list[int]] = {name: [] for name in frequent}
    rest = [i for i, name in names.items() if name not in members]
    for i, name in names.items():
        if name in members:
            members[name].append(i)
    coloured = [(name, colour, members[name]) for name, colour in zip(frequent, COLOURS)]
    others = {names[i] for i in rest}
    return ([(others.pop() if len(others) == 1 else "other", GREY, rest)] if rest else []) + coloured


def shortened(text: str) -> str:
    """``text``, at most 32 characters of it."""
    return text if len(text) <= 32 else text[:31] + "…"
