"""Approximate search: a graph of near rows (HNSW, Malkov and Yashunin, 2018) in usearch, walked by the Lorentz metric.

An index of inner products or Euclidean distances finds other neighbours than the geometry has. Here the distance
itself is compiled in (csrc/cpu/metric.cpp), and what the graph proposes is ranked exactly. A graph can fail to reach
some rows, which no formula tells: so every index is tried on rows that were held out of it, and what share of the
exact answer it finds is part of it. Where that is less than was asked, the search is exact.
"""

from __future__ import annotations

import ctypes
import json
import math
import warnings
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from usearch.compiled import MetricKind, MetricSignature
from usearch.index import BatchMatches, CompiledMetric, Index

import hyperbolic
from icl.bank.anchor_bank import AnchorBank, Hits
from icl.bank.arguments import finite_number, whole_number
from icl.bank.schema import BankError
from icl.bank.vector_files import crc32_of_file
from icl.common.files import read_json, replacing, write_json

FORMAT = 2
# Links of a row and rows looked at to find them. Clusters that lie around the origin like the points of a star are
# hard to reach from each other and need the second, which costs twice the time.
_GRAPHS = ((32, 128), (64, 256))
_EXPANSIONS = (16, 32, 64, 128, 256, 512, 1024)
_HELD_OUT = 256
# Rows that are added, and queries that are searched exactly, at a time.
_ROWS, _QUERIES = 1 << 14, 32


@dataclass(frozen=True)
class IndexRecord:
    """The version, the searches and the recall that an index was built for, and the recall that was measured."""

    version: int
    """The version of the bank."""
    k: int
    depth_weight: float
    wanted: float
    """The recall at k that was asked for."""
    recall: float
    """The recall of the held-out rows, less two standard errors."""
    connectivity: int
    expansion: int
    """Rows that a search keeps in sight."""
    candidates: int
    """Rows among these that are ranked exactly."""
    checksum: int = 0
    """The checksum of the other fields and the index, by :meth:`checksum_with`."""
    format: int = FORMAT

    def checksum_with(self, index: Path) -> int:
        """Return the CRC-32 of this record and of a file."""
        fields = json.dumps(asdict(replace(self, checksum=0)))
        return crc32_of_file(index, zlib.crc32(fields.encode()))

    def why_not(self, bank: AnchorBank, k: int, depth_weight: float) -> str | None:
        """Return why this index cannot serve a search, or None if it can."""
        if self.format != FORMAT:
            return f"its index has format version {self.format}, this version of icl reads {FORMAT}"
        if self.version != bank.version:
            return f"its index is of version {self.version} and the bank at {bank.version}"
        if self.recall < self.wanted:
            return f"the recall of its index was measured as {self.recall:.3f}, and {self.wanted:g} was asked for"
        low, high = sorted((0.0, self.depth_weight))
        if k > self.k or not low <= depth_weight <= high:
            return f"its index was built for k up to {self.k} and depth_weight from {low:g} to {high:g}"
        return None


