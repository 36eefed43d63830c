"""Each strategy against its definition, worked out over all rows in plain Python and float64."""

from pathlib import Path

import pytest
import torch

from icl.bank.anchor_bank import AnchorBank
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.embedding.lift_fitting import LiftTraining, fit_lift, same_label_pairs
from icl.bank.schema import BankError
from icl.bank.selection.queries import Queries
from icl.bank.selection.select_rows import select
from icl.common.choices import Strategy
from tests.icl.banks import SCORED, N, best_rows, score_rows


@pytest.mark.parametrize("strategy", SCORED)
def test_the_best_rows(clustered_bank: AnchorBank, clustered_queries: Queries, strategy: Strategy) -> None:
    score, _ = score_rows(clustered_queries, strategy)
    got = select(clustered_bank, clustered_queries, 12, strategy, order="nearest_first")
    assert got.tolist() == [best_rows(s, 12) for s in score]


def test_depth(clustered_bank: AnchorBank, clustered_queries: Queries) -> None:
    score, _ = score_rows(clustered_queries, "hyperbolic", 0.7)
    got = select(clustered_bank, clustered_queries, 12, depth_weight=0.7, order="nearest_first")
    assert got.tolist() == [best_rows(s, 12) for s in score]
    assert not torch.equal(got, select(clustered_bank, clustered_queries, 12, order="nearest_first"))


def test_blocks_of_rows_do_not_show(
    clustered_bank: AnchorBank, clustered_queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = select(clustered_bank, clustered_queries, 12, "topk_clip")
    monkeypatch.setattr("icl.bank.selection.strategies._ROWS", 7)
    assert torch.equal(select(clustered_bank, clustered_queries, 12, "topk_clip"), whole)


def test_ties_go_to_the_earlier_row(tmp_path: Path) -> None:
    same = torch.ones(1, 3).repeat(90, 1)
    bank = AnchorBank.build(tmp_path / "bank", {"point": same, "image_embedding": same})
    queries = Queries(points=same[:2], image_embeddings=-same[:2])
    assert select(bank, queries, 20, "rices", order="nearest_first").tolist() == [list(range(20))] * 2
    with pytest.warns(RuntimeWarning, match="lie at one depth"):
        assert select(bank, queries, 20, "hyperbolic", order="nearest_first").tolist() == [list(range(20))] * 2


def test_points_at_one_depth_are_chosen_by_cosine_and_warn(tmp_path: Path) -> None:
    """A lift without a head gives one depth; with a learned head there are depths, and no warning."""
    embeddings = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    rows = {"image_embedding": embeddings[4:], "label": [i % 3 for i in range(36)]}
    plain = HyperbolicLift(6).eval()
    bank = AnchorBank.build(tmp_path / "plain", rows, lift=plain)
    with torch.no_grad():
        queries = Queries(plain(embeddings[:4]), embeddings[:4])
    with pytest.warns(RuntimeWarning, match="all rows of .*plain lie at one depth, .* learn a lift with a head"):
        flat = select(bank, queries, 8)
    cosines = torch.nn.functional.cosine_similarity(embeddings[:4, None].double(), embeddings[4:].double(), dim=2)
    assert torch.equal(flat, cosines.topk(8).indices.flip(1))
    torch.manual_seed(0)
    head = HyperbolicLift(6, dim=4)
    fit_lift(head, embeddings[4:], same_label_pairs(rows["label"]), LiftTraining(3))
    bank = AnchorBank.build(tmp_path / "deep", rows, lift=head.eval())
    with torch.no_grad():
        points = head(embeddings[:4])
    assert not torch.equal(select(bank, Queries(points, embeddings[:4]), 8), flat)


def test_random_is_uniform_and_without_repeats(clustered_bank: AnchorBank) -> None:
    queries = Queries(ids=[f"query {i}" for i in range(1500)])
    got = select(clustered_bank, queries, 5, "random", seed=1)
    assert all(len(set(mine)) == 5 for mine in got.tolist())
    # 7500 draws of 50 rows: 150 each, with a standard deviation of 11.6 (without replacement)
    counts = got.flatten().bincount(minlength=N)
    assert counts.min() > 150 - 5 * 11.6
    assert counts.max() < 150 + 5 * 11.6
    assert torch.equal(got, select(clustered_bank, queries, 5, "random", seed=1))
    assert not torch.equal(got, select(clustered_bank, queries, 5, "random", seed=2))


def test_rows_without_an_embedding_come_last(tmp_path: Path) -> None:
    embeddings = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    embeddings[::2] = torch.nan
    bank = AnchorBank.build(tmp_path / "bank", {"point": torch.rand(12, 2), "image_embedding": embeddings})
    got = select(bank, Queries(image_embeddings=-embeddings[1:2]), 12, "rices", order="nearest_first")
    assert {i % 2 for i in got[0, :6].tolist()} == {1}
    assert got[0, 5] == 1  # the opposite of the query, and still before those that have none
    assert got[0, 6:].tolist() == [0, 2, 4, 6, 8, 10]
    spread = select(bank, Queries(image_embeddings=-embeddings[1:2]), 12, "rices", diversity=0.5)
    assert sorted(spread[0].tolist()) == list(range(12))
    with pytest.raises(BankError, match="compares the image_embedding of every query, and some have none"):
        select(bank, Queries.of_rows(bank, torch.tensor([0, 1])), 2, "rices")
