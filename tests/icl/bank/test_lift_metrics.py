"""The qualities of a lift against their definitions, written out over pairs and quadruples."""

import itertools

import numpy as np
import pytest
import torch

from icl.bank.embedding import lift_metrics as metrics

C = 0.6


def points(n: int, dim: int = 3, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distances(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    a, b = x.numpy(), y.numpy()
    product = np.sqrt(1 + C * (a**2).sum(1))[:, None] * np.sqrt(1 + C * (b**2).sum(1)) - C * a @ b.T
    return np.arccosh(np.maximum(product, 1)) / C**0.5


def average_precision(relevant: np.ndarray, d: np.ndarray) -> float:
    """The area under the precision-recall curve, over all thresholds on the distance."""
    area = recall = 0.0
    for threshold in np.unique(d):
        inside = d <= threshold
        hits = (relevant & inside).sum()
        area += (hits / relevant.sum() - recall) * hits / inside.sum()
        recall = hits / relevant.sum()
    return float(area)


@pytest.mark.parametrize("block", [1024, 7])
def test_ranks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_ROWS", block)
    x, y, labels = points(30), points(40, seed=1), torch.arange(30)
    d = distances(x, y)
    want = [1 + sum(d[i, j] < d[i, i] for j in range(40)) for i in range(30)]
    assert metrics.ranks(x, y, labels, c=C).tolist() == want
    assert metrics.ranks(x[:0], y, labels[:0]).tolist() == []


def test_a_collapsed_map_gets_no_credit() -> None:
    same = torch.ones(101, 3)
    found = metrics.ranks(same, same, torch.arange(101))
    assert found.tolist() == [51] * 101
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


def four_point_delta(d: np.ndarray) -> float:
    """Gromov's: half the difference of the two largest of the three sums of a quadruple, at most."""
    largest = 0.0
    for i, j, k, l in itertools.combinations(range(len(d)), 4):
        sums = sorted((d[i, j] + d[k, l], d[i, k] + d[j, l], d[i, l] + d[j, k]))
        largest = max(largest, (sums[2] - sums[1]) / 2)
    return largest


@pytest.mark.parametrize("seed", range(4))
def test_gromov_delta_is_within_a_factor_two_of_all_quadruples(seed: int) -> None:
    x = points(14, dim=4, seed=seed)
    d = distances(x, x)
    exact = 2 * four_point_delta(d) / d.max()
    got = metrics.gromov_delta(x, c=C, seed=seed)
    assert exact / 2 - 1e-9 <= got <= exact + 1e-9


def test_gromov_delta_at_its_base_point() -> None:
    """By the definition, with the base point that the seed picks."""
    x = points(12, dim=4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    d = distances(x[order], x[order])
    product = (d[:1] + d[:, :1] - d) / 2
    triples = itertools.product(range(12), repeat=3)
    want = max(min(product[i, k], product[k, j]) - product[i, j] for i, j, k in triples)
    assert metrics.gromov_delta(x, c=C, seed=3) == pytest.approx(2 * want / d.max())


def test_gromov_delta_of_a_tree_is_zero() -> None:
    """Far out, three rays from the origin are the legs of a star; along a geodesic nothing branches."""
    angle = 2 * torch.pi * torch.arange(3, dtype=torch.float64) / 3
    rays = torch.stack([angle.cos(), angle.sin()], 1)
    star = torch.cat([torch.sinh(torch.tensor(r)) * rays for r in (20.0, 24.0, 28.0)])
    assert metrics.gromov_delta(star) < 0.02
    line = torch.sinh(torch.linspace(-3, 5, 30, dtype=torch.float64))[:, None]
    assert metrics.gromov_delta(line) < 1e-12
    assert metrics.gromov_delta(torch.ones(5, 2)) == 0.0
