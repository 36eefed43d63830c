"""How well points rank: recall, mean rank, average precision, and how tree-like and deep a set of points is."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperbolic import lorentz, pairwise

# Rows of the distance matrix in flight at a time.
_ROWS = 1024


@torch.no_grad()
def ranks(x: Tensor, y: Tensor, labels: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """For each row of ``x`` (N, D) how many rows of ``y`` (M, D) are nearer than ``y[labels_i]``, plus one, int64 (N,).

    Rows that are as near count half, rounded down: a map that sends all points to one place gets no credit.

    >>> ranks(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([0]))
    tensor([2])
    """
    result = []
    for i in range(0, len(x), _ROWS):
        d = pairwise.pairwise_dist(x[i : i + _ROWS], y, c=c)
        own = d.gather(1, labels[i : i + _ROWS, None])
        result.append(1 + (d < own).sum(1) + ((d == own).sum(1) - 1) // 2)
    return torch.cat(result) if result else labels.new_empty(0)


def recall(ranks: Tensor, k: int) -> float:
    """The share of ``ranks`` that are at most ``k``.

    >>> recall(torch.tensor([1, 3, 12]), 10)
    0.6666666666666666
    """
    return (ranks <= k).double().mean().item()


@torch.no_grad()
def reconstruction(points: Tensor, edges: Tensor, c: float | Tensor = 1.0) -> tuple[float, float]:
    """Mean rank and mean average precision with which distances between ``points`` recover ``edges`` (E, 2), u to v.

    Each neighbour v of u is ranked among the nodes that are none, 1 at best, and the mean is that over all edges; the
    average precision is that of all nodes sorted by distance to u, and its mean that over all u. Strangers that are as
    near as a neighbour rank before it. Nickel and Kiela, 2017, section 4.1, and their published code.

    >>> reconstruction(torch.tensor([[0.0], [0.1], [2.0]]), torch.tensor([[0, 1]]))
    (1.0, 1.0)
    """
    ranks, precisions = [], []
    for block in edges[:, 0].unique().split(_ROWS):
        d = pairwise.pairwise_dist(points[block], points, c=c)
        neighbours = torch.zeros(d.shape, dtype=torch.bool, device=d.device)
        mine = edges[torch.isin(edges[:, 0], block)]
        neighbours[torch.searchsorted(block, mine[:, 0].contiguous()), mine[:, 1]] = True
        strangers = ~neighbours
        strangers[torch.arange(len(block)), block] = False
        for row, near, far in zip(d, neighbours, strangers):
            found = row[near].sort().values
            before = torch.searchsorted(row[far].sort().values, found, right=True).double()
            hits = torch.searchsorted(found, found, right=True).double()
            ranks.append(before + 1)
            precisions.append((hits / (hits + before)).mean())
    return torch.cat(ranks).mean().item(), torch.stack(precisions).mean().item()


@torch.no_grad()
def gromov_delta(points: Tensor, c: float | Tensor = 1.0, sample: int = 500, seed: int = 0) -> float:
    """2 delta/diameter of a sample: 0 for a tree, 1 at worst. The four-point condition at one base point.

    Fournier, Ismail and Vigneron, 2015: the largest entry of (max-min product of the Gromov products) - themselves;
    a base point at random is within a factor 2 of the best.

    >>> line = torch.tensor([[0.0], [1.0], [2.0], [5.0]], dtype=torch.float64)
    >>> round(gromov_delta(line), 12)
    0.0
    """
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:sample]
    d = pairwise.pairwise_dist(points[order].double(), points[order].double(), c=c)
    product = (d[:1] + d[:, :1] - d) / 2
    largest = torch.stack([torch.minimum(row[:, None], product).max(0).values for row in product])
    diameter = d.max().item()
    return 2 * (largest - product).max().item() / diameter if diameter > 0 else 0.0


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's: the correlation of the ranks, ties sharing theirs.

    >>> rank_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10, 20, 30]))
    1.0
    """

    def shared_ranks(v: Tensor) -> Tensor:
        _, index, count = v.unique(return_inverse=True, return_counts=True)
        last = count.cumsum(0).double()
        shared: Tensor = (last - (count.double() - 1) / 2)[index]
        return shared

    both = torch.stack([shared_ranks(a.flatten()), shared_ranks(b.flatten())])
    return torch.corrcoef(both)[0, 1].item()


def depth(points: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """The distance to the origin, (N,): how specific a concept is."""
    return lorentz.dist0(points, c=c)
