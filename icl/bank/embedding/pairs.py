"""The pairs of embedded rows that a lift learns from: image and text, rows of one label, row and parent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from icl.bank.embedding.lift_fitting import same_label_pairs
from icl.bank.ingest import read_rows, vectors_from_outside
from icl.bank.schema import BankError
from icl.common.choices import Pairing

_BATCH = 1 << 14


class EmbeddingPairs(NamedTuple):
    """The arguments of :func:`icl.bank.fit_lift`: embeddings (N, width), pairs (P, 2), and groups (N,)."""

    embeddings: Tensor
    pairs: Tensor
    groups: Tensor | None


def load_pairs(source: Path, pairing: Pairing, seed: int = 0, label: str = "label") -> EmbeddingPairs:
    """Return embeddings and their pairs from a bank, or a file with ``image_embedding`` or ``text_embedding``.

    Args:
        source: the bank or the file.
        pairing: "text", a row's image and its text; "label", rows with the same value in the column ``label``, of lists
            the most frequent item; "parent", a row and the one whose ``id`` is its ``parent``. The last two compare
            image embeddings where there are any.
        seed: of the pairs of rows of one label.
        label: the column of labels.
    """
    rows = pa.Table.from_batches(list(read_rows(source, _BATCH)))
    embeddings = {
        name: torch.from_numpy(vectors_from_outside(name, rows.column(name).combine_chunks()))
        for name in ("image_embedding", "text_embedding")
        if name in rows.schema.names
    }
    if not embeddings:
        raise BankError(f"{source} has neither image_embedding nor text_embedding")
    if pairing == "text":
        if len(embeddings) < 2:
            raise BankError(f"{source} has {next(iter(embeddings))} only, and nothing to pair it with")
        image, text = embeddings.values()
        if image.shape != text.shape:
            raise BankError(f"image and text embeddings must have one width, got {image.shape[1]} and {text.shape[1]}")
        both = (~(image.isnan() | text.isnan()).any(1)).nonzero().flatten()
        return EmbeddingPairs(torch.cat([image, text]), torch.stack([both, both + len(image)], 1), None)
    embedding = next(iter(embeddings.values()))
    present = ~embedding.isnan().any(1)
    rows, embedding = rows.filter(pa.array(present.numpy())), embedding[present]
    if pairing == "label":
        values = map(_most_frequent, _read_column(source, rows, label))
        # A row without a label is like no other.
        labels = [(i,) if value is None else value for i, value in enumerate(values)]
        numbers = {name: i for i, name in enumerate(dict.fromkeys(labels))}
        groups = torch.tensor([numbers[name] for name in labels])
        return EmbeddingPairs(embedding, same_label_pairs(labels, seed), groups)
    places = {name: i for i, name in enumerate(_read_column(source, rows, "id"))}
    parents = _read_column(source, rows, "parent")
    edges = [(i, places[parent]) for i, parent in enumerate(parents) if places.get(parent, i) != i]
    siblings = torch.tensor([places.get(parent, -1 - i) for i, parent in enumerate(parents)])
    return EmbeddingPairs(embedding, torch.tensor(edges, dtype=torch.int64).reshape(-1, 2), siblings)


def _read_column(source: Path, rows: pa.Table, name: str) -> list[Any]:
    if name not in rows.schema.names:
        raise BankError(f"{source} has no column {name} to pair by")
    return list(rows.column(name).to_pylist())


def _most_frequent(value: Any) -> Any:
    """Return the item that a list, as ``answers`` are, has most often; another value as it is."""
    if not isinstance(value, list):
        return value
    return Counter(value).most_common(1)[0][0] if value else None
