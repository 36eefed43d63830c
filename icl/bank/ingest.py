"""From the rows of a source to rows of a bank: embedded, lifted, and checked.

:func:`read_rows` reads a source, :class:`RowIngest` turns its batches into tables of one schema. A row that cannot be
used is reported with its number and its reason; a column that cannot be used stops the whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hyperbolic import lorentz
from icl.bank.arguments import finite_number
from icl.bank.build_record import BuildRecord
from icl.bank.embedding.embedder import Embedder, EmbeddingBatch
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.schema import METADATA_FILE, RESERVED, BankError, BankMetadata, arrow_schema, vector_type
from icl.bank.vector_files import vector_array
from icl.common.failures import RowFailure
from icl.common.files import digest
from icl.data import VECTOR_COLUMNS, Source, read_batches

# Rows that are embedded at a time; those of one commit while a bank is built, and the time between two: what a killed
# build loses at most.
_BATCH, _CHUNK, _SECONDS = 1 << 10, 1 << 16, 60.0
_TEXT_COLUMNS = ("id", "image", "text")


def read_rows(source: Source, batch_size: int) -> Iterator[pa.RecordBatch]:
    """Read rows as :func:`icl.data.read_batches`; those of a bank come without their points, to be lifted again."""
    if not (isinstance(source, str | Path) and (Path(source) / METADATA_FILE).exists()):
        yield from read_batches(source, batch_size)
        return
    from icl.bank.lance_rows import open_bank  # Slow to import, and needed here alone.

    _, rows = open_bank(Path(source))
    names = [name for name in rows.schema.names if name not in ("point", "depth", "digest")]
    yield from rows.to_batches(columns=names, batch_size=batch_size)


class RowIngest:
    """Turns batches into tables of one schema: that of an existing bank, or that which the first batch decides."""

    def __init__(
        self, embedder: Embedder | None, lift: HyperbolicLift | None, c: float, schema: pa.Schema | None = None
    ):
        self.embedder, self.lift, self.schema = embedder, lift, schema
        self.c = finite_number("c", c if lift is None else lift.c.item(), positive=True)

    def metadata(self, schema: pa.Schema) -> BankMetadata:
        """Return the metadata of a bank of such rows."""
        widths = {f.name: f.type.list_size for f in schema if f.name in VECTOR_COLUMNS}
        return BankMetadata(widths.pop("point"), self.c, widths, self.embedder.name if self.embedder else None)

    def tables(
        self,
        rows: Source,
        record: BuildRecord | None = None,
        on_failure: Callable[[RowFailure], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield tables to commit, large ones. Rows that ``record`` has are left out before they cost anything."""
        waiting: list[pa.Table] = []
        start, last_commit = 0, monotonic()
        for batch in read_rows(rows, _BATCH):
            numbers = np.arange(start, start + batch.num_rows)
            missing = np.full(batch.num_rows, True) if record is None else record.add(batch)
            if missing.any():
                waiting.append(self._table(batch.filter(pa.array(missing)), numbers[missing].tolist(), on_failure))
            start += batch.num_rows
            if progress:
                progress(batch.num_rows)
            count = sum(table.num_rows for table in waiting)
            full = count >= _CHUNK or (count and monotonic() - last_commit > _SECONDS)
            if full and (record is None or record.confirmed):
                yield pa.concat_tables(waiting)
                waiting, last_commit = [], monotonic()
        if any(table.num_rows for table in waiting) and (record is None or record.confirmed):
            yield pa.concat_tables(waiting)

    def reread(self, rows: Source, record: BuildRecord) -> None:
        """Refuse rows that are not those of a finished build, without embedding any."""
        for batch in read_rows(rows, _BATCH):
            record.add(batch)
        record.finish()

    def _table(
        self, batch: pa.RecordBatch, numbers: list[int], on_failure: Callable[[RowFailure], None] | None
    ) -> pa.Table:
        """Return the rows that can be embedded; the others go to ``on_failure``, or raise without one."""
        _check_names(batch.schema.names)
        columns = dict(zip(batch.schema.names, batch.columns))
        texts = {name: _text_column(name, columns.pop(name, None), numbers) for name in _TEXT_COLUMNS}
        vectors = {
            name: torch.from_numpy(vectors_from_outside(name, columns[name]))
            for name in VECTOR_COLUMNS
            if name in columns
        }
        columns = {name: values for name, values in columns.items() if name not in RESERVED}
        failures: dict[int, RowFailure] = {}
        if self.embedder is not None:
            for kind, embed in (("image", self.embedder.images), ("text", self.embedder.texts)):
                if f"{kind}_embedding" not in vectors and any(item is not None for item in texts[kind]):
                    vectors[f"{kind}_embedding"], rejected = _embed(texts[kind], numbers, embed)
                    failures |= rejected
        points = vectors["point"] = vectors["point"] if "point" in vectors else self._lift(vectors)
        for i in (~points.isfinite().all(1)).nonzero().flatten().tolist():
            reason = "neither a finite point nor an embedding to lift"
            failures.setdefault(i, RowFailure(numbers[i], str(texts["id"][i]), reason))
        for i, failure in sorted(failures.items()):
            if on_failure is None:
                raise BankError(f"row {failure.row} ({texts['id'][i]}): {failure.what}: {failure.reason}")
            on_failure(failure)
        if self.schema is None:
            widths = {name: v.shape[1] for name, v in vectors.items() if name != "point"}
            extra = [pa.field(name, values.type) for name, values in columns.items()]
            self.schema = arrow_schema(points.shape[1], widths, extra)
        if unknown := (set(columns) | set(vectors)) - set(self.schema.names):
            names = ", ".join(n for n in self.schema.names if n not in RESERVED)
            raise BankError(f"the bank has no column {', '.join(sorted(unknown))}: its columns are {names}")
        columns |= {name: pa.array(values, pa.string()) for name, values in texts.items()}
        columns["digest"] = pa.array([*map(_digest, texts["image"], texts["text"])], pa.string())
        columns["depth"] = pa.array(lorentz.dist0(points, c=self.c).numpy())
        for field in self.schema:
            if field.name in vectors:
                columns[field.name] = _vector_column(field, vectors[field.name])
            elif field.name in columns:
                columns[field.name] = _cast(field, columns[field.name], numbers)
            else:
                columns[field.name] = pa.nulls(len(numbers), field.type)
        table = pa.table([columns[name] for name in self.schema.names], schema=self.schema)
        usable = [i for i in range(len(numbers)) if i not in failures]
        return table.take(pa.array(usable, pa.int64())) if failures else table

    def _lift(self, vectors: dict[str, Tensor]) -> Tensor:
        """Return the points of rows that bring none."""
        image, text = vectors.get("image_embedding"), vectors.get("text_embedding")
        if self.lift is None:
            more = "" if vectors else "; these have no embeddings either, for which build takes a model"
            raise BankError(
                f"rows without a point need a lift, which makes points of embeddings: give one to build{more}"
            )
        if image is not None and text is not None and image.shape == text.shape:
            image = torch.where(image.isnan(), text, image)
        embedding = text if image is None else image
        if embedding is None:
            raise BankError("rows need a point, an embedding, or an embedder with an image or a text to embed")
        with torch.no_grad():
            points: Tensor = self.lift(embedding)
        return points


