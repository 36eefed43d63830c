"""Cells of the hyperboloid: k-means by the Lorentz distance, along which a bank is cut into shards and probed."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperbolic import lorentz, pairwise

# Points of a sample for each cell, as FAISS takes; more move the centroids little.
_SAMPLE = 256


def kmeans(points: Tensor, cells: int, c: float = 1.0, iterations: int = 25, seed: int = 0) -> Tensor:
    """Return the centroids (cells, D) of a sample of ``points`` (N, D).

    Lloyd's algorithm. A centroid minimises the sum of cosh D over its cell in closed form (Law et al., 2019), and
    every point goes to its nearest centroid, which minimises the same sum; so it falls until nothing moves. A cell
    that loses all its points starts again at the point that is farthest from its centroid.

    >>> ends = torch.tensor([[-3.0, 0.0], [-3.0, 0.1], [3.0, 0.0], [3.0, 0.1]])
    >>> assign(ends, kmeans(ends, 2)).unique(return_counts=True)[1]
    tensor([2, 2])
    """
    if not 1 <= cells <= len(points):
        raise ValueError(f"kmeans: cells must be from 1 to the {len(points)} points, got {cells}")
    generator = torch.Generator().manual_seed(seed)
    sample = points[torch.randperm(len(points), generator=generator)[: cells * _SAMPLE]]
    centroids = sample[:cells].clone()  # These are in random order already.
    previous = torch.full((len(sample),), -1)
    for _ in range(iterations):
        dist, cell = (column[:, 0] for column in pairwise.nearest(sample, centroids, 1, c=c))
        counts = torch.bincount(cell, minlength=cells)
        for empty in (counts == 0).nonzero().flatten().tolist():
            # Another cell never gives its last point.
            farthest = torch.where(counts[cell] > 1, dist, -1.0).argmax()
            counts[cell[farthest]] -= 1
            counts[empty] = 1
            cell[farthest], dist[farthest] = empty, 0.0
        if torch.equal(cell, previous):
            break
        previous = cell
        members = sample[cell.argsort(stable=True)].split(counts.tolist())
        centroids = torch.stack([lorentz.centroid(part, c=c) for part in members])
    return centroids


def assign(points: Tensor, centroids: Tensor, c: float = 1.0) -> Tensor:
    """Return the cell of each point (N,): that of the nearest centroid, the first of several.

    >>> assign(torch.tensor([[2.0, 0.0], [0.1, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    tensor([1, 0])
    """
    return pairwise.nearest(points, centroids, 1, c=c).indices[:, 0]


def probes(query: Tensor, cell: Tensor, centroids: Tensor, c: float = 1.0) -> Tensor:
    """Return how many cells are probed, nearest centroid first, until each given ``cell`` (N, any number) is, int64.

    With the cells of a query's true neighbours: the recall of a search that probes p cells and ranks their rows
    exactly is the share of neighbours for which this is at most p.

    >>> probes(torch.tensor([[2.0, 0.0]]), torch.tensor([[0, 1]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    tensor([[2, 1]])
    """
    order = pairwise.nearest(query, centroids, len(centroids), c=c).indices
    return order.argsort(1).gather(1, cell) + 1
