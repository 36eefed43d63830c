"""The strategies: each ranks the rows of a bank for every query, and says how alike rows are.

A new one is a function with the arguments of :data:`RankRows`, an entry in :data:`STRATEGIES`, and its name in
:data:`icl.common.choices.Strategy`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hyperbolic import pairwise
from icl.bank.anchor_bank import AnchorBank
from icl.bank.schema import BankError
from icl.bank.selection.queries import Queries

# Depths that differ by a smaller share are equal: those of unit vectors in float32 do by about 1e-6.
_ONE_DEPTH = 1e-4
# Rows of the bank that are compared at a time.
_ROWS = 1 << 14


class RankedRows(NamedTuple):
    """The best rows of each query (N, count), best first, their scores, and the similarity of rows (n,) as (n, n)."""

    rows: Tensor
    scores: Tensor
    similarity: Callable[[Tensor], Tensor]


RankRows: TypeAlias = Callable[[AnchorBank, Queries, int, float, int], RankedRows]
"""Takes a bank, queries, how many rows to rank for each, the depth weight and the seed."""


def rank_at_random(bank: AnchorBank, queries: Queries, count: int, depth_weight: float, seed: int) -> RankedRows:
    """Rank rows in a random order, which is the same for a query and a seed."""
    generators = (query_generator(queries, i, seed, "rows") for i in range(len(queries)))
    rows = [torch.randperm(len(bank), generator=generator)[:count] for generator in generators]
    stacked = torch.stack(rows) if rows else torch.empty(0, count, dtype=torch.int64)
    return RankedRows(stacked, torch.zeros(stacked.shape), lambda rows: torch.zeros(len(rows), len(rows)))


def rank_by_image(bank: AnchorBank, queries: Queries, count: int, depth_weight: float, seed: int) -> RankedRows:
    """Rank rows by the cosine of the image embeddings: RICES, Yang et al., 2022."""
    return _rank_by_cosine(bank, {"image_embedding": queries.image_embeddings}, count)


def rank_by_both(bank: AnchorBank, queries: Queries, count: int, depth_weight: float, seed: int) -> RankedRows:
    """Rank rows by the mean of the cosines of image and text embeddings: TopK-CLIP."""
    both = {"image_embedding": queries.image_embeddings, "text_embedding": queries.text_embeddings}
    return _rank_by_cosine(bank, both, count)


def rank_by_distance(bank: AnchorBank, queries: Queries, count: int, depth_weight: float, seed: int) -> RankedRows:
    """Rank rows by ``-dist + depth_weight depth`` of the points; warns if all lie at one depth."""
    if queries.points is None:
        raise BankError("select: hyperbolic compares points, and the queries have none: lift their embeddings")
    if not has_depth(bank):
        warnings.warn(
            f"all rows of {bank.folder} lie at one depth, so that hyperbolic orders them as the cosine does, like "
            "rices: learn a lift with a head (icl lift fit), and build a bank with it",
            RuntimeWarning,
            stacklevel=3,
        )
    hits = bank.search(queries.points, count, depth_weight=depth_weight)

    def similarity(rows: Tensor) -> Tensor:
        points = bank.gather(rows)
        return -pairwise.pairwise_dist(points, points, c=bank.meta.c)

    return RankedRows(hits.rows, hits.scores, similarity)


STRATEGIES: dict[str, RankRows] = {
    "random": rank_at_random,
    "rices": rank_by_image,
    "topk_clip": rank_by_both,
    "hyperbolic": rank_by_distance,
}


def has_depth(bank: AnchorBank) -> bool:
    """Return whether some rows lie deeper than others, by more than rounding.

    At one depth the distance to a query falls as the cosine rises, and the geometry decides nothing.
    """
    depth = bank.table(["depth"]).column("depth").to_numpy()
    return len(depth) < 2 or bool(np.ptp(depth) > _ONE_DEPTH * depth.max())


def query_generator(queries: Queries, i: int, seed: int, purpose: str) -> torch.Generator:
    """Return the generator of query i, the same whatever other queries there are, as far as it has a name."""
    names = (names[i] for names in (queries.ids, queries.digests) if names is not None and names[i] is not None)
    key = f"{seed}/{purpose}/{next(names, i)}".encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))


def _rank_by_cosine(bank: AnchorBank, embeddings: dict[str, Tensor | None], count: int) -> RankedRows:
    queries = {}
    for name, vectors in embeddings.items():
        if not isinstance(vectors, Tensor) or not vectors.isfinite().all():
            raise BankError(f"select: the strategy compares the {name} of every query, and some have none")
        queries[name] = _to_unit(vectors)
        width = bank.vectors(name)[0].shape[1]
        if vectors.shape[1:] != (width,):
            raise BankError(f"select: queries must have {name} of width {width}, got {vectors.shape[1]}")
    number = len(next(iter(queries.values())))
    scores = torch.empty(number, 0)
    rows = torch.empty(number, 0, dtype=torch.int64)
    start = 0
    for parts in zip(*(bank.vectors(name) for name in queries)):
        for blocks in zip(*(part.split(_ROWS) for part in parts)):
            # In float64 and rounded, so that neither blocks nor the other queries show.
            cosines = [e @ _to_unit(block).T for e, block in zip(queries.values(), blocks)]
            # Rows without an embedding score below every cosine, so that they come last.
            block_scores = torch.stack(cosines).mean(0).nan_to_num(-2.0).float()
            numbers = torch.arange(start, start + len(blocks[0])).expand(number, -1)
            scores, rows = torch.cat([scores, block_scores], 1), torch.cat([rows, numbers], 1)
            top = _top_columns(scores, count)
            scores, rows = scores.gather(1, top), rows.gather(1, top)
            start += len(blocks[0])

    def similarity(rows: Tensor) -> Tensor:
        units = [_to_unit(bank.gather(rows, name)) for name in queries]
        return torch.stack([e @ e.T for e in units]).mean(0).nan_to_num(0.0).float()

    return RankedRows(rows, scores, similarity)


def _to_unit(embeddings: Tensor) -> Tensor:
    return normalize(embeddings.double(), dim=-1)


def _top_columns(scores: Tensor, k: int) -> Tensor:
    """Return where the ``k`` largest are, best first, ties to the lower index: topk promises nothing about ties."""
    bits = (scores + 0.0).view(torch.int32).long()
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # Integers in the order of the floats.
    keys = (ordered << 32) - torch.arange(scores.shape[1])
    return keys.topk(min(k, scores.shape[1])).indices
