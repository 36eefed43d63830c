"""Queries that demonstrations are chosen for: points, embeddings, and which rows of a bank are the query itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from icl.bank.anchor_bank import AnchorBank
from icl.bank.embedding.embedder import Embedder
from icl.bank.ingest import RowIngest
from icl.bank.schema import BankError
from icl.bank.vector_files import vector_array
from icl.common.failures import RowFailure
from icl.data import Source


@dataclass(frozen=True)
class Queries:
    """N queries as far as they are needed: a strategy refuses those that lack what it compares.

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
        """Return rows as :meth:`AnchorBank.build` reads them, embedded and lifted as those of the bank were."""
        tables = list(RowIngest(embedder, bank.lift, bank.meta.c).tables(rows, on_failure=on_failure))
        if not tables:
            raise BankError("there is no query: no row could be read and embedded")
        table = pa.concat_tables(tables)
        points, images, texts = (
            torch.tensor(vector_array(table.column(name))) if name in table.schema.names else None
            for name in ("point", "image_embedding", "text_embedding")
        )
        return cls(points, images, texts, table.column("id").to_pylist(), table.column("digest").to_pylist())

    @classmethod
    def of_rows(cls, bank: AnchorBank, rows: Tensor) -> Queries:
        """Return rows of the bank, by their numbers (N,), as queries."""
        images, texts = (
            bank.gather(rows, name) if name in bank.meta.widths else None
            for name in ("image_embedding", "text_embedding")
        )
        names = bank.take(rows, ["id", "digest"])
        ids, digests = (column.to_pylist() for column in names.columns)
        return cls(bank.gather(rows), images, texts, ids, digests)

    def __len__(self) -> int:
        sizes = {len(v) for v in vars(self).values() if v is not None}
        if len(sizes) != 1:
            raise ValueError(f"Queries: all that is given must have one row a query, got {sorted(sizes)} rows")
        return sizes.pop()

    def slice(self, start: int, stop: int) -> Queries:
        """Return the queries from ``start`` to ``stop``."""
        return Queries(**{name: v if v is None else v[start:stop] for name, v in vars(self).items()})


def own_rows(bank: AnchorBank, queries: Queries) -> list[Tensor]:
    """Return for each query the rows that are itself, by id or content, ascending."""
    own: list[set[int]] = [set() for _ in range(len(queries))]
    table = bank.table(["id", "digest"])
    for column, names in zip(table.columns, (queries.ids, queries.digests)):
        numbers: dict[str, list[int]] = {}
        for i, name in enumerate(names or ()):
            if not isinstance(name, str | None):
                raise BankError(f"ids and values must be texts, got {name!r}")
            if name is not None:
                numbers.setdefault(name, []).append(i)
        rows = np.flatnonzero(pc.is_in(column, value_set=pa.array(list(numbers), pa.string())))
        for row, name in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist()):
            for i in numbers[name]:
                own[i].add(row)
    return [torch.tensor(sorted(rows), dtype=torch.int64) for rows in own]
