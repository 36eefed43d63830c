"""The anchor bank: demonstrations as points of the hyperboloid, on disk, searched exactly."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, cast

import lance
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hyperbolic import lorentz, pairwise
from icl import columns, source, store
from icl.embed import Embedder, Failure
from icl.ingest import Ingest
from icl.lift import HyperbolicLift
from icl.schema import VECTORS, BankError, Meta


class Hits(NamedTuple):
    """What a search found, best first: for N queries (N, k), or less than k columns if the bank has fewer rows."""

    rows: Tensor
    """Numbers of rows in the bank's version, for :meth:`AnchorBank.take`."""
    scores: Tensor
    """``-dist + depth_weight depth``, in float32."""
    dist: Tensor


class AnchorBank:
    """Demonstrations with their points, in one version of a bank on disk.

    Rows have an ``id``, an ``image`` (a path), a ``text``, columns of the user, embeddings, the ``point`` and its
    ``depth``, the distance to the origin. A bank is opened at a version and stays there while others write;
    :meth:`append` and :meth:`delete` move this object to the version that they make.

    >>> import tempfile
    >>> bank = AnchorBank.build(f"{tempfile.mkdtemp()}/bank", {"id": ["a", "b"], "point": torch.eye(2)})
    >>> hits = bank.search(torch.tensor([[0.9, 0.1]]), k=1)
    >>> bank.take(hits.rows[0], ["id"]).to_pylist()
    [{'id': 'a'}]
    """

    def __init__(self, folder: Path, meta: Meta, dataset: lance.LanceDataset):
        self.folder, self.meta, self.dataset = folder, meta, dataset

    # --- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: str | Path, version: int | None = None) -> AnchorBank:
        """The bank at its latest version, or at ``version``. ``BankError`` says what is wrong and what to do."""
        folder = Path(folder)
        meta = Meta.read(folder)
        bank = cls(folder, meta, store.open_rows(folder, version))
        names = set(bank.dataset.schema.names)
        wanted = {"id", "point", "depth", "digest", *meta.widths}
        if not wanted <= names or bank.dataset.schema.field("point").type != pa.list_(pa.float32(), meta.dim):
            raise BankError(f"the rows of {folder} do not match its bank.json: restore it, or build the bank again")
        return bank

    @property
    def version(self) -> int:
        return int(self.dataset.version)

    def versions(self) -> list[tuple[int, datetime]]:
        """All versions that can be opened, with when they were made."""
        return [(int(v["version"]), cast(datetime, v["timestamp"])) for v in self.dataset.versions()]

    def nearest_version(self, when: datetime) -> AnchorBank:
        """The bank as it was at that time. ``BankError`` if it did not exist yet."""
        before = [version for version, made in self.versions() if made <= when.replace(tzinfo=made.tzinfo)]
        if not before:
            raise BankError(f"{self.folder} has no version as old as {when:%Y-%m-%d %H:%M:%S}")
        return AnchorBank.open(self.folder, max(before))

    def __len__(self) -> int:
        return int(self.dataset.count_rows())

    @cached_property
    def lift(self) -> HyperbolicLift | None:
        """The map from embeddings to points that the bank was built with."""
        folder = self.folder / "lift"
        return HyperbolicLift.load(folder) if folder.exists() else None

    # --- writing ---------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        folder: str | Path,
        rows: source.Source,
        *,
        embedder: Embedder | None = None,
        lift: HyperbolicLift | None = None,
        c: float = 1.0,
        on_failure: Callable[[Failure], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> AnchorBank:
        """Makes a bank of ``rows`` (:func:`icl.source.read`) and opens it.

        Rows bring a ``point`` of the hyperboloid of curvature -c or, with a ``lift``, embeddings (``image_embedding``,
        ``text_embedding``) or, with an ``embedder`` too, an ``image`` or a ``text`` to embed; the image's embedding is
        lifted where there is one. A row that cannot be embedded goes to ``on_failure``, or raises ``BankError``
        without one. ``progress`` is told the number of rows done.

        A build that was cut short goes on where it was when it is run again: rows are committed in large pieces, and
        those that are there are skipped by id.
        """
        folder = store.to_build(folder)
        with store.writing(folder):
            uri = folder / "anchors.lance"
            begun = uri.exists()
            old = lance.dataset(str(uri)) if begun else None
            ingest = Ingest(embedder, lift, c, schema=old and old.schema)
            there = taken = store.ids(old) if old else pa.array([], pa.string())
            for table in ingest.tables(rows, there, on_failure, progress):
                store.refuse_duplicates(table, taken)
                taken = pa.concat_arrays([taken, table.column("id").combine_chunks()])
                lance.write_dataset(table, str(uri), mode="append" if begun else "create")
                begun = True
            if not begun:
                shutil.rmtree(folder)
                raise BankError(f"nothing to build {folder} from: no row could be read and embedded")
            dataset = lance.dataset(str(uri))
            if lift is not None:
                lift.save(folder / "lift")
            dataset.optimize.compact_files()
            bank = cls(folder, ingest.meta_of(dataset.schema), lance.dataset(str(uri)))
            bank.vectors("point")
            bank.meta.write(folder)  # last: what has it is whole
        return bank

    def append(
        self,
        rows: source.Source,
        *,
        embedder: Embedder | None = None,
        on_failure: Callable[[Failure], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Adds rows, as :meth:`build` reads them, in one transaction: all or none. Returns how many.

        ``BankError`` for an id that is taken, a vector of another width, a column of another type. Writers take turns;
        rows that others have added since this bank was opened are there afterwards too.
        """
        if embedder and self.meta.embedder not in (None, embedder.name):
            raise BankError(f"embedder must be {self.meta.embedder}, which embedded the bank, got {embedder.name}")
        with store.writing(self.folder):
            latest = store.open_rows(self.folder, None)
            ingest = Ingest(embedder, self.lift, self.meta.c, latest.schema)
            tables = list(ingest.tables(rows, None, on_failure, progress))
            if not tables:
                return 0
            table = pa.concat_tables(tables)
            store.refuse_duplicates(table, store.ids(latest))
            self._move(lance.write_dataset(table, latest, mode="append"))
        return int(table.num_rows)

    def delete(self, where: str | Sequence[str]) -> int:
        """Removes the rows with these ids, or those for which an SQL condition holds. Returns how many."""
        if not isinstance(where, str):
            quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in where)
            where = f"id IN ({quoted})" if quoted else "false"
        with store.writing(self.folder):
            latest = store.open_rows(self.folder, None)
            before = latest.count_rows()
            with store.explained(f"cannot delete where {where}"):
                latest.delete(where)
            self._move(store.open_rows(self.folder, None))
        return int(before - self.dataset.count_rows())

    def compact(self, keep: int = 1) -> None:
        """Merges small fragments and gives up all but the last ``keep`` versions and what only they held."""
        with store.writing(self.folder):
            latest = store.open_rows(self.folder, None)
            latest.optimize.compact_files()
            self._move(store.open_rows(self.folder, None))
            _, made = sorted(self.versions())[-keep:][0]
            age = datetime.now(made.tzinfo) - made
            self.dataset.cleanup_old_versions(older_than=age, delete_unverified=True)
            left = [int(v["version"]) for v in self.dataset.versions()]
            columns.forget(self.folder / "vectors", [store.open_rows(self.folder, v) for v in left])

    # --- reading ---------------------------------------------------------------------------------------------------

    def vectors(self, column: str = "point") -> list[Tensor]:
        """The rows' vectors, memory-mapped float32, in pieces whose lengths add up to that of the bank.

        ``column``: "point", "image_embedding" or "text_embedding"; rows without an embedding have NaN.
        """
        if column != "point" and column not in self.meta.widths:
            raise BankError(f"{self.folder} has no {column}: build the bank with an embedder, or with that column")
        if column not in self._mapped:
            width = self.meta.width(column)
            self._mapped[column] = columns.mapped(self.folder / "vectors", self.dataset.get_fragments(), column, width)
        return self._mapped[column]

    def gather(self, rows: Tensor, column: str = "point") -> Tensor:
        """The vectors of these rows, rows.shape + (width,)."""
        parts = self.vectors(column)
        flat = rows.flatten()
        if len(flat) and not (int(flat.min()) >= 0 and int(flat.max()) < len(self)):
            raise IndexError(f"rows must be from 0 to {len(self) - 1}, got {int(flat.min())} to {int(flat.max())}")
        out = torch.empty(len(flat), self.meta.width(column))
        start = 0
        for part in parts:
            inside = (flat >= start) & (flat < start + len(part))
            out[inside] = part[flat[inside] - start]
            start += len(part)
        return out.view(*rows.shape, out.shape[1])

    def take(self, rows: Tensor | Sequence[int], names: list[str] | None = None) -> pa.Table:
        """These rows as a table, in this order: the given columns, or all but the vectors."""
        index = [int(i) for i in rows]
        names = [n for n in self.dataset.schema.names if n not in VECTORS] if names is None else names
        # each row once, in the order of the file
        distinct = sorted(set(index))
        table = self.dataset.take(distinct, columns=names)
        places = {row: i for i, row in enumerate(distinct)}
        return table.take(pa.array([places[row] for row in index], pa.int64()))

    def rows_of(self, column: str, value: str) -> Tensor:
        """The rows whose column of strings, such as "id", is ``value``."""
        return self.where("`{}` = '{}'".format(column, value.replace("'", "''")))

    def where(self, condition: str) -> Tensor:
        """The rows for which an SQL condition on the columns holds, ascending."""
        with store.explained(f"cannot filter by {condition}"):
            found = self.dataset.to_table(columns=[], filter=condition, with_row_id=True).column("_rowid").to_numpy()
        return torch.from_numpy(np.searchsorted(self._row_ids, np.sort(found)).astype(np.int64))

    def search(self, query: Tensor, k: int, *, depth_weight: float = 0.0, where: str | None = None) -> Hits:
        """The ``k`` rows with the largest ``-dist + depth_weight depth`` for each query point (N, dim), exactly.

        METHODS 3: ranking by distance and depth. ``where`` is an SQL condition on the columns, such as
        ``"task = 'vqa'"``. Ties go to the earlier row. Memory is that of the result: rows are read where they lie.
        """
        query = self.checked(query, k)
        candidates = []
        for points, rows in self._pieces(where):
            best = self._nearest(query, points, min(k, len(points)), depth_weight)
            candidates.append(rows[best])
        if not candidates:
            return self._hits(query, torch.empty(len(query), 0, dtype=torch.int64), depth_weight)
        if len(candidates) == 1 or not len(query):
            return self._hits(query, candidates[0], depth_weight)
        # Each query's best of all are among these, so they are its best of these too.
        rows = torch.cat(candidates, 1).unique()
        best = self._nearest(query, self.gather(rows), min(k, len(rows)), depth_weight)
        return self._hits(query, rows[best], depth_weight)

    def checked(self, query: Tensor, k: int) -> Tensor:
        """The query points in float32, if they can be searched for."""
        if query.dim() != 2 or query.shape[1] != self.meta.dim:
            raise BankError(f"search: query must have shape (N, {self.meta.dim}), got {tuple(query.shape)}")
        if k < 1:
            raise BankError(f"search: k must be at least 1, got {k}")
        return query.float()

    def rank(self, query: Tensor, rows: Tensor, k: int, depth_weight: float = 0.0) -> Hits:
        """The best ``k`` of the given rows (N, any number) for each query, ordered as :meth:`search` orders them."""
        rows = rows.sort(dim=1).values  # ties go to the earlier
        k = min(k, rows.shape[1])
        every = self._hits(query, rows, depth_weight)
        order = every.scores.sort(dim=1, descending=True, stable=True).indices
        # Few scores are so close that their rounding could have swapped them. These are ordered with more digits.
        score, dist = (values.gather(1, order[:, : k + 1]) for values in every[1:])
        blur = 4 * torch.finfo(score.dtype).eps * (score.abs() + 2 * dist)
        for i in ((score[:, :-1] - score[:, 1:]) <= blur[:, :-1]).any(1).nonzero().flatten().tolist():
            order[i, :k] = self._nearest(query[i : i + 1], self.gather(rows[i]), k, depth_weight)[0]
        return Hits(*(values.gather(1, order[:, :k]) for values in every))

    def _nearest(self, query: Tensor, points: Tensor, k: int, depth_weight: float) -> Tensor:
        c = self.meta.c
        return pairwise.nearest(query, points, k, c=c, depth_weight=depth_weight, return_dist=False)  # type: ignore[return-value]

    def _hits(self, query: Tensor, rows: Tensor, depth_weight: float) -> Hits:
        points, c = self.gather(rows), self.meta.c
        dist = lorentz.dist(query[:, None, :], points, c=c)
        return Hits(rows, depth_weight * lorentz.dist0(points, c=c) - dist, dist)

    # --- what is cached for a version ------------------------------------------------------------------------------

    def _pieces(self, where: str | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Points and the numbers of their rows, those that the condition leaves."""
        if where is not None:
            rows = self.where(where)
            if len(rows):
                yield self.gather(rows), rows
            return
        start = 0
        for part in self.vectors():
            yield part, torch.arange(start, start + len(part))
            start += len(part)

    @cached_property
    def _mapped(self) -> dict[str, list[Tensor]]:
        return {}

    @cached_property
    def _row_ids(self) -> np.ndarray:
        ids: np.ndarray = self.dataset.to_table(columns=[], with_row_id=True).column("_rowid").to_numpy()
        return ids

    def _move(self, dataset: lance.LanceDataset) -> None:
        """To the version that was just written, whose vectors are made for all readers."""
        self.dataset = dataset
        for name in ("_mapped", "_row_ids"):
            self.__dict__.pop(name, None)
        self.vectors("point")
