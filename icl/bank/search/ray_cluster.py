"""Banks past one machine: built and searched by Ray, with the rows and the answers of one machine.

Rows go in blocks to workers, which embed, lift and write them as fragments of the bank; nothing is visible until one
transaction puts all fragments in the order of the rows. A worker that dies loses its block, which another does again;
what it had written belongs to no version. All machines see the bank's folder.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
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


class _FragmentWriter:
    """A worker that turns blocks of rows into fragments on disk, and reports each in a row of JSON."""

    def __init__(
        self,
        uri: str,
        embedder: Callable[[], Embedder] | None,
        lift: HyperbolicLift | None,
        c: float,
        schema: pa.Schema | None,
    ):
        self.uri, self.schema = uri, schema
        self.options = embedder() if embedder else None, lift, c

    def decide_schema(self, first: pa.Table) -> tuple[pa.Schema, str | None]:
        """Return the schema of the bank, and the name of the embedder."""
        ingest = RowIngest(*self.options)
        for _ in ingest.tables(first, on_failure=lambda failure: None):
            break
        assert ingest.schema is not None
        return ingest.schema, ingest.embedder.name if ingest.embedder else None

    def __call__(self, block: pa.Table) -> pa.Table:
        """Write a block, and return the report: its ids, fragments and failures, or an error."""
        failures: list[RowFailure] = []
        report: dict[str, Any] = {"rows": block.num_rows, "ids": [], "fragments": [], "error": None}
        try:
            tables = list(RowIngest(*self.options, self.schema).tables(block, on_failure=failures.append))
            if tables:
                table = pa.concat_tables(tables)
                fragments = lance.fragment.write_fragments(table, self.uri, schema=self.schema, mode="create")
                report["ids"] = table.column("id").to_pylist()
                report["fragments"] = [fragment.to_json() for fragment in fragments]
        except BankError as error:
            # It is not raised, because it would be raised again in another worker.
            report["error"] = str(error)
        report["failures"] = [asdict(failure) for failure in failures]
        return pa.table({"report": [json.dumps(report)]})


@dataclass(frozen=True)
class RayWorkers:
    """The processes of Ray that build a bank."""

    count: int = 1
    gpus: float = 0.0
    """GPUs of each, or a share of one."""
    block_rows: int = 1 << 16
    """Rows of a fragment where the calling process reads them: what a worker that dies loses at most."""


def build_bank(
    folder: str | Path,
    rows: Source | ray.data.Dataset,
    *,
    embedder: Callable[[], Embedder] | None = None,
    lift: HyperbolicLift | None = None,
    c: float = 1.0,
    workers: RayWorkers | None = None,
    on_failure: Callable[[RowFailure], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> AnchorBank:
    """Make the bank that :meth:`AnchorBank.build` makes of the same rows, by processes of Ray.

    The arguments are those of ``AnchorBank.build`` but for three. ``rows`` are read by this process, or are a dataset
    of Ray, whose blocks never come here and whose rows need an ``id``. ``embedder`` makes the embedder of a worker,
    such as ``partial(Embedder, "openai/clip-vit-base-patch32")``. ``workers`` are one without a GPU by default. A
    build that was cut short starts from the beginning when it is run again.
    """
    folder, workers = lance_rows.prepare_folder(folder), workers or RayWorkers()
    uri = folder / ROWS_FOLDER
    with lance_rows.writing(folder):
        if (folder / METADATA_FILE).exists() or (lance_rows.has_commits(folder) and not (folder / BUILD_FILE).exists()):
            raise BankError(f"there is a bank at {folder}: append to it, or build into another folder")
        for path in (uri, folder / "vectors"):
            shutil.rmtree(path, ignore_errors=True)
        (folder / BUILD_FILE).unlink(missing_ok=True)
        uri.mkdir()  # A folder that has it, and no metadata, is an unfinished build.
        dataset = rows if isinstance(rows, ray.data.Dataset) else _read_blocks(rows, workers.block_rows)
        first = _read_table(dataset.limit(_FIRST)) if dataset else None
        if dataset is None or first is None:
            shutil.rmtree(folder)
            raise BankError(f"nothing to build {folder} from: there are no rows")
        if "id" not in first.schema.names:
            raise BankError("rows of a dataset of Ray need an id, which tells them apart in every worker")
        writer = str(uri), embedder, lift, c
        decide: Any = ray.remote(lambda table: _FragmentWriter(*writer, None).decide_schema(table))
        try:
            schema, name = ray.get(decide.options(num_gpus=workers.gpus).remote(first))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, BankError):
                raise error.cause from None
            raise
        dataset.context.execution_options.preserve_order = True
        reports = dataset.map_batches(
            _FragmentWriter,
            fn_constructor_args=(*writer, schema),
            compute=ray.data.ActorPoolStrategy(size=workers.count),
            num_gpus=workers.gpus or None,
            batch_size=None,
            batch_format="pyarrow",
        )
        ids, fragments = _collect(reports, on_failure, progress)
        if not fragments:
            shutil.rmtree(folder)
            raise BankError(f"nothing to build {folder} from: no row could be read and embedded")
        lance_rows.refuse_duplicates(ids, pa.array([], pa.string()))
        committed = lance.LanceDataset.commit(str(uri), lance.LanceOperation.Overwrite(schema, fragments))
        if lift is not None:
            lift.save(folder / "lift")
        meta = replace(RowIngest(None, lift, c, schema).metadata(schema), embedder=name)
        meta.write(folder)  # Last, because a folder that has it is a whole bank.
    return AnchorBank(folder, meta, committed)


def _read_blocks(rows: Source, block_rows: int) -> ray.data.Dataset | None:
    """Read and number rows here, as on one machine; Ray keeps them until they are written."""
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


def _read_table(dataset: ray.data.Dataset) -> pa.Table | None:
    tables = [table for table in ray.get(dataset.to_arrow_refs()) if table.num_rows]
    return pa.concat_tables(tables).combine_chunks() if tables else None


def _collect(
    reports: ray.data.Dataset, on_failure: Callable[[RowFailure], None] | None, progress: Callable[[int], None] | None
) -> tuple[pa.ChunkedArray, list[lance.FragmentMetadata]]:
    """Return the ids and fragments of all blocks, in the order of the rows."""
    ids, fragments, start = [], [], 0
    batches: Iterable[Any] = reports.iter_batches(batch_size=None, batch_format="pyarrow")
    for report in (json.loads(text) for batch in batches for text in batch.column("report").to_pylist()):
        if report["error"]:
            raise BankError(report["error"])
        for failure in report["failures"]:
            failure["row"] += start
            if on_failure is None:
                raise BankError("row {row}: {what}: {reason}".format(**failure))
            on_failure(RowFailure(**failure))
        ids.append(pa.array(report["ids"], pa.string()))
        fragments += [lance.FragmentMetadata.from_json(json.dumps(fragment)) for fragment in report["fragments"]]
        start += report["rows"]
        if progress:
            progress(report["rows"])
    return pa.chunked_array(ids, pa.string()), fragments


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
        # Cuts share the rows out evenly, as far as fragments allow.
        cuts = np.unique([0, *np.searchsorted(rows, np.arange(1, shards) * rows[-1] / shards), len(rows) - 1])
        actor: Any = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(_BankShard)
        self.shards = [
            actor.remote(bank.folder, bank.version, slice(int(begin), int(end)), int(rows[begin]))
            for begin, end in itertools.pairwise(cuts)
        ]

    def search(self, query: Tensor, k: int, *, depth_weight: float = 0.0) -> Hits:
        """Search as :meth:`AnchorBank.search`: every shard's best are merged by the same exact ranking."""
        query = self.bank.check_search(query, k, depth_weight)
        shared = ray.put(query)
        rows = ray.get([shard.best_rows.remote(shared, k, depth_weight) for shard in self.shards])
        return self.bank.rank(query, torch.cat(rows, 1), k, depth_weight)


class _BankShard:
    """Some fragments of a version, in the process of an actor."""

    def __init__(self, folder: Path, version: int, fragments: slice, first_row: int):
        bank = AnchorBank.open(folder, version)
        self.first_row, self.c = first_row, bank.meta.c
        with lance_rows.reading(folder, version):
            inside = bank.dataset.get_fragments()[fragments]
            self.points = vector_files.map_vectors(folder / "vectors", inside, "point", bank.meta.dim, set())

    def best_rows(self, query: Tensor, k: int, depth_weight: float) -> Tensor:
        """Return the numbers of the best rows of each fragment, in the whole bank."""
        rows, start = [torch.empty(len(query), 0, dtype=torch.int64)], self.first_row
        for part in self.points:
            best = pairwise.nearest(query, part, min(k, len(part)), c=self.c, depth_weight=depth_weight)
            rows.append(best.indices + start)
            start += len(part)
        return torch.cat(rows, 1)
