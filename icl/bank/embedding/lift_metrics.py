"""The quality of points: the ranks of what belongs together, and how tree-like the whole is."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperbolic import pairwise

# Rows of the distance matrix in flight at a time.
_ROWS = 1024
# Points that the Gromov delta is measured on.
_SAMPLE = 500


@torch.no_grad()
def ranks(x: Tensor, y: Tensor, labels: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Return the rank of ``y[labels_i]`` among the rows of ``y`` (M, D) by distance to ``x_i`` (N, D), int64 (N,).

    Rows that are as near count half, rounded down: a map that sends all points to one place gets no credit.

    >>> ranks(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([0]))
    tensor([2])
    """
    result = [labels.new_empty(0)]
    for rows, targets in zip(x.split(_ROWS), labels.split(_ROWS)):
        d = pairwise.pairwise_dist(rows, y, c=c)
        own = d.gather(1, targets[:, None])
        result.append(1 + (d < own).sum(1) + ((d == own).sum(1) - 1) // 2)
    return torch.cat(result)


@torch.no_grad()
def gromov_delta(points: Tensor, c: float | Tensor = 1.0, seed: int = 0) -> float:
    """Return 2 delta/diameter of a sample of points (N, D): 0 for a tree, 1 at worst.

    By the four-point condition at one base point: the largest entry of (max-min product of the Gromov products) -
    themselves; a base point at random is within a factor 2 of the best. Fournier, Ismail and Vigneron, 2015.

    >>> line = torch.tensor([[0.0], [1.0], [2.0], [5.0]], dtype=torch.float64)
    >>> round(gromov_delta(line), 12)
    0.0
    """
    sample = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:_SAMPLE]].double()
    d = pairwise.pairwise_dist(sample, sample, c=c)
    product = (d[:1] + d[:, :1] - d) / 2
    largest = torch.stack([torch.minimum(row[:, None], product).max(0).values for row in product])
    diameter = d.max().item()
    return 2 * (largest - product).max().item() / diameter if diameter > 0 else 0.0
