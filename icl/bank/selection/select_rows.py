"""Which demonstrations a query gets, and in what order.

Every strategy ranks the rows of a bank for each query; the same steps then follow for all: the query itself goes, the
best are thinned for diversity if asked, and put in order.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hyperbolic import pairwise
from icl.bank.anchor_bank import AnchorBank
from icl.bank.arguments import whole
from icl.bank.embedding.embedder import Embedder
from icl.bank.filters import quoted
from icl.bank.ingest import RowIngest
from icl.bank.schema import BankError
from icl.bank.vector_files import vectors
from icl.common.choices import Order, Strategy
from icl.common.failures import RowFailure
from icl.data import Source

# Candidates per demonstration that diversity chooses from.
_POOL = 8
# Depths that differ by a smaller share are equal: those of unit vectors in float32 do by about 1e-6.
_ONE_DEPTH = 1e-4
# Rows of the bank that are compared at a time.
_ROWS = 1 << 14


@dataclass(frozen=True)
class Queries:
    """What is known of N queries; a strategy asks for what it needs.

    ``ids`` and ``digests`` (:func:`icl.common.files.digest` of the image's bytes, or of the text) say which rows of the
    bank are the query itself and may not be its demonstration.
    """

    points: Tensor | None = None
    image_embeddings: Tensor | None = None
    text_embeddings: Tensor | None = None
    ids: Sequence[str | None] | None = None
    digests: Sequence[str | None] | None = None

    @classmethod
    def read(
        cls,
        bank: AnchorBank,
        rows: Source,
        embedder: Embedder | None = None,
        on_failure: Callable[[RowFailure], None] | None = None,
    ) -> Queries:
        """Of rows such as :meth:`AnchorBank.build` reads, embedded and lifted as those of the bank were."""
        tables = list(RowIngest(embedder, bank.lift, bank.meta.c).tables(rows, None, on_failure, None))
        if not tables:
            raise BankError("there is no query: no row could be read and embedded")
        table = pa.concat_tables(tables)

        def column(name: str) -> Tensor | None:
            if name not in table.schema.names:
                return None
            width = table.schema.field(name).type.list_size
            return torch.from_numpy(np.array(vectors(table.column(name), width)))

        return cls(
            column("point"),
            column("image_embedding"),
            column("text_embedding"),
            table.column("id").to_pylist(),
            table.column("digest").to_pylist(),
        )

    @classmethod
    def of_rows(cls, bank: AnchorBank, rows: Tensor) -> Queries:
        """Rows of the bank as queries."""
        images, texts = (
            bank.gather(rows, name) if name in bank.meta.widths else None
            for name in ("image_embedding", "text_embedding")
        )
        names = bank.take(rows, ["id", "digest"])
        return cls(bank.gather(rows), images, texts, names.column("id").to_pylist(), names.column("digest").to_pylist())

    def __len__(self) -> int:
        sizes = {len(v) for v in vars(self).values() if v is not None}
        if len(sizes) != 1:
            raise ValueError(f"Queries: all that is given must have one row a query, got {sorted(sizes)} rows")
        return sizes.pop()


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
    """The rows of ``k`` demonstrations for each query, (N, k) int64, as they stand in the prompt.

    Args:
        strategy: "random"; "rices", cosine of the image embeddings (Yang et al., 2022); "topk_clip", the mean of the
            cosines of image and text embeddings; "hyperbolic", ``-dist + depth_weight depth`` of the points.
        diversity: 0 takes the best; towards 1 maximal marginal relevance (Carbonell and Goldstein, 1998, with
            lambda = 1 - diversity) trades the score for distance from those already chosen.
        order: "nearest_last" puts the best demonstration next to the query.
        seed: for "random", as strategy and as order. A query's demonstrations do not depend on the others.

    "hyperbolic" warns if all rows lie at one depth: then it orders them as the cosine does. Never the query itself, by
    id and by content. Ties go to the earlier row. ``BankError`` if fewer than ``k`` rows are
    left, or if bank or queries lack what the strategy compares.
    """
    if strategy not in get_args(Strategy):
        raise ValueError(f"select: strategy must be one of {', '.join(get_args(Strategy))}, got {strategy!r}")
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
    if whole("select: k", k, 0) < 1 or k + most > len(bank):
        raise BankError(
            f"select: k must be from 1 to {len(bank) - most}, the bank's rows less the query's own, got {k}"
        )
    wanted = min(len(bank), (k * _POOL if diversity else k) + most)
    rank = {"random": _random, "rices": _rices, "topk_clip": _topk_clip, "hyperbolic": _hyperbolic}[strategy]
    rows, scores, similarity = rank(bank, queries, wanted, depth_weight, seed)
    chosen = []
    for i, mine in enumerate(own):
        kept = ~torch.isin(rows[i], mine)
        candidates, values = rows[i][kept], scores[i][kept]
        if diversity:
            candidates = candidates[: k * _POOL]
            picked = _diverse(values[: k * _POOL], similarity(candidates), k, diversity)
        else:
            picked = torch.arange(k)
        chosen.append(_ordered(candidates[picked], order, _generator(queries, i, seed, "order")))
    return torch.stack(chosen) if chosen else torch.empty(0, k, dtype=torch.int64)


Ranking = tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]
"""Rows (N, wanted), best first, their scores, and the similarity among rows (n,) as (n, n)."""


def _random(bank: AnchorBank, queries: Queries, wanted: int, depth_weight: float, seed: int) -> Ranking:
    generators = (_generator(queries, i, seed, "rows") for i in range(len(queries)))
    each = [torch.randperm(len(bank), generator=generator)[:wanted] for generator in generators]
    rows = torch.stack(each) if each else torch.empty(0, wanted, dtype=torch.int64)
    return rows, torch.zeros(rows.shape), lambda chosen: torch.zeros(len(chosen), len(chosen))


def _rices(bank: AnchorBank, queries: Queries, wanted: int, depth_weight: float, seed: int) -> Ranking:
    return _cosine(bank, {"image_embedding": queries.image_embeddings}, wanted)


def _topk_clip(bank: AnchorBank, queries: Queries, wanted: int, depth_weight: float, seed: int) -> Ranking:
    both = {"image_embedding": queries.image_embeddings, "text_embedding": queries.text_embeddings}
    return _cosine(bank, both, wanted)


def _hyperbolic(bank: AnchorBank, queries: Queries, wanted: int, depth_weight: float, seed: int) -> Ranking:
    if queries.points is None:
        raise BankError("select: hyperbolic compares points, and the queries have none: lift their embeddings")
    if not has_depth(bank):
        warnings.warn(
            f"all rows of {bank.folder} lie at one depth, so that hyperbolic orders them as the cosine does, like "
            "rices: learn a lift with a head (icl lift fit), and build a bank with it",
            RuntimeWarning,
            stacklevel=3,
        )
    hits = bank.search(queries.points, wanted, depth_weight=depth_weight)

    def similarity(rows: Tensor) -> Tensor:
        points = bank.gather(rows)
        return -pairwise.pairwise_dist(points, points, c=bank.meta.c)

    return hits.rows, hits.scores, similarity


def has_depth(bank: AnchorBank) -> bool:
    """Return whether some rows lie deeper than others, by more than rounding.

    At one depth the distance to a query falls as the cosine rises, and the geometry decides nothing.
    """
    depth = bank.table(["depth"]).column("depth").to_numpy()
    return len(depth) < 2 or bool(np.ptp(depth) > _ONE_DEPTH * depth.max())


def _cosine(bank: AnchorBank, given: dict[str, Tensor | None], wanted: int) -> Ranking:
    queries = {}
    for name, embeddings in given.items():
        if not isinstance(embeddings, Tensor) or not embeddings.isfinite().all():
            raise BankError(f"select: the strategy compares the {name} of every query, and some have none")
        queries[name] = _unit(embeddings)
        width = bank.vectors(name)[0].shape[1]
        if embeddings.shape[1:] != (width,):
            raise BankError(f"select: queries must have {name} of width {width}, got {embeddings.shape[1]}")
    count = len(next(iter(queries.values())))
    best = torch.empty(count, 0)
    rows = torch.empty(count, 0, dtype=torch.int64)
    start = 0
    for parts in zip(*(bank.vectors(name) for name in queries)):
        for blocks in zip(*(part.split(_ROWS) for part in parts)):
            # in float64 and rounded, so that neither blocks nor the other queries show
            cosines = [e @ _unit(block).T for e, block in zip(queries.values(), blocks)]
            # below every cosine, so that rows without an embedding come last
            score = torch.stack(cosines).mean(0).nan_to_num(-2.0).float()
            best = torch.cat([best, score], 1)
            rows = torch.cat([rows, torch.arange(start, start + score.shape[1]).expand(count, -1)], 1)
            top = _top(best, wanted)
            best, rows = best.gather(1, top), rows.gather(1, top)
            start += score.shape[1]

    def similarity(rows: Tensor) -> Tensor:
        columns = [_unit(bank.gather(rows, name)) for name in queries]
        return torch.stack([e @ e.T for e in columns]).mean(0).nan_to_num(0.0).float()

    return rows, best, similarity


def _unit(embeddings: Tensor) -> Tensor:
    return normalize(embeddings.double(), dim=-1)


def _top(scores: Tensor, k: int) -> Tensor:
    """Where the ``k`` largest are, best first, ties to the lower index: topk promises nothing about ties."""
    bits = (scores + 0.0).view(torch.int32).long()
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the floats
    keys = (ordered << 32) - torch.arange(scores.shape[1])
    return keys.topk(min(k, scores.shape[1])).indices


def own_rows(bank: AnchorBank, queries: Queries) -> list[Tensor]:
    """Return for each query the rows that are itself, by id or content, found in one pass over the bank."""
    count = len(queries)
    known = {"id": queries.ids or [None] * count, "digest": queries.digests or [None] * count}
    conditions = []
    for column, values in known.items():
        literals = sorted({quoted(value) for value in values if value is not None})
        if literals:
            conditions.append(f"{column} IN ({', '.join(literals)})")
    found: dict[tuple[str, str | None], list[int]] = {}
    if conditions:
        rows = bank.where(" OR ".join(conditions))
        names = bank.take(rows, list(known))
        for column in known:
            for row, value in zip(rows.tolist(), names.column(column).to_pylist()):
                if value is not None:
                    found.setdefault((column, value), []).append(row)
    own = (
        {row for column, values in known.items() for row in found.get((column, values[i]), [])} for i in range(count)
    )
    return [torch.tensor(sorted(rows), dtype=torch.int64) for rows in own]


def _diverse(scores: Tensor, similarity: Tensor, k: int, diversity: float) -> Tensor:
    chosen = [0]
    nearest = similarity[0].clone()
    while len(chosen) < k:
        value = (1 - diversity) * scores - diversity * nearest
        value[chosen] = -torch.inf
        chosen.append(int(value.argmax()))
        nearest = torch.maximum(nearest, similarity[chosen[-1]])
    return torch.tensor(sorted(chosen))  # candidates are best first


def _ordered(rows: Tensor, order: Order, generator: torch.Generator) -> Tensor:
    if order == "random":
        return rows[torch.randperm(len(rows), generator=generator)]
    return rows.flip(0) if order == "nearest_last" else rows


def _generator(queries: Queries, i: int, seed: int, purpose: str) -> torch.Generator:
    """Of query i, the same whatever other queries there are, as far as it has a name."""
    names = (source[i] for source in (queries.ids, queries.digests) if source is not None and source[i] is not None)
    key = f"{seed}/{purpose}/{next(names, i)}".encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
