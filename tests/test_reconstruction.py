"""The reconstruction of a graph by distances against its definition, written out over nodes."""

import numpy as np
import pytest
import torch
from harness import reconstruction as metrics

from tests.icl.lorentz_points import C, distances, points


def average_precision(relevant: np.ndarray, d: np.ndarray) -> float:
    """The area under the precision-recall curve, over all thresholds on the distance."""
    area = recall = 0.0
    for threshold in np.unique(d):
        inside = d <= threshold
        hits = (relevant & inside).sum()
        area += (hits / relevant.sum() - recall) * hits / inside.sum()
        recall = hits / relevant.sum()
    return float(area)


def test_a_collapsed_map_gets_no_credit() -> None:
    same = torch.ones(101, 3)
    edges = torch.tensor([[i, (i + 1) % 101] for i in range(101)])
    rank, precision = metrics.reconstruction(same, edges)
    assert rank == 100
    assert precision == pytest.approx(1 / 100)


@pytest.mark.parametrize("block", [1024, 6])
@pytest.mark.parametrize("ties", [False, True])
def test_reconstruction(block: int, ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nickel and Kiela, 2017: ranks among the nodes that are no neighbours; precision over all other nodes."""
    monkeypatch.setattr(metrics, "_ROWS", block)
    x = points(25)
    if ties:
        x[10:20] = x[:10]
    generator = np.random.default_rng(0)
    adjacent = generator.random((25, 25)) < 0.15
    np.fill_diagonal(adjacent, False)
    adjacent[3] = False  # a node without neighbours, such as a root
    edges = torch.tensor(np.argwhere(adjacent))
    d = distances(x, x)
    if ties:  # copies are as near to all, to the last digit
        d[:, 10:20] = d[:, :10]
    ranks, precisions = [], []
    for u in range(25):
        others = np.arange(25) != u
        for v in np.flatnonzero(adjacent[u]):
            strangers = others & ~adjacent[u]
            ranks.append(1 + (d[u, strangers] <= d[u, v]).sum())
        if adjacent[u].any():
            precisions.append(average_precision(adjacent[u][others], d[u][others]))
    shuffled = edges[torch.randperm(len(edges), generator=torch.Generator().manual_seed(0))]
    rank, precision = metrics.reconstruction(x, torch.cat([shuffled, shuffled[:5]]), c=C)
    assert rank == pytest.approx(np.mean(ranks))
    assert precision == pytest.approx(np.mean(precisions))