def _embed(
    items: list[str | None], numbers: list[int], embed: Callable[[Sequence[str]], EmbeddingBatch]
) -> tuple[Tensor, dict[int, RowFailure]]:
    """Return embeddings (items, width), NaN for items that are None or fail, and the failures by item."""
    present = [i for i, item in enumerate(items) if item is not None]
    batch = embed([str(items[i]) for i in present])
    embeddings = torch.full((len(items), batch.embeddings.shape[1]), torch.nan)
    embeddings[torch.tensor(present)[batch.rows]] = batch.embeddings
    failures = {present[f.row]: RowFailure(numbers[present[f.row]], f.what, f.reason) for f in batch.failures}
    return embeddings, failures


def _check_names(names: Sequence[str]) -> None:
    """Refuse columns that Lance cannot keep, or that are there twice."""
    if twice := {name for name in names if names.count(name) > 1}:
        raise BankError(f"columns must have different names, got twice: {', '.join(sorted(twice))}")
    for name in names:
        if not name or "." in name or "`" in name or name.startswith("_row"):
            raise BankError(f"column {name!r} needs another name: not empty, without dots, backticks or _row in front")


def _text_column(name: str, values: pa.Array | None, numbers: list[int]) -> list[str | None]:
    if values is None:
        return [None] * len(numbers)
    if not pa.types.is_string(values.type):
        raise BankError(f"{name} must be the path of a file, got {values.type}: a bank keeps no images, it names them")
    texts: list[str | None] = values.to_pylist()
    if name == "id" and None in texts:
        raise BankError(f"row {numbers[texts.index(None)]} has no id: give every row one, or leave the column out")
    return texts


def _cast(field: pa.Field, values: pa.Array, numbers: list[int]) -> pa.Array:
    """Return the values in the type of the bank. ``BankError`` names the first row that does not fit."""
    try:
        return values.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        row = next((n for n, value in zip(numbers, values) if not _fits(value, field.type)), numbers[0])
        raise BankError(f"row {row}: column {field.name} must be {field.type}, got {values.type}: {error}") from error


def _fits(value: pa.Scalar, kind: pa.DataType) -> bool:
    try:
        value.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def vectors_from_outside(name: str, values: pa.Array) -> np.ndarray:
    """Return a column of vectors of fixed or equal lengths as (N, width) float32, NaN where there is none."""
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        widths = {len(v) for v in values if v.is_valid}
        if len(widths) > 1:
            raise BankError(f"{name} must have vectors of one width, got {', '.join(map(str, sorted(widths)))}")
        values = values.cast(pa.list_(values.type.value_type, next(iter(widths), 1)))
    if not pa.types.is_fixed_size_list(values.type):
        raise BankError(f"{name} must be a column of vectors, got {values.type}")
    try:
        return np.array(vector_array(values.cast(vector_type(values.type.list_size))))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BankError(f"{name} must be a column of vectors of numbers, got {values.type}: {error}") from error


def _vector_column(field: pa.Field, vectors: Tensor) -> pa.Array:
    width = field.type.list_size
    if vectors.shape[1] != width:
        raise BankError(
            f"{field.name} must have width {width}, got {vectors.shape[1]}: embed and lift as the bank's rows were"
        )
    missing = vectors.isnan().any(1).numpy()
    flat = pa.array(np.ascontiguousarray(vectors.numpy(), dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, width, mask=pa.array(missing))


def _digest(image: str | None, text: str | None) -> str | None:
    if image is not None and os.path.isfile(image):  # Path.is_file raises for names that are too long.
        return digest(Path(image).read_bytes())
    return None if text is None else digest(text)
