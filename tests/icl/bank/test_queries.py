"""Queries: read as rows are, and never their own demonstrations."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from icl.bank.anchor_bank import AnchorBank
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.schema import BankError
from icl.bank.selection.queries import Queries
from icl.bank.selection.select_rows import select
from icl.common.choices import Strategy
from icl.common.files import digest
from tests.icl.banks import SCORED, N, best_rows, clustered_rows, score_rows


@pytest.mark.parametrize("strategy", ["random", *SCORED])
def test_never_the_query_itself(clustered_bank: AnchorBank, strategy: Strategy) -> None:
    """By id; by content, which row 31 shares with row 7; and all that remains is still the best."""
    everything = Queries.of_rows(clustered_bank, torch.arange(N))
    got = select(clustered_bank, everything, N - 2, strategy, order="nearest_first")
    for i, mine in enumerate(got.tolist()):
        itself = {i, 7, 31} if i in (7, 31) else {i}
        assert not itself & set(mine)
        assert len(set(mine)) == N - 2
    by_content = replace(everything, ids=None, digests=[digest(text) for text in clustered_rows()["text"]])
    assert all(i not in mine for i, mine in enumerate(select(clustered_bank, by_content, N - 2, strategy).tolist()))
    by_id = replace(everything, digests=None)
    got = select(clustered_bank, by_id, N - 1, strategy)
    assert all(i not in mine for i, mine in enumerate(got.tolist()))
    assert 31 in got[7].tolist()
    if strategy != "random":
        score, _ = score_rows(everything, strategy)
        score[torch.arange(N), torch.arange(N)] = -torch.inf
        score[7, 31] = score[31, 7] = -torch.inf
        assert select(clustered_bank, everything, 3, strategy, order="nearest_first").tolist() == [
            best_rows(s, 3) for s in score
        ]


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
