"""What belongs together among embedded rows: the pairs that a lift learns from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from icl.bank.embedding.lift import same_label_pairs
from icl.bank.ingest import given_vectors
from icl.bank.rows import read_rows
from icl.bank.schema import BankError
from icl.common.choices import Pairing

_BATCH = 1 << 14


class Pairs(NamedTuple):
    """The arguments of :func:`icl.bank.embedding.lift.fit`."""

    embeddings: Tensor
    pairs: Tensor
    groups: Tensor | None


def load_pairs(source: Path, pairing: Pairing, seed: int = 0, label: str = "label") -> Pairs:
    """Embeddings of a bank, or of a file with columns ``image_embedding`` and ``text_embedding``, and their pairs.

    "text": a row's image and its text. "label": rows with the same value in the column ``label``, of lists the most
    frequent one, by their image embeddings where there are any. "parent": a row and the one whose ``id`` is its
    ``parent``.
    """
    rows = pa.Table.from_batches(list(read_rows(source, _BATCH)))
    embeddings = {}
    for name in ("image_embedding", "text_embedding"):
        if name in rows.schema.names:
            embeddings[name] = torch.from_numpy(given_vectors(name, rows.column(name).combine_chunks()))
    if not embeddings:
        raise BankError(f"{source} has neither image_embedding nor text_embedding")
    if pairing == "text":
        if len(embeddings) < 2:
            raise BankError(f"{source} has {next(iter(embeddings))} only, and nothing to pair it with")
        image, text = embeddings["image_embedding"], embeddings["text_embedding"]
        if image.shape != text.shape:
            raise BankError(f"image and text embeddings must have one width, got {image.shape[1]} and {text.shape[1]}")
        both = (~(image.isnan() | text.isnan()).any(1)).nonzero().flatten()
        return Pairs(torch.cat([image, text]), torch.stack([both, both + len(image)], 1), None)
    embedding = next(iter(embeddings.values()))
    rows = rows.filter(pa.array(~embedding.isnan().any(1).numpy()))
    embedding = embedding[~embedding.isnan().any(1)]
    if pairing == "label":
        values = _column(source, rows, label)
        # a row without a label is like no other
        labels = [(i,) if value is None else value for i, value in enumerate(map(_most_frequent, values))]
        names = {name: i for i, name in enumerate(dict.fromkeys(labels))}
        return Pairs(embedding, same_label_pairs(labels, seed), torch.tensor([names[name] for name in labels]))
    place = {name: i for i, name in enumerate(_column(source, rows, "id"))}
    parents = _column(source, rows, "parent")
    known = [(i, place[parent]) for i, parent in enumerate(parents) if place.get(parent, i) != i]
    siblings = torch.tensor([place.get(parent, -1 - i) for i, parent in enumerate(parents)])
    return Pairs(embedding, torch.tensor(known, dtype=torch.int64).reshape(-1, 2), siblings)


def _column(source: Path, rows: pa.Table, name: str) -> list[Any]:
    if name not in rows.schema.names:
        raise BankError(f"{source} has no column {name} to pair by")
    return list(rows.column(name).to_pylist())


def _most_frequent(value: Any) -> Any:
    """Of a list, as ``answers`` are, the item that it has most often; another value as it is."""
    if not isinstance(value, list):
        return value
    return Counter(value).most_common(1)[0][0] if value else None
