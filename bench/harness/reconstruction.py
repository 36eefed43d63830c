"""How well distances between points recover the edges of a graph."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperbolic import pairwise

# Rows of the distance matrix in flight at a time.
_ROWS = 1024


@torch.no_grad()
def reconstruction(points: Tensor, edges: Tensor, c: float | Tensor = 1.0) -> tuple[float, float]:
    """Return the mean rank and the mean average precision with which distances recover ``edges`` (E, 2), u to v.

    Each neighbour v of u is ranked among the nodes that are none, 1 at best, and the mean is that over all edges; the
    average precision is that of all nodes sorted by distance to u, and its mean that over all u. Strangers that are as
    near as a neighbour rank before it. Nickel and Kiela, 2017, section 4.1, and their published code.
    """
    ranks, precisions = [], []
    for block in edges[:, 0].unique().split(_ROWS):
        d = pairwise.pairwise_dist(points[block], points, c=c)
        neighbours = torch.zeros(d.shape, dtype=torch.bool, device=d.device)
        inside = edges[torch.isin(edges[:, 0], block)]
        neighbours[torch.searchsorted(block, inside[:, 0].contiguous()), inside[:, 1]] = True
        strangers = ~neighbours
        strangers[torch.arange(len(block)), block] = False
        for row, near, far in zip(d, neighbours, strangers):
            distances = row[near].sort().values
            strangers_before = torch.searchsorted(row[far].sort().values, distances, right=True).double()
            neighbours_before = torch.searchsorted(distances, distances, right=True).double()
            ranks.append(strangers_before + 1)
            precisions.append((neighbours_before / (neighbours_before + strangers_before)).mean())
    return torch.cat(ranks).mean().item(), torch.stack(precisions).mean().item()
