"""The entries that kernels over tiles cannot answer for and leave as NaN, from the formulas for two points."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hyperbolic import validation
from hyperbolic.ops.dispatch import Op, declare
from hyperbolic.reference.wide import DoubleDouble, Wide, concatenate, head, where

# Coordinates in flight at a time.
_NUMBERS = 1 << 22


class Repair:
    """``(d, x, y, c, tiles, tile_rows, tile_columns)``: every NaN of the matrix ``d`` becomes a distance.

    Entry ``[i, j]`` is that of ``x[i]`` and ``y[j]``, rounded once to the type of ``d``, float32 or float64. ``tiles``
    (int32) has an entry for each tile of ``d``: how many NaN it has. Those without are not looked at.

    ``backward`` takes the weights ``w`` of a backward, in which NaN stands for pairs whose weight is unknown, and the
    cotangents ``g`` of the distances. The exact gradients of these pairs are added to ``gx`` (N, D, words), ``gy`` (M,
    D, words) and ``gc`` (a number), contiguous and of float64: in the same order every time, so that the results are
    the same bits. A coordinate is a double-double, hi and lo, if ``x`` or ``y`` is of float64, else one word. At radius
    r the metric stretches the part along the radius, and what rounding does to it, by cosh r. At 36, where the gradient
    in float64 is to hold, rounding to one word may cost a quarter of it; at 20, for float32, 3e-8, where 2e-6 is
    allowed. A gradient by ``c`` has no direction that is stretched, so that one word will do.
    """

    def __init__(self, model: str, dist: Op):
        self.dist, self.name = dist, f"{model}_repair"
        tiles = "Tensor tiles, int tile_rows, int tile_columns"
        self.operator = declare(
            self.name,
            f"(Tensor(a!) d, Tensor x, Tensor y, Tensor c, {tiles}) -> ()",
            self.check,
            self.evaluate,
            self.fake,
        )
        self.backward = declare(
            self.name + "_backward",
            "(Tensor w, Tensor g, Tensor x, Tensor y, Tensor c, Tensor(a!) gx, Tensor(b!) gy, Tensor(c!) gc, "
            f"{tiles}) -> ()",
            self.check_backward,
            self.evaluate_backward,
            self.fake,
        )

    def check(
        self, d: Tensor, x: Tensor, y: Tensor, c: Tensor, tiles: Tensor, tile_rows: int, tile_columns: int
    ) -> None:
        """Raise ``ValueError`` for arguments that do not fit."""
        names, ranks = ("x", "y", "d", "c"), (("N", "D"), ("M", "D"), ("N", "M"), ())
        validation.matrices(self.name, names, ranks, (x, y, d, c))
        if tile_rows < 1 or tile_columns < 1:
            raise ValueError(f"{self.name}: tiles must have rows and columns, got {tile_rows} by {tile_columns}")
        wanted = -(-d.shape[0] // tile_rows), -(-d.shape[1] // tile_columns)
        if tiles.dtype != torch.int32 or tiles.shape != wanted or tiles.device != x.device:
            got = f"{tiles.dtype} of shape {tuple(tiles.shape)} on {tiles.device}"
            raise ValueError(f"{self.name}: tiles must be int32 of shape {wanted} on {x.device}, got {got}")

    def check_backward(
        self,
        w: Tensor,
        g: Tensor,
        x: Tensor,
        y: Tensor,
        c: Tensor,
        gx: Tensor,
        gy: Tensor,
        gc: Tensor,
        *tiling: Any,
    ) -> None:
        """Raise ``ValueError`` for arguments of the backward that do not fit."""
        self.check(w, x, y, c, *tiling)
        self.check(g, x, y, c, *tiling)
        words = 2 if torch.float64 in (x.dtype, y.dtype) else 1
        for name, a, shape in (("gx", gx, (*x.shape, words)), ("gy", gy, (*y.shape, words)), ("gc", gc, c.shape)):
            if a.dtype != torch.float64 or a.shape != shape or not a.is_contiguous() or a.device != x.device:
                got = f"{a.dtype} of shape {tuple(a.shape)}, strides {a.stride()}, on {a.device}"
                wanted = f"contiguous, of float64 and of shape {tuple(shape)} on {x.device}"
                raise ValueError(f"{self.name}_backward: {name} must be {wanted}, got {got}")

    def fake(self, *args: Tensor | int) -> None:
        """Do nothing: the operators write into their arguments."""
        pass

    def evaluate(
        self, d: Tensor, x: Tensor, y: Tensor, c: Tensor, tiles: Tensor, tile_rows: int, tile_columns: int
    ) -> None:
        """Evaluate the reference."""
        x, y = (a.to(torch.promote_types(a.dtype, d.dtype)) for a in (x, y))
        for i, j in _entries(d, x.shape[1], tiles, tile_rows, tile_columns):
            d[i, j] = self.dist.level.evaluate(x[i], y[j], c.reshape(())).to(d.dtype)

    def evaluate_backward(
        self,
        w: Tensor,
        g: Tensor,
        x: Tensor,
        y: Tensor,
        c: Tensor,
        gx: Tensor,
        gy: Tensor,
        gc: Tensor,
        *tiling: Any,
    ) -> None:
        """Evaluate the reference of the backward."""
        pull, c = self.dist.level.derivative.in_pieces, validation.positive_or_nan(c.reshape(()))
        for i, j in _entries(w, x.shape[1], *tiling):
            by_x, by_y, by_c = pull((x[i], y[j], c, g[i, j]))
            _add_rows(gx, i, by_x)
            _add_rows(gy, j, by_y)
            gc.add_(head(by_c).reshape(()))


def _entries(d: Tensor, dim: int, tiles: Tensor, tile_rows: int, tile_columns: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and columns of the NaN in tiles that have some, as many at a time as memory is to hold the points of."""
    n, m = d.shape
    marked = (tiles > 0).repeat_interleave(min(tile_rows, n), 0)[:n].repeat_interleave(min(tile_columns, m), 1)[:, :m]
    i, j = (d.isnan() & marked).nonzero(as_tuple=True)
    size = max(1, _NUMBERS // dim)
    yield from zip(i.split(size), j.split(size))


def _add_rows(total: Tensor, index: Tensor, rows: Wide) -> None:
    """Adds ``rows[k]`` to the wide numbers ``total[index[k]]``, (D, words).

    In one order and with two words, of which ``index_add_`` does neither. Rows of one index are brought together, and
    each adds what has been added up 1, 2, 4, ... places on, until the first has them all.
    """
    index, order = index.sort(stable=True)
    rows, step = rows[order], 1
    while bool((alike := index[step:] == index[:-step]).any()):
        own = rows[:-step]
        rows = concatenate([where(alike[:, None], own + rows[step:], own), rows[-step:]], 0)
        step *= 2
    first = index.diff(prepend=index.new_full((1,), -1)) != 0
    index, rows = index[first], rows[first]
    words = total[index].unbind(-1)
    if isinstance(rows, DoubleDouble):
        rows = DoubleDouble(*words) + rows
        total[index] = torch.stack([rows.hi, rows.lo], -1)
    else:
        total[index] = (words[0] + rows)[..., None]
