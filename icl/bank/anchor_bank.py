"""The anchor bank: demonstrations as points of the hyperboloid, on disk, searched exactly.

Rows are read by ``ingest`` and kept in Lance (``lance_rows``); ``vector_files`` maps their vectors into memory.
"""

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
from icl.bank.arguments import finite_number, query_points, row_numbers, whole_number
from icl.bank.build_record import BuildRecord, build_settings
from icl.bank.embedding.embedder import Embedder
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.ingest import RowIngest
from icl.bank.schema import METADATA_FILE, ROWS_FOLDER, BankError, BankMetadata
from icl.common.failures import RowFailure
from icl.data import VECTOR_COLUMNS, Source


class Hits(NamedTuple):
    """The result of a search, best first: for N queries (N, k), or less than k columns if the bank has fewer rows."""

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
        self._intact: set[Path] = set()  # Files of vectors whose checksums were compared.
        self._vectors: dict[str, list[Tensor]] = {}

    @classmethod
    def open(cls, folder: str | Path, version: int | None = None) -> AnchorBank:
        """Return the bank at its latest version, or at ``version``. ``BankError`` says what is wrong and what to do."""
        version = version if version is None else whole_number("version", version, 1)
        return cls(Path(folder), *lance_rows.open_bank(Path(folder), version))

    @property
    def version(self) -> int:
        """The version of the bank at which it is read."""
        return int(self.dataset.version)

    def versions(self) -> list[tuple[int, datetime]]:
        """Return all versions that can be opened, and when they were made, in UTC."""
        return lance_rows.list_versions(self.folder)

    def nearest_version(self, when: datetime) -> AnchorBank:
        """Return the bank as it was at a time, local if it has no zone. ``BankError`` if there is none as old."""
        return AnchorBank.open(self.folder, lance_rows.version_at(self.folder, when))

    def __len__(self) -> int:
        with self._reading():
            return int(self.dataset.count_rows())

    @cached_property
    def lift(self) -> HyperbolicLift | None:
        """The map from embeddings to points that the bank was built with."""
        folder = self.folder / "lift"
        return HyperbolicLift.load(folder) if folder.exists() else None

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
        """Make a bank of rows and open it.

        A build that was cut short goes on where it was when it is run again: rows are committed in large pieces, and
        those that are there are skipped by id. A bank that the same build has finished is opened and left alone.

        Args:
            folder: of the bank, new or empty.
            rows: a source (:func:`icl.data.read_batches`) whose rows bring a ``point`` or, with a ``lift``, embeddings
                (``image_embedding``, ``text_embedding``) or, with an ``embedder`` too, an ``image`` or a ``text``. The
                image's embedding is lifted where there is one.
            embedder: of images and texts.
            lift: from embeddings to points.
            c: the points' curvature is -c, unless a lift brings its own.
            on_failure: takes each row that cannot be embedded, which raises a ``BankError`` without it.
            progress: takes the number of rows that were done since it was called last.

        Raises:
            BankError: the folder has another bank, or a build of other rows, curvature, embedder or lift.
        """
        ingest = RowIngest(embedder, lift, c)
        folder = lance_rows.prepare_folder(folder)
        with lance_rows.writing(folder):
            finished = (folder / METADATA_FILE).exists()
            committed = None if finished else lance_rows.open_committed(folder)
            ingest.schema = None if committed is None else committed.schema
            ids = pa.array([], pa.string()) if committed is None else lance_rows.read_ids(committed)
            record = BuildRecord(folder, build_settings(embedder, lift, ingest.c), ids)
            if finished:
                ingest.reread(rows, record)
                return cls.open(folder)
            uri = str(folder / ROWS_FOLDER)
            for table in ingest.tables(rows, record, on_failure, progress):
                lance_rows.refuse_duplicates(table.column("id"), ids)
                record.write()
                committed = lance.write_dataset(table, uri, mode="append" if committed is not None else "create")
                ids = pa.concat_arrays([ids, table.column("id").combine_chunks()])
            record.finish()
            if committed is None:
                shutil.rmtree(folder)
                raise BankError(f"nothing to build {folder} from: no row could be read and embedded")
            if lift is not None:
                lift.save(folder / "lift")
            committed.optimize.compact_files()
            bank = cls(folder, ingest.metadata(committed.schema), lance.dataset(uri))
            bank.vectors("point")
            bank.meta.write(folder)  # Last, because a folder that has it is a whole bank.
        return bank

    def append(
        self,
        rows: Source,
        *,
        embedder: Embedder | None = None,
        on_failure: Callable[[RowFailure], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Add rows, as :meth:`build` reads them, in one transaction: all or none. Return how many.

        Writers take turns; rows that others have added since this bank was opened are there afterwards too.
        ``BankError`` for an id that the bank has, a vector of another width, a column of another type.
        """
        if embedder and self.meta.embedder not in (None, embedder.name):
            raise BankError(f"embedder must be {self.meta.embedder}, which embedded the bank, got {embedder.name}")
        with lance_rows.writing(self.folder):
            latest = lance_rows.open_rows(self.folder)
            ingest = RowIngest(embedder, self.lift, self.meta.c, latest.schema)
            tables = list(ingest.tables(rows, None, on_failure, progress))
            if not tables:
                return 0
            table = pa.concat_tables(tables)
            lance_rows.refuse_duplicates(table.column("id"), lance_rows.read_ids(latest))
            self._move_to(lance.write_dataset(table, latest, mode="append"))
        return int(table.num_rows)

    def delete(self, ids: Sequence[str] | None = None, *, where: str | None = None) -> int:
        """Remove the rows with these ids, or those for which an SQL condition holds. Return how many."""
        if (ids is None) == (where is None):
            raise BankError("delete: give either ids, a list of texts, or where, an SQL condition")
        where = where if ids is None else filters.of_ids(ids)
        with lance_rows.writing(self.folder):
            latest = lance_rows.open_rows(self.folder)
            condition = filters.check(where, latest.schema.names)
            before = latest.count_rows()
            with lance_rows.reading(self.folder, latest.version, f"cannot delete where {where}"):
                latest.delete(condition)
            self._move_to(lance_rows.open_rows(self.folder))
        return int(before - self.dataset.count_rows())

    def compact(self, keep: int = 1) -> None:
        """Merge small fragments and give up all but the last ``keep`` versions and what only they held."""
        keep = whole_number("compact: keep", keep, 1)
        with lance_rows.writing(self.folder):
            lance_rows.open_rows(self.folder).optimize.compact_files()
            self._move_to(lance_rows.open_rows(self.folder))
            _, oldest = sorted(self.versions())[-keep:][0]
            self.dataset.cleanup_old_versions(older_than=datetime.now(timezone.utc) - oldest, delete_unverified=True)
            remaining = [lance_rows.open_rows(self.folder, version) for version, _ in self.versions()]
            vector_files.delete_unused(self.folder / "vectors", remaining)

    def vectors(self, column: str = "point") -> list[Tensor]:
        """Return the rows' vectors, memory-mapped float32, in pieces whose lengths add up to that of the bank.

        ``column``: "point", "image_embedding" or "text_embedding"; rows without an embedding have NaN.
        """
        if column != "point" and column not in self.meta.widths:
            raise BankError(f"{self.folder} has no {column}: build the bank with an embedder, or with that column")
        if column not in self._vectors:
            width, folder = self.meta.width(column), self.folder / "vectors"
            with self._reading():
                fragments = self.dataset.get_fragments()
                self._vectors[column] = vector_files.map_vectors(folder, fragments, column, width, self._intact)
        return self._vectors[column]

    def gather(self, rows: Tensor, column: str = "point") -> Tensor:
        """Return the vectors of these rows, rows.shape + (width,). ``BankError`` for numbers that no row has."""
        parts = self.vectors(column)
        rows = row_numbers(rows, sum(map(len, parts)))
        flat = rows.flatten()
        vectors = torch.empty(len(flat), self.meta.width(column))
        start = 0
        for part in parts:
            inside = (flat >= start) & (flat < start + len(part))
            vectors[inside] = part[flat[inside] - start]
            start += len(part)
        return vectors.view(*rows.shape, vectors.shape[1])

    def take(self, rows: Tensor | Sequence[int], names: list[str] | None = None) -> pa.Table:
        """Return these rows as a table, in this order: the given columns, or all but the vectors.

        ``BankError`` for numbers that no row has, or a column that is not there.
        """
        # Lance reads each row once, in the order of the file.
        distinct, places = row_numbers(rows, len(self)).flatten().unique(return_inverse=True)
        with self._reading():
            table = self.dataset.take(distinct.tolist(), columns=self._check_columns(names))
        return table.take(pa.array(places.tolist(), pa.int64()))

    def table(self, names: list[str] | None = None) -> pa.Table:
        """Return all rows as a table: the given columns, or all but the vectors."""
        with self._reading():
            return self.dataset.to_table(columns=self._check_columns(names))

    def rows_of(self, column: str, value: str) -> Tensor:
        """Return the rows whose column of strings, such as "id", is ``value``."""
        (name,) = self._check_columns([column])
        return self.where(f"`{name}` = {filters.quoted(value)}")

    def where(self, condition: str) -> Tensor:
        """Return the rows for which an SQL condition on the columns holds, ascending."""
        checked = filters.check(condition, self.dataset.schema.names)
        with self._reading(f"cannot filter by {condition}"):
            row_ids = np.sort(self._read_row_ids(checked))
            return torch.from_numpy(np.searchsorted(self._row_ids, row_ids).astype(np.int64))

    def search(self, query: Tensor, k: int, *, depth_weight: float = 0.0, where: str | None = None) -> Hits:
        """Return the ``k`` rows with the largest ``-dist + depth_weight depth`` for each query point, exactly.

        Rows are those for which the condition ``where`` holds. Ties go to the earlier row. Memory is that of the
        result. ``BankError`` for queries that are not finite or not of shape (N, dim), and for ``k`` under 1.
        """
        query, candidates = self.check_search(query, k, depth_weight), []
        for points, rows in self._pieces(where):
            best = self._nearest(query, points, min(k, len(points)), depth_weight)
            candidates.append(rows[best])
        if not candidates:
            candidates = [torch.empty(len(query), 0, dtype=torch.int64)]
        if len(candidates) == 1 or not len(query):
            return self._score(query, candidates[0], depth_weight)
        # Each query's best of all are among these, so they are its best of these too.
        rows = torch.cat(candidates, 1).unique()
        best = self._nearest(query, self.gather(rows), min(k, len(rows)), depth_weight)
        return self._score(query, rows[best], depth_weight)

    def check_search(self, query: Tensor, k: int, depth_weight: float) -> Tensor:
        """Return the query points in float32. ``BankError`` for arguments that :meth:`search` refuses."""
        whole_number("search: k", k, 1)
        finite_number("search: depth_weight", depth_weight)
        return query_points(query, self.meta.dim)

    def rank(self, query: Tensor, rows: Tensor, k: int, depth_weight: float = 0.0) -> Hits:
        """Return the best ``k`` of the given rows (N, any number) for each query, ordered as :meth:`search` does.

        ``BankError`` for queries that are not finite, ``k`` under 1, numbers that no row has.
        """
        query = self.check_search(query, k, depth_weight)
        rows = rows.sort(dim=1).values  # Ties go to the earlier.
        k = min(k, rows.shape[1])
        hits = self._score(query, rows, depth_weight)
        order = hits.scores.sort(dim=1, descending=True, stable=True).indices
        # Few scores are so close that their rounding could have swapped them. These are ordered with more digits.
        score, dist = (values.gather(1, order[:, : k + 1]) for values in hits[1:])
        rounding = 4 * torch.finfo(score.dtype).eps * (score.abs() + 2 * dist)
        for i in ((score[:, :-1] - score[:, 1:]) <= rounding[:, :-1]).any(1).nonzero().flatten().tolist():
            order[i, :k] = self._nearest(query[i : i + 1], self.gather(rows[i]), k, depth_weight)[0]
        return Hits(*(values.gather(1, order[:, :k]) for values in hits))

    def _nearest(self, query: Tensor, points: Tensor, k: int, depth_weight: float) -> Tensor:
        return pairwise.nearest(query, points, k, c=self.meta.c, depth_weight=depth_weight).indices

    def _score(self, query: Tensor, rows: Tensor, depth_weight: float) -> Hits:
        points, c = self.gather(rows), self.meta.c
        dist = lorentz.dist(query[:, None, :], points, c=c)
        return Hits(rows, depth_weight * lorentz.dist0(points, c=c) - dist, dist)

    def _pieces(self, where: str | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield points and the numbers of their rows, those for which the condition holds."""
        if where is not None:
            rows = self.where(where)
            if len(rows):
                yield self.gather(rows), rows
            return
        start = 0
        for part in self.vectors():
            yield part, torch.arange(start, start + len(part))
            start += len(part)

    def _reading(self, action: str | None = None) -> AbstractContextManager[None]:
        return lance_rows.reading(self.folder, self.version, action)

    def _check_columns(self, names: list[str] | None) -> list[str]:
        """Return the names if the bank has these columns; by default those that are no vectors."""
        columns: list[str] = self.dataset.schema.names
        if names is None:
            return [name for name in columns if name not in VECTOR_COLUMNS]
        if unknown := [str(name) for name in names if name not in columns]:
            raise BankError(f"the bank has no column {', '.join(unknown)}: its columns are {', '.join(columns)}")
        return names

    @cached_property
    def _row_ids(self) -> np.ndarray:
        return self._read_row_ids(None)

    def _read_row_ids(self, condition: str | None) -> np.ndarray:
        table = self.dataset.to_table(columns=[], filter=condition, with_row_id=True)
        row_ids: np.ndarray = table.column("_rowid").to_numpy()
        return row_ids

    def _move_to(self, dataset: lance.LanceDataset) -> None:
        """Read the version that was just written from now on, whose vectors are made for all readers."""
        self.dataset, self._vectors = dataset, {}
        self.__dict__.pop("_row_ids", None)
        self.vectors("point")
