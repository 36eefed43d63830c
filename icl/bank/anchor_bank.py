"""The anchor bank: demonstrations as points of the hyperboloid, on disk, searched exactly."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import lance
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hyperbolic import lorentz, pairwise
from icl.bank import filters, lance_rows, vector_files
from icl.bank.arguments import finite, finite_points, row_numbers, whole
from icl.bank.build_record import BuildRecord, settings
from icl.bank.embedding.embedder import Embedder
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.ingest import RowIngest
from icl.bank.schema import METADATA_FILE, ROWS_FOLDER, BankError, BankMetadata
from icl.common.failures import RowFailure
from icl.data import Source


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
    ``depth``, the distance to the origin. A bank is opened at a version and stays there while others write, until one
    of them gives up that version (:meth:`compact`): then reading raises ``BankError``, and the bank is opened again.
    :meth:`append` and :meth:`delete` move this object to the version that they make.

    Conditions (``where``) are SQL on the columns, such as ``"task = 'vqa' AND depth > 1"``: text in single quotes,
    columns plainly or in backticks. ``BankError`` if a comparison in it names no column.

    >>> import tempfile
    >>> bank = AnchorBank.build(f"{tempfile.mkdtemp()}/bank", {"id": ["a", "b"], "point": torch.eye(2)})
    >>> hits = bank.search(torch.tensor([[0.9, 0.1]]), k=1)
    >>> bank.take(hits.rows[0], ["id"]).to_pylist()
    [{'id': 'a'}]
    """

    def __init__(self, folder: Path, meta: BankMetadata, dataset: lance.LanceDataset):
        self.folder, self.meta, self.dataset = folder, meta, dataset

    # --- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, folder: str | Path, version: int | None = None) -> AnchorBank:
        """The bank at its latest version, or at ``version``. ``BankError`` says what is wrong and what to do."""
        folder = Path(folder)
        return cls(folder, *lance_rows.open_bank(folder, version))

    @property
    def version(self) -> int:
        return int(self.dataset.version)

    def versions(self) -> list[tuple[int, datetime]]:
        """All versions that can be opened, with when they were made, in UTC."""
        return lance_rows.versions(self.folder)

    def nearest_version(self, when: datetime) -> AnchorBank:
        """The bank as it was at that time, which is local if it has no zone. ``BankError`` if there is none as old."""
        return AnchorBank.open(self.folder, lance_rows.version_at(self.folder, when))

    def __len__(self) -> int:
        with self._reading():
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
        rows: Source,
        *,
        embedder: Embedder | None = None,
        lift: HyperbolicLift | None = None,
        c: float = 1.0,
        on_failure: Callable[[RowFailure], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> AnchorBank:
        """Makes a bank of ``rows`` (:func:`icl.data.read_batches`) and opens it.

        Rows bring a ``point`` of the hyperboloid of curvature -c or, with a ``lift``, embeddings (``image_embedding``,
        ``text_embedding``) or, with an ``embedder`` too, an ``image`` or a ``text`` to embed; the image's embedding is
        lifted where there is one. A row that cannot be embedded goes to ``on_failure``, or raises ``BankError``
        without one. ``progress`` is told the number of rows done.

        A build that was cut short goes on where it was when it is run again: rows are committed in large pieces, and
        those that are there are skipped by id. A bank that the same build has finished is opened and left alone.
        ``BankError`` if the folder has another bank, or a build of other rows, curvature, embedder or lift.
        """
        ingest = RowIngest(embedder, lift, c)
        folder = lance_rows.to_build(folder)
        with lance_rows.writing(folder):
            finished = (folder / METADATA_FILE).exists()
            old = None if finished else lance_rows.committed_rows(folder)
            ingest.schema = old and old.schema
            taken = lance_rows.ids(old) if old else pa.array([], pa.string())
            build = BuildRecord(folder, settings(embedder, lift, ingest.c), taken)
            if finished:
                ingest.reread(rows, build)
                return cls.open(folder)
            uri, begun = str(folder / ROWS_FOLDER), old is not None
            for table in ingest.tables(rows, build, on_failure, progress):
                lance_rows.refuse_duplicates(table, taken)
                taken = pa.concat_arrays([taken, table.column("id").combine_chunks()])
                build.write()
                lance.write_dataset(table, uri, mode="append" if begun else "create")
                begun = True
            build.finish()
            if not begun:
                shutil.rmtree(folder)
                raise BankError(f"nothing to build {folder} from: no row could be read and embedded")
            dataset = lance.dataset(uri)
            if lift is not None:
                lift.save(folder / "lift")
            dataset.optimize.compact_files()
            bank = cls(folder, ingest.meta_of(dataset.schema), lance.dataset(uri))
            bank.vectors("point")
            bank.meta.write(folder)  # last: what has it is whole
        return bank

    def append(
        self,
        rows: Source,
        *,
        embedder: Embedder | None = None,
        on_failure: Callable[[RowFailure], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Adds rows, as :meth:`build` reads them, in one transaction: all or none. Returns how many.

        ``BankError`` for an id that is taken, a vector of another width, a column of another type. Writers take turns;
        rows that others have added since this bank was opened are there afterwards too.
        """
        if embedder and self.meta.embedder not in (None, embedder.name):
            raise BankError(f"embedder must be {self.meta.embedder}, which embedded the bank, got {embedder.name}")
        with lance_rows.writing(self.folder):
            latest = lance_rows.open_rows(self.folder, None)
            ingest = RowIngest(embedder, self.lift, self.meta.c, latest.schema)
            tables = list(ingest.tables(rows, None, on_failure, progress))
            if not tables:
                return 0
            table = pa.concat_tables(tables)
            lance_rows.refuse_duplicates(table, lance_rows.ids(latest))
            self._move(lance.write_dataset(table, latest, mode="append"))
        return int(table.num_rows)

    def delete(self, ids: Sequence[str] | None = None, *, where: str | None = None) -> int:
        """Removes the rows with these ids, or those for which an SQL condition holds. Returns how many."""
        if (ids is None) == (where is None):
            raise BankError("delete: give either ids, a list of texts, or where, an SQL condition")
        where = where if ids is None else filters.of_ids(ids)
        with lance_rows.writing(self.folder):
            latest = lance_rows.open_rows(self.folder, None)
            condition = filters.check(where, latest.schema.names)
            before = latest.count_rows()
            with lance_rows.reading(self.folder, latest.version, f"cannot delete where {where}"):
                latest.delete(condition)
            self._move(lance_rows.open_rows(self.folder, None))
        return int(before - self.dataset.count_rows())

    def compact(self, keep: int = 1) -> None:
        """Merges small fragments and gives up all but the last ``keep`` versions and what only they held."""
        keep = whole("compact: keep", keep, 1)
        with lance_rows.writing(self.folder):
            latest = lance_rows.open_rows(self.folder, None)
            latest.optimize.compact_files()
            self._move(lance_rows.open_rows(self.folder, None))
            _, made = sorted(self.versions())[-keep:][0]
            self.dataset.cleanup_old_versions(older_than=datetime.now(timezone.utc) - made, delete_unverified=True)
            left = [lance_rows.open_rows(self.folder, version) for version, _ in self.versions()]
            vector_files.forget(self.folder / "vectors", left)

    # --- reading ---------------------------------------------------------------------------------------------------

    def vectors(self, column: str = "point") -> list[Tensor]:
        """The rows' vectors, memory-mapped float32, in pieces whose lengths add up to that of the bank.

        ``column``: "point", "image_embedding" or "text_embedding"; rows without an embedding have NaN.
        """
        if column != "point" and column not in self.meta.widths:
            raise BankError(f"{self.folder} has no {column}: build the bank with an embedder, or with that column")
        if column not in self._mapped:
            width, folder = self.meta.width(column), self.folder / "vectors"
            with self._reading():
                fragments = self.dataset.get_fragments()
                self._mapped[column] = vector_files.mapped(folder, fragments, column, width, self._intact)
        return self._mapped[column]

    def gather(self, rows: Tensor, column: str = "point") -> Tensor:
        """The vectors of these rows, rows.shape + (width,). ``BankError`` for numbers that no row has."""
        parts = self.vectors(column)
        rows = row_numbers(rows, sum(map(len, parts)))
        flat = rows.flatten()
        out = torch.empty(len(flat), self.meta.width(column))
        start = 0
        for part in parts:
            inside = (flat >= start) & (flat < start + len(part))
            out[inside] = part[flat[inside] - start]
            start += len(part)
        return out.view(*rows.shape, out.shape[1])

    def take(self, rows: Tensor | Sequence[int], names: list[str] | None = None) -> pa.Table:
        """These rows as a table, in this order: the given columns, or all but the vectors.

        ``BankError`` for numbers that no row has, or a column that is not there.
        """
        index = row_numbers(rows, len(self)).flatten()
        # each row once, in the order of the file
        distinct, places = index.unique(return_inverse=True)
        with self._reading():
            table = self.dataset.take(distinct.tolist(), columns=self._known(names))
        return table.take(pa.array(places.tolist(), pa.int64()))

    def table(self, names: list[str] | None = None) -> pa.Table:
        """All rows: the given columns, or all but the vectors."""
        with self._reading():
            return self.dataset.to_table(columns=self._known(names))

    def rows_of(self, column: str, value: str) -> Tensor:
        """The rows whose column of strings, such as "id", is ``value``."""
        (name,) = self._known([column])
        return self.where(f"`{name}` = {filters.quoted(value)}")

    def where(self, condition: str) -> Tensor:
        """The rows for which an SQL condition on the columns holds, ascending."""
        checked = filters.check(condition, self.dataset.schema.names)
        with self._reading(f"cannot filter by {condition}"):
            found = self.dataset.to_table(columns=[], filter=checked, with_row_id=True).column("_rowid").to_numpy()
            row_ids = self._row_ids
        return torch.from_numpy(np.searchsorted(row_ids, np.sort(found)).astype(np.int64))

    def search(self, query: Tensor, k: int, *, depth_weight: float = 0.0, where: str | None = None) -> Hits:
        """The ``k`` rows with the largest ``-dist + depth_weight depth`` for each query point (N, dim), exactly.

        METHODS 3: ranking by distance and depth, among the rows for which the condition ``where`` holds. Ties go to
        the earlier row. Memory is that of the result. ``BankError`` for queries that are not finite, ``k`` under 1.
        """
        query, candidates = self.checked(query, k, depth_weight), []
        for points, rows in self._pieces(where):
            best = self._nearest(query, points, min(k, len(points)), depth_weight)
            candidates.append(rows[best])
        if not candidates:
            candidates = [torch.empty(len(query), 0, dtype=torch.int64)]
        if len(candidates) == 1 or not len(query):
            return self._hits(query, candidates[0], depth_weight)
        # Each query's best of all are among these, so they are its best of these too.
        rows = torch.cat(candidates, 1).unique()
        best = self._nearest(query, self.gather(rows), min(k, len(rows)), depth_weight)
        return self._hits(query, rows[best], depth_weight)

    def checked(self, query: Tensor, k: int, depth_weight: float) -> Tensor:
        """The query points in float32, if they can be searched for."""
        whole("search: k", k, 1)
        finite("search: depth_weight", depth_weight)
        return finite_points(query, self.meta.dim)

    def rank(self, query: Tensor, rows: Tensor, k: int, depth_weight: float = 0.0) -> Hits:
        """The best ``k`` of the given rows (N, any number) for each query, ordered as :meth:`search` orders them.

        ``BankError`` for queries that are not finite, ``k`` under 1, numbers that no row has.
        """
        query = self.checked(query, k, depth_weight)
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
        return pairwise.nearest(query, points, k, c=self.meta.c, depth_weight=depth_weight).indices

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

    def _reading(self, what: str | None = None) -> AbstractContextManager[None]:
        return lance_rows.reading(self.folder, self.version, what)

    def _known(self, names: list[str] | None) -> list[str]:
        return vector_files.known(names, self.dataset.schema.names)

    @cached_property
    def _intact(self) -> set[Path]:
        """Files of vectors whose checksums were compared."""
        return set()

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
