"""Which rows are selected of those that a strategy ranks, and in what order."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from icl.bank.anchor_bank import AnchorBank
from icl.bank.schema import BankError
from icl.bank.selection.queries import Queries
from icl.bank.selection.select_rows import select
from icl.common.choices import Strategy
from tests.icl.banks import SCORED, N, best_rows, score_rows


def marginal_relevance(score: Tensor, similarity: Tensor, pool: list[int], k: int, weight: float) -> list[int]:
    """Carbonell and Goldstein: argmax of lambda Sim1(D, Q) - (1 - lambda) max over the chosen of Sim2, k times."""
    selected: list[int] = []
    while len(selected) < k:
        values = {
            d: weight * score[d].item() - (1 - weight) * max((similarity[d, e].item() for e in selected), default=0.0)
            for d in pool
            if d not in selected
        }
        selected.append(max(values, key=lambda d: values[d]))
    return selected


@pytest.mark.parametrize("diversity", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("strategy", SCORED)
def test_diversity(
    clustered_bank: AnchorBank, clustered_queries: Queries, strategy: Strategy, diversity: float
) -> None:
    score, similarity = score_rows(clustered_queries, strategy)
    got = select(clustered_bank, clustered_queries, 4, strategy, diversity=diversity, order="nearest_first")
    for mine, s in zip(got.tolist(), score):
        pool = best_rows(s, 32)  # eight candidates for each of the four
        want = marginal_relevance(s, similarity, pool, 4, 1 - diversity)
        assert mine == [row for row in pool if row in want]
    assert not torch.equal(got, select(clustered_bank, clustered_queries, 4, strategy, order="nearest_first"))


def test_orders(clustered_bank: AnchorBank, clustered_queries: Queries) -> None:
    first = select(clustered_bank, clustered_queries, 6, order="nearest_first")
    assert torch.equal(select(clustered_bank, clustered_queries, 6), first.flip(1))
    shuffled = select(clustered_bank, clustered_queries, 6, order="random", seed=3)
    assert torch.equal(shuffled.sort(1).values, first.sort(1).values)
    assert not torch.equal(shuffled, first)
    assert torch.equal(shuffled, select(clustered_bank, clustered_queries, 6, order="random", seed=3))
    assert not torch.equal(shuffled, select(clustered_bank, clustered_queries, 6, order="random", seed=4))


@pytest.mark.parametrize("strategy", ["random", *SCORED])
def test_queries_do_not_depend_on_each_other(
    clustered_bank: AnchorBank, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "icl.bank.selection.select_rows._POOL", 2
    )  # few candidates, so that one more or less would show
    rows = torch.arange(1, N, 2)  # 7 and 31 say the same, so more of their candidates are left out
    options: dict[str, Any] = {"order": "random", "seed": 5, "diversity": 0.9 if strategy != "random" else 0.0}
    together = select(clustered_bank, Queries.of_rows(clustered_bank, rows), 5, strategy, **options)
    for row, mine in zip(rows, together):
        alone = Queries.of_rows(clustered_bank, row[None])
        assert select(clustered_bank, alone, 5, strategy, **options).tolist() == [mine.tolist()]


def test_errors(clustered_bank: AnchorBank, clustered_queries: Queries, tmp_path: Path) -> None:
    arguments: dict[str, Any]
    for arguments, message in [
        ({"strategy": "best"}, "strategy must be one of random, rices, topk_clip, hyperbolic, got 'best'"),
        ({"order": "best"}, "order must be one of nearest_last, nearest_first, random, got 'best'"),
        ({"diversity": 1.0}, r"diversity must be in \[0, 1\), got 1.0"),
        ({"diversity": -0.1}, r"diversity must be in \[0, 1\), got -0.1"),
        ({"strategy": "random", "diversity": 0.1}, "diversity needs a strategy that scores"),
        ({"strategy": "rices", "depth_weight": 0.1}, "depth_weight is for the hyperbolic strategy, not rices"),
        ({"k": 0}, "k must be from 1 to 50"),
        ({"k": 51}, "k must be from 1 to 50"),
        ({"queries": Queries(ids=["it's 3", None]), "k": 50, "strategy": "random"}, "k must be from 1 to 49"),
        ({"queries": Queries(points=torch.ones(1, 4), ids=[7])}, "ids and values must be texts, got 7"),  # type: ignore[list-item]
        ({"queries": Queries(ids=["a"])}, "compares points, and the queries have none"),
        (
            {"queries": Queries(ids=["a"]), "strategy": "rices"},
            "the image_embedding of every query, and some have none",
        ),
        (
            {"queries": replace(clustered_queries, text_embeddings=None), "strategy": "topk_clip"},
            "the text_embedding of every",
        ),
        ({"queries": Queries(image_embeddings=torch.ones(1, 5)), "strategy": "rices"}, "of width 6, got 5"),
        ({"queries": Queries(points=torch.ones(1, 5))}, r"shape \(N, 4\), got \(1, 5\)"),
        ({"queries": Queries(ids=["a"], points=torch.ones(2, 4))}, r"one row a query, got \[1, 2\] rows"),
        ({"queries": Queries()}, r"one row a query, got \[\] rows"),
    ]:
        with pytest.raises(ValueError, match=message):
            select(clustered_bank, arguments.pop("queries", clustered_queries), arguments.pop("k", 3), **arguments)
    plain = AnchorBank.build(tmp_path / "plain", {"point": torch.ones(3, 2)})
    with pytest.raises(BankError, match="has no image_embedding"):
        select(plain, clustered_queries, 2, "rices")
    assert select(clustered_bank, Queries(points=torch.ones(0, 4)), 3).shape == (0, 3)
