"""Which demonstrations a query gets, and in what order.

A strategy ranks the rows of a bank for each query; the same steps then follow for all: the query itself goes, the best
are thinned for diversity if asked, and put in order.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from icl.bank.anchor_bank import AnchorBank
from icl.bank.arguments import whole_number
from icl.bank.schema import BankError
from icl.bank.selection.queries import Queries, own_rows
from icl.bank.selection.strategies import STRATEGIES, query_generator
from icl.common.choices import Order, Strategy

# Candidates per demonstration that diversity chooses from.
_POOL = 8


def select(
    bank: AnchorBank,
    queries: Queries,
    k: int,
    strategy: Strategy = "hyperbolic",
    *,
    depth_weight: float = 0.0,
    diversity: float = 0.0,
    order: Order = "nearest_last",
    seed: int = 0,
) -> Tensor:
    """Return the rows of ``k`` demonstrations for each query, (N, k) int64, as they stand in the prompt.

    Never the query itself, by id and by content. Ties go to the earlier row.

    Args:
        bank: of the demonstrations.
        queries: with what the strategy compares.
        k: demonstrations for each query.
        strategy: "random"; "rices", cosine of the image embeddings; "topk_clip", the mean of the cosines of image and
            text embeddings; "hyperbolic", ``-dist + depth_weight depth`` of the points, which warns if all rows lie at
            one depth, because it then orders them as the cosine does.
        depth_weight: for "hyperbolic".
        diversity: 0 takes the best; towards 1 maximal marginal relevance (Carbonell and Goldstein, 1998, with
            lambda = 1 - diversity) trades the score for distance from those that were chosen before.
        order: "nearest_last" puts the best demonstration next to the query.
        seed: for "random", as strategy and as order. A query's demonstrations do not depend on the others.

    Raises:
        BankError: fewer than ``k`` rows are left, or bank or queries lack what the strategy compares.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"select: strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if order not in get_args(Order):
        raise ValueError(f"select: order must be one of {', '.join(get_args(Order))}, got {order!r}")
    if not 0 <= diversity < 1:
        raise ValueError(f"select: diversity must be in [0, 1), got {diversity}")
    if diversity and strategy == "random":
        raise ValueError("select: diversity needs a strategy that scores, not random")
    if depth_weight and strategy != "hyperbolic":
        raise ValueError(f"select: depth_weight is for the hyperbolic strategy, not {strategy}")
    own = own_rows(bank, queries)
    most = max((len(rows) for rows in own), default=0)
    if whole_number("select: k", k, 0) < 1 or k + most > len(bank):
        raise BankError(
            f"select: k must be from 1 to {len(bank) - most}, the bank's rows less the query's own, got {k}"
        )
    count = k * _POOL if diversity else k
    ranked = STRATEGIES[strategy](bank, queries, min(len(bank), count + most), depth_weight, seed)
    selected = []
    for i, mine in enumerate(own):
        others = (~torch.isin(ranked.rows[i], mine)).nonzero().flatten()[:count]
        rows, scores = ranked.rows[i][others], ranked.scores[i][others]
        if diversity:
            rows = rows[_choose_diverse(scores, ranked.similarity(rows), k, diversity)]
        if order == "random":
            rows = rows[torch.randperm(k, generator=query_generator(queries, i, seed, "order"))]
        selected.append(rows.flip(0) if order == "nearest_last" else rows)
    return torch.stack(selected) if selected else torch.empty(0, k, dtype=torch.int64)


def _choose_diverse(scores: Tensor, similarity: Tensor, k: int, diversity: float) -> Tensor:
    """Return the places of k candidates by maximal marginal relevance, best score first."""
    places = [0]
    nearest = similarity[0].clone()
    while len(places) < k:
        value = (1 - diversity) * scores - diversity * nearest
        value[places] = -torch.inf
        places.append(int(value.argmax()))
        nearest = torch.maximum(nearest, similarity[places[-1]])
    return torch.tensor(sorted(places))
