"""A part of a dataset to train on or to be tested by: rows of a file, or a split of a named source such as the testbed.

A :class:`Split` makes examples of its rows, with demonstrations before each, and says what tells it from other data.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from icl.bank import DemonstratedRecords
from icl.common.choices import Strategy
from icl.common.files import digest, digest_file
from icl.common.sources import find_source
from icl.data import Examples, Records, refuse_overlap
from icl.training.settings import DemonstrationSettings

if TYPE_CHECKING:
    from icl.bank import AnchorBank, Queries

SHOTS = 8
"""Demonstrations where their number is not told, Hyper-ICL's for Idefics2."""


def open_split(name: str, split: str, demonstrations: DemonstrationSettings) -> Split:
    """Open a path for :class:`icl.data.Records`, or a task of a named source: "testbed:options".

    Of a task ``split`` is taken, unless another is named: "testbed:options/dev".
    """
    if ":" in name and (named := find_source(name)) is not None:
        source, rest = named
        return cast("Split", source.open_split(rest, split))
    return FileSplit(name, demonstrations)


class Split(ABC):
    """Rows of a dataset, and the examples that are made of them."""

    @abstractmethod
    def examples(self, shots: int | None, strategy: Strategy = "random", seed: int = 0) -> Examples:
        """Return examples with so many demonstrations for the teacher, or as many as is usual."""

    @abstractmethod
    def digest(self, seed: int) -> str:
        """Return what tells this set from others: all of each row, the content of its images included."""

    @abstractmethod
    def depends_on_seed(self, shots: int, strategy: Strategy) -> bool:
        """Return whether the seed decides anything."""

    @abstractmethod
    def references(self, seed: int) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield where each row is, for messages, and all answers that count as right."""

    @abstractmethod
    def settings(self, shots: int) -> dict[str, str]:
        """Return by name what decides the prompts of every seed."""

    @abstractmethod
    def refuse_overlap(self) -> None:
        """Raise ``ValueError`` if rows of this set are among those that are shown before its queries."""


class FileSplit(Split):
    """The rows of a file or folder (:class:`icl.data.Records`), with demonstrations of a pool before each."""

    def __init__(self, source: str, demonstrations: DemonstrationSettings):
        self.source, self.demonstrations = source, demonstrations
        self.records = Records(source)

    @cached_property
    def pool(self) -> Records:
        """The rows that demonstrations are taken from."""
        # the same object where it is the same file: then rows are in the bank, and no query is shown to itself
        pool = self.demonstrations.pool
        return self.records if pool in (None, self.source) else Records(str(pool))

    def examples(self, shots: int | None, strategy: Strategy = "random", seed: int = 0) -> DemonstratedRecords:
        """Return the rows with demonstrations of the pool. ``ValueError`` for a strategy that lacks its bank."""
        settings, shots = self.demonstrations, SHOTS if shots is None else shots
        options: dict[str, Any] = {"seed": seed, "system": settings.system, "prompt": settings.prompt}
        if not shots:
            return DemonstratedRecords(self.records, self.records, 0, **options)
        selection = None
        if strategy != "random":
            if settings.bank is None:
                raise ValueError(
                    f"bank must be given for the strategy {strategy}: icl bank build makes one of the pool"
                )
            from icl.bank import AnchorBank, BankSelection

            bank = AnchorBank.open(settings.bank)
            queries = None if self.pool is self.records else self._read_queries(bank)
            selection = BankSelection(bank, strategy, queries)
        return DemonstratedRecords(self.records, self.pool, shots, selection, **options)

    def _read_queries(self, bank: AnchorBank) -> Queries:
        from icl.bank import Embedder, Queries

        embedder = None if bank.meta.embedder is None else Embedder(bank.meta.embedder)
        queries = Queries.read(bank, self.source, embedder)
        # Rows without an id are numbered in both files, and are others nevertheless. Content tells them apart.
        return dataclasses.replace(queries, ids=None)

    def digest(self, seed: int) -> str:
        """Return a digest of all rows, with the content of their images; the seed decides nothing of them."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return digest_records(self.records)

    def depends_on_seed(self, shots: int, strategy: Strategy) -> bool:
        """Return whether demonstrations are drawn."""
        return shots > 0 and strategy == "random"

    def references(self, seed: int) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield file and line of each row, and all answers that count as right."""
        return ((self.records.where(row), self.records[row].references) for row in range(len(self.records)))

    def settings(self, shots: int) -> dict[str, str]:
        """Return digests of data and pool, the prompt and the system's message."""
        prompt, system = self.demonstrations.prompt, self.demonstrations.system
        settings = {"data": self.digest(0), "prompt": prompt, "system": system or ""}
        # Of the pool, which may be large, no image is read for this.
        pool = {"pool": digest(json.dumps([self.pool.ids, self.pool.answers]))} if shots else {}
        return settings | pool

    def refuse_overlap(self) -> None:
        """Raise ``ValueError`` if rows of the pool ask what rows of this set ask."""
        refuse_overlap(self.records, self.pool, self.demonstrations.prompt)


def digest_records(records: Records) -> str:
    """Return a digest of all rows: ids, fields, answers and the bytes of images, whatever these are called.

    An image is read once, however many rows have it.
    """
    rows: list[list[Any]] = []
    files: dict[str, None] = {}
    for record in (records[row] for row in range(len(records))):
        files |= dict.fromkeys(image for image in record.images if isinstance(image, str))
        images = [image if isinstance(image, str) else digest(image) for image in record.images]
        rows.append([record.id, sorted(record.fields.items()), record.answer, record.references, images])
    with ThreadPoolExecutor() as threads:  # hashing lets other threads run
        digests = dict(zip(files, threads.map(digest_file, files)))
    return digest(json.dumps([[*row, [digests.get(image, image) for image in images]] for *row, images in rows]))
