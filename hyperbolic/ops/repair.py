"""The entries that kernels over tiles cannot answer for and leave as NaN, from the formulas for two points."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hyperbolic.ops.dispatch import Op, declare

# Coordinates in flight at a time.
_NUMBERS = 1 << 22


class Repair:
    """``(d, x, y, c, tiles, tile_rows, tile_columns)``: every NaN of the matrix ``d`` becomes a distance.

    Entry ``[i, j]`` is that of ``x[i]`` and ``y[j]``, rounded once to the type of ``d``, float32 or float64. ``tiles``
    (int32) has an entry for each tile of ``d``: how many NaN it has. Those without are not looked at.

    ``backward`` takes the weights ``w`` of a backward, in which NaN stands for pairs whose weight is unknown, and the
    cotangents ``g`` of the distances. The exact gradients of these pairs are added to ``gx``, ``gy`` and ``gc``, which
    are contiguous and of float64. In the same order every time, so the results are the same bits.
    """

    def __init__(self, model: str, dist: Op):
        self.dist = dist
        tiles = "Tensor tiles, int tile_rows, int tile_columns"
        self.operator = declare(
            f"{model}_repair", f"(Tensor(a!) d, Tensor x, Tensor y, Tensor c, {tiles}) -> ()", self.evaluate, self.fake
        )
        self.backward = declare(
            f"{model}_repair_backward",
            "(Tensor w, Tensor g, Tensor x, Tensor y, Tensor c, Tensor(a!) gx, Tensor(b!) gy, Tensor(c!) gc, "
            f"{tiles}) -> ()",
            self.evaluate_backward,
            self.fake,
        )

    def fake(self, *args: Tensor | int) -> None:
        pass

    def evaluate(
        self, d: Tensor, x: Tensor, y: Tensor, c: Tensor, tiles: Tensor, tile_rows: int, tile_columns: int
    ) -> None:
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
        tiles: Tensor,
        tile_rows: int,
        tile_columns: int,
    ) -> None:
        pull = self.dist.level.derivative.evaluate
        for i, j in _entries(w, x.shape[1], tiles, tile_rows, tile_columns):
            by_x, by_y, by_c = pull(*(a.to(torch.float64) for a in (x[i], y[j], c.reshape(()), g[i, j])))
            gx.index_add_(0, i, by_x)
            gy.index_add_(0, j, by_y)
            gc.add_(by_c)


def _entries(d: Tensor, dim: int, tiles: Tensor, tile_rows: int, tile_columns: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and columns of the NaN in tiles that have some, as many at a time as memory is to hold the points of."""
    n, m = d.shape
    marked = (tiles > 0).repeat_interleave(tile_rows, 0)[:n].repeat_interleave(tile_columns, 1)[:, :m]
    i, j = (d.isnan() & marked).nonzero(as_tuple=True)
    size = max(1, _NUMBERS // dim)
    yield from zip(i.split(size), j.split(size))