def build_index(
    bank: AnchorBank,
    recall: float = 0.95,
    k: int = 10,
    *,
    depth_weight: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> IndexRecord:
    """Build the index of the bank's version, in place of any other, and return its measured record.

    The smallest expansion is taken with which the ``k`` best rows of held-out queries are found with the given
    ``recall``; if none suffices, a denser graph is built. ``progress`` takes the number of rows added. Indexes are
    built by as many threads as torch has, so that two of the same bank differ.
    """
    if not 0 < recall <= 1:
        raise ValueError(f"build_index: recall must be above 0 and at most 1, got {recall}")
    depth_weight = finite_number("build_index: depth_weight", depth_weight)
    if whole_number("build_index: k", k, 0) < 1 or len(bank) < 2 * k:
        raise BankError(f"build_index: k must be from 1 to {len(bank) // 2}, half of the bank's rows, got {k}")
    order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))
    held_out, others = order.tensor_split([min(_HELD_OUT, len(bank) // 2)])
    query = bank.gather(held_out)
    _metric()  # If it is missing, that is said before the search.
    least = _least_scores(bank, query, held_out, k, depth_weight)
    for connectivity, expansion_add in _GRAPHS:
        index = Index(
            ndim=bank.meta.dim,
            metric=_metric(),
            dtype="f32",
            connectivity=connectivity,
            expansion_add=expansion_add,
            enable_key_lookups=False,
        )
        _add(index, bank, others, progress)
        record = IndexRecord(bank.version, k, depth_weight, recall, 0.0, connectivity, 0, 0)
        record = _measure(index, bank, query, least, record)
        if record.recall >= recall:
            break
    _add(index, bank, held_out, progress)
    _save(index, bank.folder / "ann", record)
    return record


def search_index(bank: AnchorBank, query: Tensor, k: int, *, depth_weight: float = 0.0) -> Hits:
    """Search as :meth:`AnchorBank.search`, but rows may be missed: as many as the index was measured to miss.

    Searches exactly, and says why in a warning, once, if the bank has no index, or one that is damaged, of another
    version, of a lower recall than was asked for, or built for less than ``k`` or ``depth_weight``.
    """
    query = bank.check_search(query, k, depth_weight)
    record = _read(bank.folder / "ann")
    reason = record.why_not(bank, k, depth_weight) if record else "it has no index: build_index makes one"
    if record is not None and reason is None and len(query):
        index = _open(bank.folder / "ann", record, bank.meta.dim)
        if index is None:
            reason = "its index is damaged: build_index makes another"
        elif (rows := _candidates(index, bank, query, record)) is not None:
            return bank.rank(query, rows, k, depth_weight)
    if reason is not None:
        _warn_once(f"{bank.folder} is searched exactly: {reason}")
    return bank.search(query, k, depth_weight=depth_weight)


def _least_scores(bank: AnchorBank, query: Tensor, held_out: Tensor, k: int, depth_weight: float) -> Tensor:
    """Return what the k best of the rows that are not held out score at least, (N, 1)."""
    least = []
    for part in query.split(_QUERIES):
        hits = bank.search(part, min(len(bank), k + len(held_out)), depth_weight=depth_weight)
        other = ~torch.isin(hits.rows, held_out)
        least.append(hits.scores[other & (other.cumsum(1) == k)])
    return torch.cat(least)[:, None]


def _measure(index: Index, bank: AnchorBank, query: Tensor, least: Tensor, record: IndexRecord) -> IndexRecord:
    """Return the record with the smallest expansion that has the wanted recall, or else the largest."""
    k, depth_weight = record.k, record.depth_weight
    for expansion in [e for e in _EXPANSIONS if e >= k] or [2 * k]:
        # Float distances may swap rows that are nearly tied. A depth moves rows from anywhere to the front.
        candidates = min(len(index), expansion if depth_weight else min(expansion, 2 * k))
        record = replace(record, expansion=expansion, candidates=candidates, recall=0.0)
        rows = _candidates(index, bank, query, record)
        if rows is None:
            continue
        share = (bank.rank(query, rows, k, depth_weight).scores >= least).double().mean(1)
        recall = share.mean().item() - 2 * share.std(correction=0).item() / math.sqrt(len(share))
        record = replace(record, recall=recall)
        if recall >= record.wanted:
            break
    return record


def _candidates(index: Index, bank: AnchorBank, query: Tensor, record: IndexRecord) -> Tensor | None:
    """Return rows for each query (N, candidates), or None if the graph did not lead to as many."""
    index.expansion_search = record.expansion  # type: ignore[misc]  # the setter is apart from the property
    points = (query * math.sqrt(bank.meta.c)).numpy()
    matches = index.search(points, record.candidates, threads=torch.get_num_threads())
    fewest = (
        matches.counts.min() if isinstance(matches, BatchMatches) else len(matches.keys)
    )  # For one query alone there are no counts.
    if fewest < record.candidates:
        return None
    return torch.from_numpy(matches.keys.astype(np.int64)).view(len(points), -1)


def _add(index: Index, bank: AnchorBank, rows: Tensor, progress: Callable[[int], None] | None) -> None:
    """Add rows, which are in random order, because a graph that grows cluster by cluster falls apart."""
    for part in rows.split(_ROWS):
        points = bank.gather(part) * math.sqrt(bank.meta.c)
        index.add(part.numpy().astype(np.uint64), points.numpy(), threads=torch.get_num_threads())
        if progress:
            progress(len(part))


@cache
def _metric() -> CompiledMetric:
    path = Path(hyperbolic.__file__).parent / "_kernels.abi3.so"
    try:
        find = ctypes.CDLL(str(path)).hyperbolic_lorentz_metric
        find.restype = ctypes.c_void_p
        address = find()
        if not address:
            raise OSError(hyperbolic.kernels().reason)
    except (OSError, AttributeError) as error:
        raise BankError(
            f"an index needs the compiled kernels, which are not there ({error}): install hyperbolic with a C++ "
            "compiler, or search exactly with bank.search"
        ) from error
    # The kind is what the file says, and of no consequence: whoever opens it sets the metric.
    return CompiledMetric(address, MetricKind.L2sq, MetricSignature.ArrayArraySize)


def _path(folder: Path, record: IndexRecord) -> Path:
    return folder / f"{record.version}.usearch"


def _save(index: Index, folder: Path, record: IndexRecord) -> None:
    folder.mkdir(exist_ok=True)
    path = _path(folder, record)
    with replacing(path) as draft:
        index.save(draft)
        record = replace(record, checksum=record.checksum_with(draft))
    write_json(folder / "index.json", asdict(record))
    for other in folder.glob("*.usearch"):
        if other != path:
            other.unlink(missing_ok=True)  # Who has it open keeps it.


def _read(folder: Path) -> IndexRecord | None:
    """Return the record of an index that is there, if its fields are numbers."""
    try:
        record = IndexRecord(**read_json(folder / "index.json"))
    except (OSError, ValueError, TypeError):
        return None
    numbers = all(isinstance(value, int | float) for value in asdict(record).values())
    return record if numbers and _path(folder, record).exists() else None


def _open(folder: Path, record: IndexRecord, dim: int) -> Index | None:
    """Return the index, memory-mapped; None if it is not what was saved, which could crash whoever walks it."""
    path = _path(folder, record)
    try:
        return _map(path, path.stat().st_mtime_ns, record, dim)
    except (OSError, ValueError, RuntimeError):
        return None


@lru_cache(maxsize=4)
def _map(path: Path, modified: int, record: IndexRecord, dim: int) -> Index:
    """Return the index in a file, which is compared with its checksum once for each time that it was modified."""
    if record.checksum_with(path) != record.checksum:
        raise ValueError(f"{path} is damaged")
    index = Index(ndim=dim, metric=_metric(), dtype="f32", enable_key_lookups=False)
    index.view(path)
    index.metric = _metric()  # The file brings its own.
    return index


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)
