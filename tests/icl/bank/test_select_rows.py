"""Each strategy against its definition, worked out over all rows in plain Python and float64."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from icl.bank.anchor_bank import AnchorBank
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.embedding.lift_fitting import fit_lift, same_label_pairs
from icl.bank.schema import BankError
from icl.bank.selection.queries import Queries
from icl.bank.selection.select_rows import select
from icl.common.choices import Strategy
from icl.common.files import digest

N, C = 50, 0.6
SCORED: list[Strategy] = ["rices", "topk_clip", "hyperbolic"]


def rows() -> dict[str, Any]:
    """Fifty rows in three clusters, of which 7 and 31 say the same, and 20 and 21 have the same vectors."""
    generator = torch.Generator().manual_seed(0)
    clusters = torch.randint(3, (N,), generator=generator)

    def around(width: int, spread: float) -> Tensor:
        return torch.randn(3, width, generator=generator)[clusters] + spread * torch.randn(
            N, width, generator=generator
        )

    vectors = {"point": around(4, 0.4), "image_embedding": around(6, 0.5), "text_embedding": around(5, 0.5)}
    for column in vectors.values():
        column[21] = column[20]
    texts = [f"text {i}" for i in range(N)]
    texts[31] = texts[7]
    return {"id": [f"it's {i}" for i in range(N)], "text": texts, **vectors}


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> AnchorBank:
    built = AnchorBank.build(tmp_path_factory.mktemp("bank") / "bank", {k: v[:30] for k, v in rows().items()}, c=C)
    built.append({k: v[30:] for k, v in rows().items()})  # two fragments
    return built


@pytest.fixture(scope="module")
def queries() -> Queries:
    generator = torch.Generator().manual_seed(1)
    near = [rows()[name][::9] for name in ("point", "image_embedding", "text_embedding")]
    return Queries(*(v + 0.3 * torch.randn(v.shape, generator=generator) for v in near))


def scores(queries: Queries, strategy: str, depth_weight: float = 0.0) -> tuple[Tensor, Tensor]:
    """By the definition: of every row for every query, and of every row with every row."""
    table = rows()

    def cosines(x: Tensor, name: str) -> Tensor:
        return normalize(x.double(), dim=1) @ normalize(table[name].double(), dim=1).T

    def negative_distances(x: Tensor, y: Tensor) -> Tensor:
        x0, y0 = ((1 / C + v.square().sum(1)).sqrt() for v in (x.double(), y.double()))
        return -torch.acosh((C * (x0[:, None] * y0 - x.double() @ y.double().T)).clamp_min(1)) / C**0.5

    if strategy == "hyperbolic":
        points = table["point"]
        assert queries.points is not None
        depth = -negative_distances(torch.zeros(1, 4), points)
        return negative_distances(queries.points, points) + depth_weight * depth, negative_distances(points, points)
    names = ["image_embedding"] if strategy == "rices" else ["image_embedding", "text_embedding"]
    given = {"image_embedding": queries.image_embeddings, "text_embedding": queries.text_embeddings}
    of_queries = torch.stack([cosines(x, name) for name in names if (x := given[name]) is not None]).mean(0)
    return of_queries, torch.stack([cosines(table[name], name) for name in names]).mean(0)


def best(score: Tensor, k: int) -> list[int]:
    return sorted(range(len(score)), key=lambda i: (-round(score[i].item(), 9), i))[:k]


def marginal_relevance(score: Tensor, similarity: Tensor, pool: list[int], k: int, weight: float) -> list[int]:
    """Carbonell and Goldstein: argmax of lambda Sim1(D, Q) - (1 - lambda) max over the chosen of Sim2, k times."""
    chosen: list[int] = []
    while len(chosen) < k:
        values = {
            d: weight * score[d].item() - (1 - weight) * max((similarity[d, e].item() for e in chosen), default=0.0)
            for d in pool
            if d not in chosen
        }
        chosen.append(max(values, key=lambda d: values[d]))
    return chosen


@pytest.mark.parametrize("strategy", SCORED)
def test_the_best_rows(bank: AnchorBank, queries: Queries, strategy: Strategy) -> None:
    score, _ = scores(queries, strategy)
    got = select(bank, queries, 12, strategy, order="nearest_first")
    assert got.tolist() == [best(s, 12) for s in score]


def test_depth(bank: AnchorBank, queries: Queries) -> None:
    score, _ = scores(queries, "hyperbolic", 0.7)
    got = select(bank, queries, 12, depth_weight=0.7, order="nearest_first")
    assert got.tolist() == [best(s, 12) for s in score]
    assert not torch.equal(got, select(bank, queries, 12, order="nearest_first"))


@pytest.mark.parametrize("diversity", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("strategy", SCORED)
def test_diversity(bank: AnchorBank, queries: Queries, strategy: Strategy, diversity: float) -> None:
    score, similarity = scores(queries, strategy)
    got = select(bank, queries, 4, strategy, diversity=diversity, order="nearest_first")
    for mine, s in zip(got.tolist(), score):
        pool = best(s, 32)  # eight candidates for each of the four
        want = marginal_relevance(s, similarity, pool, 4, 1 - diversity)
        assert mine == [row for row in pool if row in want]
    assert not torch.equal(got, select(bank, queries, 4, strategy, order="nearest_first"))


def test_blocks_of_rows_do_not_show(bank: AnchorBank, queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = select(bank, queries, 12, "topk_clip")
    monkeypatch.setattr("icl.bank.selection.strategies._ROWS", 7)
    assert torch.equal(select(bank, queries, 12, "topk_clip"), whole)


def test_ties_go_to_the_earlier_row(tmp_path: Path) -> None:
    same = torch.ones(1, 3).repeat(90, 1)
    bank = AnchorBank.build(tmp_path / "bank", {"point": same, "image_embedding": same})
    queries = Queries(points=same[:2], image_embeddings=-same[:2])
    assert select(bank, queries, 20, "rices", order="nearest_first").tolist() == [list(range(20))] * 2
    with pytest.warns(RuntimeWarning, match="lie at one depth"):
        assert select(bank, queries, 20, "hyperbolic", order="nearest_first").tolist() == [list(range(20))] * 2


def test_points_at_one_depth_are_chosen_by_cosine_and_warn(tmp_path: Path) -> None:
    """What a lift without a head makes of embeddings; with a learned head there are depths, and no warning."""
    embeddings = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    given = {"image_embedding": embeddings[4:], "label": [i % 3 for i in range(36)]}
    plain = HyperbolicLift(6).eval()
    bank = AnchorBank.build(tmp_path / "plain", given, lift=plain)
    with torch.no_grad():
        queries = Queries(plain(embeddings[:4]), embeddings[:4])
    with pytest.warns(RuntimeWarning, match="all rows of .*plain lie at one depth, .* learn a lift with a head"):
        flat = select(bank, queries, 8)
    cosines = torch.nn.functional.cosine_similarity(embeddings[:4, None].double(), embeddings[4:].double(), dim=2)
    assert torch.equal(flat, cosines.topk(8).indices.flip(1))
    torch.manual_seed(0)
    head = HyperbolicLift(6, dim=4)
    fit_lift(head, embeddings[4:], same_label_pairs(given["label"]), epochs=3)
    bank = AnchorBank.build(tmp_path / "deep", given, lift=head.eval())
    with torch.no_grad():
        points = head(embeddings[:4])
    assert not torch.equal(select(bank, Queries(points, embeddings[:4]), 8), flat)


def test_orders(bank: AnchorBank, queries: Queries) -> None:
    first = select(bank, queries, 6, order="nearest_first")
    assert torch.equal(select(bank, queries, 6), first.flip(1))
    shuffled = select(bank, queries, 6, order="random", seed=3)
    assert torch.equal(shuffled.sort(1).values, first.sort(1).values)
    assert not torch.equal(shuffled, first)
    assert torch.equal(shuffled, select(bank, queries, 6, order="random", seed=3))
    assert not torch.equal(shuffled, select(bank, queries, 6, order="random", seed=4))


def test_random_is_uniform_and_without_repeats(bank: AnchorBank) -> None:
    queries = Queries(ids=[f"query {i}" for i in range(1500)])
    got = select(bank, queries, 5, "random", seed=1)
    assert all(len(set(mine)) == 5 for mine in got.tolist())
    # 7500 draws of 50 rows: 150 each, with a standard deviation of 11.6 (without replacement)
    counts = got.flatten().bincount(minlength=N)
    assert counts.min() > 150 - 5 * 11.6
    assert counts.max() < 150 + 5 * 11.6
    assert torch.equal(got, select(bank, queries, 5, "random", seed=1))
    assert not torch.equal(got, select(bank, queries, 5, "random", seed=2))


@pytest.mark.parametrize("strategy", ["random", *SCORED])
def test_never_the_query_itself(bank: AnchorBank, strategy: Strategy) -> None:
    """By id; by content, which row 31 shares with row 7; and all that remains is still the best."""
    everything = Queries.of_rows(bank, torch.arange(N))
    got = select(bank, everything, N - 2, strategy, order="nearest_first")
    for i, mine in enumerate(got.tolist()):
        itself = {i, 7, 31} if i in (7, 31) else {i}
        assert not itself & set(mine)
        assert len(set(mine)) == N - 2
    by_content = replace(everything, ids=None, digests=[digest(text) for text in rows()["text"]])
    assert all(i not in mine for i, mine in enumerate(select(bank, by_content, N - 2, strategy).tolist()))
    by_id = replace(everything, digests=None)
    got = select(bank, by_id, N - 1, strategy)
    assert all(i not in mine for i, mine in enumerate(got.tolist()))
    assert 31 in got[7].tolist()
    if strategy != "random":
        score, _ = scores(everything, strategy)
        score[torch.arange(N), torch.arange(N)] = -torch.inf
        score[7, 31] = score[31, 7] = -torch.inf
        assert select(bank, everything, 3, strategy, order="nearest_first").tolist() == [best(s, 3) for s in score]


@pytest.mark.parametrize("strategy", ["random", *SCORED])
def test_queries_do_not_depend_on_each_other(
    bank: AnchorBank, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "icl.bank.selection.select_rows._POOL", 2
    )  # few candidates, so that one more or less would show
    rows = torch.arange(1, N, 2)  # 7 and 31 say the same, so more of their candidates are left out
    options: dict[str, Any] = {"order": "random", "seed": 5, "diversity": 0.9 if strategy != "random" else 0.0}
    together = select(bank, Queries.of_rows(bank, rows), 5, strategy, **options)
    for row, mine in zip(rows, together):
        alone = Queries.of_rows(bank, row[None])
        assert select(bank, alone, 5, strategy, **options).tolist() == [mine.tolist()]


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


def test_queries_read_as_rows_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lift = HyperbolicLift(4, dim=3)
    embeddings = torch.randn(8, 4)
    bank = AnchorBank.build(tmp_path / "bank", {"id": list("abcdefgh"), "image_embedding": embeddings}, lift=lift)
    (tmp_path / "queries.jsonl").write_text(
        "\n".join(
            json.dumps({"id": i, "text": i, "image_embedding": embeddings[n].tolist()}) for n, i in enumerate("cz")
        )
    )
    read = Queries.read(bank, tmp_path / "queries.jsonl")
    assert (len(read), read.ids, read.digests) == (2, ["c", "z"], [digest("c"), digest("z")])
    assert read.text_embeddings is None
    assert read.points is not None
    torch.testing.assert_close(read.points, lift(embeddings[:2]).detach())
    assert 2 not in select(bank, read, 7)[0].tolist()
    with pytest.raises(BankError, match="there is no query"):
        Queries.read(bank, {"image_embedding": [[float("nan")] * 4]}, on_failure=lambda failure: None)


def test_errors(bank: AnchorBank, queries: Queries, tmp_path: Path) -> None:
    given: dict[str, Any]
    for given, message in [
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
        ({"queries": replace(queries, text_embeddings=None), "strategy": "topk_clip"}, "the text_embedding of every"),
        ({"queries": Queries(image_embeddings=torch.ones(1, 5)), "strategy": "rices"}, "of width 6, got 5"),
        ({"queries": Queries(points=torch.ones(1, 5))}, r"shape \(N, 4\), got \(1, 5\)"),
        ({"queries": Queries(ids=["a"], points=torch.ones(2, 4))}, r"one row a query, got \[1, 2\] rows"),
        ({"queries": Queries()}, r"one row a query, got \[\] rows"),
    ]:
        with pytest.raises(ValueError, match=message):
            select(bank, given.pop("queries", queries), given.pop("k", 3), **given)
    plain = AnchorBank.build(tmp_path / "plain", {"point": torch.ones(3, 2)})
    with pytest.raises(BankError, match="has no image_embedding"):
        select(plain, queries, 2, "rices")
    assert select(bank, Queries(points=torch.ones(0, 4)), 3).shape == (0, 3)
