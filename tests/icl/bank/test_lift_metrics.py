"""The qualities of a lift against their definitions, written out over pairs and quadruples."""

import itertools

import numpy as np
import pytest
import torch

from icl.bank.embedding import lift_metrics as metrics
from tests.icl.lorentz_points import C, distances, points


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
    ranks = metrics.ranks(same, same, torch.arange(101))
    assert ranks.tolist() == [51] * 101


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
