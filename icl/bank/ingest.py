"""From rows of a source to rows of a bank: embeds, lifts, and checks what comes from outside."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hyperbolic import lorentz
from icl.bank.arguments import positive
from icl.bank.build_record import BuildRecord
from icl.bank.embedding.embedder import Embedder
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.rows import read_rows
from icl.bank.schema import RESERVED, BankError, BankMetadata, arrow_schema, vector_type
from icl.bank.vector_files import vectors
from icl.common.failures import RowFailure
from icl.common.files import digest
from icl.data import VECTOR_COLUMNS, Source

# Rows that are embedded at a time; those of one commit while a bank is built, and the time between two: what a killed
# build loses at most.
_BATCH, _CHUNK, _SECONDS = 1 << 10, 1 << 16, 60.0
_STRINGS = ("id", "image", "text")


class RowIngest:
    """Turns batches into tables of one schema: that of an existing bank, or that which the first batch decides."""

    def __init__(
        self,
        embedder: Embedder | None,
        lift: HyperbolicLift | None,
        c: float,
        schema: pa.Schema | None = None,
    ):
        self.embedder, self.lift = embedder, lift
        self.c = positive("c", c if lift is None else lift.c.item())
        self.schema = schema

    def meta_of(self, schema: pa.Schema) -> BankMetadata:
        widths = {f.name: f.type.list_size for f in schema if f.name in VECTOR_COLUMNS}
        return BankMetadata(widths.pop("point"), self.c, widths, self.embedder.name if self.embedder else None)

    def tables(
        self,
        rows: Source,
        begun: BuildRecord | None,
        on_failure: Callable[[RowFailure], None] | None,
        progress: Callable[[int], None] | None,
    ) -> Iterator[pa.Table]:
        """What to commit, in large pieces. Rows that ``begun`` has committed are left out before they cost anything."""
        waiting: list[pa.Table] = []
        start, last = 0, monotonic()
        for batch in read_rows(rows, _BATCH):
            numbers = np.arange(start, start + batch.num_rows)
            start += batch.num_rows
            left = batch
            if begun is not None:
                fresh = begun.fresh(batch)
                left, numbers = batch.filter(pa.array(fresh)), numbers[fresh]
            if left.num_rows:
                waiting.append(self._table(left, numbers.tolist(), on_failure))
            if progress:
                progress(batch.num_rows)
            count = sum(t.num_rows for t in waiting)
            if begun is not None and not begun.confirmed:
                continue
            if count >= _CHUNK or (count and monotonic() - last > _SECONDS):
                yield pa.concat_tables(waiting)
                waiting, last = [], monotonic()
        if any(t.num_rows for t in waiting) and (begun is None or begun.confirmed):
            yield pa.concat_tables(waiting)

    def reread(self, rows: Source, begun: BuildRecord) -> None:
        """Refuse rows that are not those of a finished build, without embedding any."""
        for batch in read_rows(rows, _BATCH):
            begun.fresh(batch)
        begun.finish()

    def _table(
        self, batch: pa.RecordBatch, numbers: list[int], on_failure: Callable[[RowFailure], None] | None
    ) -> pa.Table:
        """The rows of the batch that can be embedded; the others go to ``on_failure``, or raise without one."""
        _check_names(batch.schema.names)
        columns = dict(zip(batch.schema.names, batch.columns))
        strings = {name: _strings(name, columns.pop(name, None), numbers) for name in _STRINGS}
        given = {name: columns.pop(name) for name in RESERVED if name in columns}
        ids = strings["id"]
        failed: dict[int, RowFailure] = {}
        embeddings = {}
        for name, items, embed in (
            ("image_embedding", strings["image"], self.embedder and self.embedder.images),
            ("text_embedding", strings["text"], self.embedder and self.embedder.texts),
        ):
            if name in given:
                embeddings[name] = torch.from_numpy(given_vectors(name, given[name]))
            elif embed and any(item is not None for item in items):
                present = [i for i, item in enumerate(items) if item is not None]
                done = embed([str(items[i]) for i in present])
                for f in done.failures:
                    failed[present[f.row]] = RowFailure(numbers[present[f.row]], f.what, f.reason)
                full = torch.full((len(items), done.embeddings.shape[1]), torch.nan)
                full[torch.tensor(present)[done.rows]] = done.embeddings
                embeddings[name] = full
        points = self._points(given, embeddings, ids)
        for i in (~points.isfinite().all(1)).nonzero().flatten().tolist():
            failed.setdefault(i, RowFailure(numbers[i], str(ids[i]), "neither a finite point nor an embedding to lift"))
        for i in sorted(failed):
            if on_failure is None:
                raise BankError(f"row {failed[i].row} ({ids[i]}): {failed[i].what}: {failed[i].reason}")
            on_failure(failed[i])
        if self.schema is None:
            widths = {name: e.shape[1] for name, e in embeddings.items()}
            extra = [pa.field(name, values.type) for name, values in columns.items()]
            self.schema = arrow_schema(points.shape[1], widths, extra)
        self._check(columns, embeddings)
        rows: dict[str, pa.Array] = {name: pa.array(values, pa.string()) for name, values in strings.items()}
        rows["digest"] = pa.array([_digest(i, t) for i, t in zip(strings["image"], strings["text"])], pa.string())
        rows["depth"] = pa.array(lorentz.dist0(points, c=self.c).numpy())
        for field in self.schema:
            if field.name in VECTOR_COLUMNS:
                values = points if field.name == "point" else embeddings.get(field.name)
                rows[field.name] = _vectors(field, values, batch.num_rows)
            elif field.name not in rows:
                rows[field.name] = _cast(field, columns.get(field.name), numbers)
        table = pa.table([rows[name] for name in self.schema.names], schema=self.schema)
        kept = [i for i in range(len(points)) if i not in failed]
        return table if not failed else table.take(pa.array(kept, pa.int64()))

    def _points(self, given: dict[str, pa.Array], embeddings: dict[str, Tensor], ids: list[str | None]) -> Tensor:
        if "point" in given:
            return torch.from_numpy(given_vectors("point", given["point"]))
        if self.lift is None:
            none = "" if embeddings else "; these have no embeddings either, for which build takes a model"
            raise BankError(
                f"rows without a point need a lift, which makes points of embeddings: give one to build{none}"
            )
        image, text = embeddings.get("image_embedding"), embeddings.get("text_embedding")
        if image is None and text is None:
            raise BankError("rows need a point, an embedding, or an embedder with an image or a text to embed")
        embedding = text if image is None else image
        assert embedding is not None
        if image is not None and text is not None and image.shape == text.shape:
            embedding = torch.where(image.isnan(), text, image)
        with torch.no_grad():
            points: Tensor = self.lift(embedding)
        return points

    def _check(self, columns: dict[str, pa.Array], embeddings: dict[str, Tensor]) -> None:
        assert self.schema is not None
        if unknown := (set(columns) | set(embeddings)) - set(self.schema.names):
            have = ", ".join(n for n in self.schema.names if n not in RESERVED)
            raise BankError(f"the bank has no column {', '.join(sorted(unknown))}: its columns are {have}")


def _check_names(names: list[str]) -> None:
    """Refuse columns that the storage cannot keep, or that are there twice."""
    if twice := {name for name in names if names.count(name) > 1}:
        raise BankError(f"columns must have different names, got twice: {', '.join(sorted(twice))}")
    for name in names:
        if not name or "." in name or "`" in name or name.startswith("_row"):
            raise BankError(f"column {name!r} needs another name: not empty, without dots, backticks or _row in front")


def _cast(field: pa.Field, values: pa.Array | None, numbers: list[int]) -> pa.Array:
    if values is None:
        return pa.nulls(len(numbers), field.type)
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


def _strings(name: str, values: pa.Array | None, numbers: list[int]) -> list[str | None]:
    if values is None:
        return [None] * len(numbers)
    if not pa.types.is_string(values.type):
        raise BankError(f"{name} must be the path of a file, got {values.type}: a bank keeps no images, it names them")
    result: list[str | None] = values.to_pylist()
    if name == "id" and None in result:
        raise BankError(f"row {numbers[result.index(None)]} has no id: give every row one, or leave the column out")
    return result


def given_vectors(name: str, values: pa.Array) -> np.ndarray:
    """A column of vectors from outside, of fixed or equal lengths, (N, width) float32, NaN where there is none."""
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        widths = {len(v) for v in values if v.is_valid}
        if len(widths) > 1:
            raise BankError(f"{name} must have vectors of one width, got {', '.join(map(str, sorted(widths)))}")
        values = values.cast(pa.list_(values.type.value_type, next(iter(widths), 1)))
    if not pa.types.is_fixed_size_list(values.type):
        raise BankError(f"{name} must be a column of vectors, got {values.type}")
    width = values.type.list_size
    try:
        numbers = values.cast(vector_type(width))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BankError(f"{name} must be a column of vectors of numbers, got {values.type}: {error}") from error
    return np.array(vectors(numbers, width))


def _vectors(field: pa.Field, values: Tensor | None, count: int) -> pa.Array:
    width = field.type.list_size
    if values is None:
        return pa.nulls(count, field.type)
    if values.shape[1] != width:
        raise BankError(
            f"{field.name} must have width {width}, got {values.shape[1]}: embed and lift as the bank's rows were"
        )
    missing = values.isnan().any(1).numpy()
    flat = pa.array(np.ascontiguousarray(values.numpy(), dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, width, mask=pa.array(missing))


def _digest(image: str | None, text: str | None) -> str | None:
    if image is not None and os.path.isfile(image):  # where Path.is_file raises for names that are too long
        return digest(Path(image).read_bytes())
    return None if text is None else digest(text)
