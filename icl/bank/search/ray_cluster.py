"""Banks past one machine: built and searched by Ray, with the rows and the answers of one machine.

Rows go in blocks to workers, which embed, lift and write them as fragments of the bank; nothing is visible until one
transaction puts all fragments in the order of the rows. A worker that dies loses its block, which another does again;
what it had written belongs to no version. All machines see the bank's folder.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import ray
import torch
from torch import Tensor

from hyperbolic import pairwise
from icl.bank import lance_rows, vector_files
from icl.bank.anchor_bank import AnchorBank, Hits
from icl.bank.embedding.embedder import Embedder
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.ingest import RowIngest
from icl.bank.schema import BUILD_FILE, METADATA_FILE, ROWS_FOLDER, BankError
from icl.common.failures import RowFailure
from icl.data import Source, read_batches

# The rows whose columns decide those of the bank: as many as one machine reads at first.
_FIRST = 1 << 10

_REPORT = pa.schema(
    [
        ("rows", pa.int64()),
        ("ids", pa.list_(pa.string())),
        ("fragments", pa.list_(pa.string())),
        ("failures", pa.string()),
        ("error", pa.string()),
    ]
)


class _Writer:
    """One worker: turns blocks of rows into fragments on disk, and says what it did, one row a block."""

    def __init__(
        self,
        uri: str,
        embedder: Callable[[], Embedder] | None,
        lift: HyperbolicLift | None,
        c: float,
        schema: pa.Schema | None,
    ):
        self.uri, self.lift, self.c, self.schema = uri, lift, c, schema
        self.embedder = embedder() if embedder else None

    def decide(self, first: pa.Table) -> tuple[pa.Schema, str | None]:
        """The schema of the bank, and the name of the embedder."""
        ingest = RowIngest(self.embedder, self.lift, self.c)
        for _ in ingest.tables(first, None, lambda failure: None, None):
            break
        assert ingest.schema is not None
        return ingest.schema, self.embedder.name if self.embedder else None

    def __call__(self, block: pa.Table) -> pa.Table:
        failures: list[RowFailure] = []
        fragments, error, ids = [], None, pa.array([], pa.string())
        try:
            ingest = RowIngest(self.embedder, self.lift, self.c, self.schema)
            tables = list(ingest.tables(block, None, failures.append, None))
            if tables:
                table = pa.concat_tables(tables)
                ids = table.column("id").combine_chunks()
                fragments = lance.fragment.write_fragments(table, self.uri, schema=self.schema, mode="create")
        except BankError as wrong:
            # not raised: it would be wrong again in another worker
            error = str(wrong)
        report = {
            "rows": [block.num_rows],
            "ids": pa.ListArray.from_arrays([0, len(ids)], ids),
            "fragments": [[json.dumps(fragment.to_json()) for fragment in fragments]],
            "failures": [json.dumps([asdict(failure) for failure in failures])],
            "error": [error],
        }
        return pa.table(report, schema=_REPORT)


def build(
    folder: str | Path,
    rows: Source | ray.data.Dataset,
    *,
    embedder: Callable[[], Embedder] | None = None,
    lift: HyperbolicLift | None = None,
    c: float = 1.0,
    workers: int = 1,
    gpus_per_worker: float = 0.0,
    block_rows: int = 1 << 16,
    on_failure: Callable[[RowFailure], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> AnchorBank:
    """Makes the bank that :meth:`AnchorBank.build` makes of the same rows, by ``workers`` processes of Ray.

    Args:
        rows: what ``AnchorBank.build`` takes, read by this process; or a dataset of Ray, whose blocks never come here
            and whose rows need an ``id``.
        embedder: makes the embedder of a worker, such as ``partial(Embedder, "openai/clip-vit-base-patch32")``.
        block_rows: what a worker that dies loses at most, and the rows of a fragment, when this process reads.

    A build that was cut short starts from the beginning when it is run again.
    """
    folder = lance_rows.to_build(folder)
    uri = folder / ROWS_FOLDER
    with lance_rows.writing(folder):
        if (folder / METADATA_FILE).exists() or (lance_rows.has_rows(folder) and not (folder / BUILD_FILE).exists()):
            raise BankError(f"there is a bank at {folder}: append to it, or build into another folder")
        for path in (uri, folder / "vectors"):
            shutil.rmtree(path, ignore_errors=True)
        (folder / BUILD_FILE).unlink(missing_ok=True)
        uri.mkdir()  # from here on, what is there is an unfinished build
        dataset = rows if isinstance(rows, ray.data.Dataset) else _in_blocks(rows, block_rows)
        first = _table(dataset.limit(_FIRST)) if dataset else None
        if dataset is None or first is None:
            shutil.rmtree(folder)
            raise BankError(f"nothing to build {folder} from: there are no rows")
        if "id" not in first.schema.names:
            raise BankError("rows of a dataset of Ray need an id, which tells them apart in every worker")
        writer = str(uri), embedder, lift, c
        decide: Any = ray.remote(lambda table: _Writer(*writer, None).decide(table))
        schema, name = _unwrapped(decide.options(num_gpus=gpus_per_worker).remote(first))
        dataset.context.execution_options.preserve_order = True
        reports = dataset.map_batches(
            _Writer,
            fn_constructor_args=(*writer, schema),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=gpus_per_worker or None,
            batch_size=None,
            batch_format="pyarrow",
        )
        ids, fragments = _collected(reports, on_failure, progress)
        if not fragments:
            shutil.rmtree(folder)
            raise BankError(f"nothing to build {folder} from: no row could be read and embedded")
        lance_rows.refuse_duplicates(pa.table({"id": ids}), pa.array([], pa.string()))
        operation = lance.LanceOperation.Overwrite(schema, fragments)
        written = lance.LanceDataset.commit(str(uri), operation)
        if lift is not None:
            lift.save(folder / "lift")
        meta = replace(RowIngest(None, lift, c, schema).meta_of(schema), embedder=name)
        meta.write(folder)  # last: what has it is whole
    return AnchorBank(folder, meta, written)


def _in_blocks(rows: Source, block_rows: int) -> ray.data.Dataset | None:
    """Read and numbered here, as on one machine, and kept by Ray until they are written."""
    blocks: list[Any] = []
    waiting: list[pa.RecordBatch] = []
    for batch in read_batches(rows, min(block_rows, _FIRST)):
        waiting.append(batch)
        if sum(b.num_rows for b in waiting) >= block_rows:
            blocks.append(ray.put(pa.Table.from_batches(waiting)))
            waiting = []
    if waiting:
        blocks.append(ray.put(pa.Table.from_batches(waiting)))
    return ray.data.from_arrow_refs(blocks) if blocks else None


def _table(dataset: ray.data.Dataset) -> pa.Table | None:
    tables = [table for table in ray.get(dataset.to_arrow_refs()) if table.num_rows]
    return pa.concat_tables(tables).combine_chunks() if tables else None


def _unwrapped(result: Any) -> Any:
    try:
        return ray.get(result)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BankError):
            raise error.cause from None
        raise


def _collected(
    reports: ray.data.Dataset, on_failure: Callable[[RowFailure], None] | None, progress: Callable[[int], None] | None
) -> tuple[pa.ChunkedArray, list[lance.FragmentMetadata]]:
    """The ids and fragments of all blocks, in the order of the rows."""
    ids, fragments, start = [], [], 0
    for report in _each(reports):
        if report["error"]:
            raise BankError(report["error"])
        for failure in json.loads(report["failures"]):
            failure["row"] += start
            if on_failure is None:
                raise BankError("row {row}: {what}: {reason}".format(**failure))
            on_failure(RowFailure(**failure))
        ids.append(pa.array(report["ids"], pa.string()))
        fragments += [lance.FragmentMetadata.from_json(text) for text in report["fragments"]]
        start += report["rows"]
        if progress:
            progress(report["rows"])
    return pa.chunked_array(ids, pa.string()), fragments


def _each(reports: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    tables: Iterable[Any] = reports.iter_batches(batch_size=None, batch_format="pyarrow")
    for table in tables:
        yield from table.to_pylist()


class ShardedBank:
    """A bank whose fragments are shared out among actors of Ray. It answers as the bank does.

    An actor that dies starts again, on another machine if need be, maps its fragments and answers the search that it
    missed.
    """

    def __init__(self, bank: AnchorBank, shards: int):
        if shards < 1:
            raise ValueError(f"ShardedBank: shards must be at least 1, got {shards}")
        self.bank = bank
        rows = np.cumsum([0, *(fragment.count_rows() for fragment in bank.dataset.get_fragments())])
        # cut where the rows are shared out evenly, as far as fragments allow
        cuts = np.unique([0, *np.searchsorted(rows, np.arange(1, shards) * rows[-1] / shards), len(rows) - 1])
        actor: Any = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(_Shard)
        self.shards = [
            actor.remote(bank.folder, bank.version, int(begin), int(end), int(rows[begin]))
            for begin, end in itertools.pairwise(cuts)
        ]

    def search(self, query: Tensor, k: int, *, depth_weight: float = 0.0) -> Hits:
        """As :meth:`AnchorBank.search`: every shard's best are merged by the same exact ranking."""
        query = self.bank.checked(query, k, depth_weight)
        shared = ray.put(query)
        found = ray.get([shard.best.remote(shared, k, depth_weight) for shard in self.shards])
        return self.bank.rank(query, torch.cat(found, 1), k, depth_weight)


class _Shard:
    """Fragments of a version, in the process of an actor."""

    def __init__(self, folder: Path, version: int, begin: int, end: int, first: int):
        bank = AnchorBank.open(folder, version)
        self.first, self.c = first, bank.meta.c
        with lance_rows.reading(folder, version):
            fragments = bank.dataset.get_fragments()[begin:end]
            self.points = vector_files.mapped(folder / "vectors", fragments, "point", bank.meta.dim, set())

    def best(self, query: Tensor, k: int, depth_weight: float) -> Tensor:
        """The numbers of the best rows of each fragment, in the whole bank."""
        rows, start = [torch.empty(len(query), 0, dtype=torch.int64)], self.first
        for part in self.points:
            most = min(k, len(part))
            best = pairwise.nearest(query, part, most, c=self.c, depth_weight=depth_weight)
            rows.append(best.indices + start)
            start += len(part)
        return torch.cat(rows, 1)
