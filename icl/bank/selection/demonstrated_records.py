"""Records with demonstrations of a pool before each: a teacher reads them, and a student does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hyperbolic.plot.pictures import load_image
from icl.common.choices import Strategy
from icl.common.files import digest
from icl.data import Example, Examples, Message, Records, digest_content, format_query

if TYPE_CHECKING:
    from icl.bank.anchor_bank import AnchorBank
    from icl.bank.selection.queries import Queries

# Queries that are compared with a bank at a time: the scores of each take the width of a block of the bank.
_QUERIES = 1 << 8


@dataclass(frozen=True)
class BankSelection:
    """Demonstrations that a strategy of :func:`icl.bank.select` selects from a bank.

    Args:
        bank: of the pool's records, by their ids.
        strategy: of ``select``.
        queries: what the strategy compares of each record (:meth:`icl.bank.Queries.read`); by default the records
            are in the bank too.
    """

    bank: AnchorBank
    strategy: Strategy = "hyperbolic"
    queries: Queries | None = None


class DemonstratedRecords(Dataset[Example]):
    """Records as examples, for a teacher with ``k`` demonstrations of a pool before the query, a student with none.

    Args:
        records: the queries.
        pool: the demonstrations, which have answers. It may be ``records`` itself: no query is its own demonstration,
            by id and by content, the images' pixels or, where there are none, the text.
        k: demonstrations before each query.
        selection: how they are selected, once for all epochs. By default every epoch draws anew at random
            (:meth:`set_epoch`), the same for the same seed, epoch and record.
        seed: of the random draws.
        system: a message before all others.
        prompt: what is asked after the images, with fields of the record: "Question: {question} Short answer:".

    >>> rows = Records({"question": ["2 + 2", "3 + 3", "4 + 4"], "answer": ["4", "6", "8"]})
    >>> example = DemonstratedRecords(rows, rows, k=1, prompt="{question} =")[0]
    >>> example.student[0]["content"], example.answer
    ([{'type': 'text', 'text': '2 + 2 ='}], '4')
    >>> [message["role"] for message in example.teacher]
    ['user', 'assistant', 'user']
    """

    def __init__(
        self,
        records: Records,
        pool: Records,
        k: int,
        selection: BankSelection | None = None,
        *,
        seed: int = 0,
        system: str | None = None,
        prompt: str = "{question}",
    ):
        if not 0 <= k <= len(pool):
            raise ValueError(f"DemonstratedRecords: k must be from 0 to {len(pool)}, the records of the pool, got {k}")
        if k and (bare := [row for row, answer in enumerate(pool.answers) if answer is None]):
            more = f" (and {len(bare) - 1} more rows)" if len(bare) > 1 else ""
            raise ValueError(f"DemonstratedRecords: {pool.where(bare[0])}{more}: a demonstration needs an answer")
        if seed < 0:
            raise ValueError(f"DemonstratedRecords: seed must not be negative, got {seed}")
        self.records, self.pool, self.k, self.seed, self.prompt = records, pool, k, seed, prompt
        self._system: list[Message] = []
        if system is not None:
            self._system.append({"role": "system", "content": [{"type": "text", "text": system}]})
        # In shared memory, so that the workers of a DataLoader that live for many epochs see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._selected: Tensor | None = None
        if k and selection is not None:
            self._selected = _select_from_pool(records, pool, k, selection)

    @property
    def selection_digest(self) -> str | None:
        """The digest of the demonstrations that a strategy selected, or ``None`` where every epoch draws anew."""
        return None if self._selected is None else digest(repr(self._selected.tolist()))

    def set_epoch(self, epoch: int) -> None:
        """Draw the demonstrations of an epoch. Accelerate's data loaders call it, and so Trainer does."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}")
        record = self.records[index]
        query, own_content = self.user_message(self.records, index)
        demonstrations: list[Message] = []
        for row in self._candidates(index):
            if len(demonstrations) == 2 * self.k:
                break
            question, content = self.user_message(self.pool, row)
            if self._selected is None and (self.pool.ids[row] == record.id or content == own_content):
                continue
            answer = {"role": "assistant", "content": [{"type": "text", "text": self.pool.answers[row]}]}
            demonstrations += [question, answer]
        if len(demonstrations) < 2 * self.k:
            raise ValueError(
                f"DemonstratedRecords: k must be at most {len(demonstrations) // 2} for {self.records.where(index)}: "
                f"no more of the pool differ from it, got {self.k}"
            )
        teacher, student = [*self._system, *demonstrations, query], [*self._system, query]
        return Example(record.id, teacher, student, record.answer, record.references)

    def _candidates(self, index: int) -> Iterator[int]:
        """Yield the rows of the pool that a strategy selected, or else all in the random order of the epoch."""
        if self._selected is not None:
            yield from self._selected[index].tolist()
            return
        # NumPy keeps the stream of RandomState for good.
        random = np.random.RandomState([self.seed, int(self._epoch), index])
        earlier: set[int] = set()
        while len(earlier) < len(self.pool):
            row = int(random.randint(len(self.pool)))
            if row not in earlier:
                earlier.add(row)
                yield row

    def user_message(self, records: Records, row: int) -> tuple[Message, str]:
        """Return the message that asks about a record, and the digest of its content."""
        record = records[row]
        try:
            images = [load_image(image) for image in record.images]
        except Exception as error:  # Decoders raise whatever a broken file makes them raise.
            raise ValueError(f"DemonstratedRecords: {records.where(row)}: {error}") from error
        text = format_query(records, row, self.prompt)
        parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
        message = {"role": "user", "content": [*parts, {"type": "text", "text": text}] if text else parts}
        return message, digest_content(message, images)


def _select_from_pool(records: Records, pool: Records, k: int, selection: BankSelection) -> Tensor:
    """Return rows of the pool for each record, (records, k)."""
    # Imported only here, because a process that has imported Lance, on which banks stand, cannot fork workers in peace.
    from icl.bank.selection.queries import Queries
    from icl.bank.selection.select_rows import select

    bank, queries = selection.bank, selection.queries
    bank_ids = bank.table(["id"]).column("id").to_pylist()
    pool_rows = {name: row for row, name in enumerate(pool.ids)}
    if missing := [name for name in bank_ids if name not in pool_rows]:
        raise ValueError(f"DemonstratedRecords: the pool must have all of the bank's rows, and has no {missing[0]!r}")
    if queries is None:
        bank_rows = {name: row for row, name in enumerate(bank_ids)}
        if missing := [name for name in records.ids if name not in bank_rows]:
            raise ValueError(f"DemonstratedRecords: {missing[0]!r} is not in the bank: give queries (Queries.read)")
        queries = Queries.of_rows(bank, torch.tensor([bank_rows[name] for name in records.ids]))
    if len(queries) != len(records):
        raise ValueError(f"DemonstratedRecords: queries must be of the {len(records)} records, got {len(queries)}")
    starts = range(0, len(records), _QUERIES)
    selected = [select(bank, queries.slice(start, start + _QUERIES), k, selection.strategy) for start in starts]
    return torch.tensor([pool_rows[name] for name in bank_ids])[torch.cat(selected)]


def sample_examples(examples: Examples, count: int | None, seed: int) -> Examples:
    """Return so many of the examples, drawn by the seed, or all. ``ValueError`` if there are not as many."""
    if count is None:
        return examples
    if not 1 <= count <= len(examples):
        raise ValueError(f"samples must be from 1 to {len(examples)}, the rows of the training set, got {count}")
    rows = sorted(np.random.RandomState(seed).permutation(len(examples))[:count].tolist())
    if isinstance(examples, DemonstratedRecords):
        return SampledExamples(examples, rows)
    return [examples[row] for row in rows]


class SampledExamples:
    """Some of the examples, whose demonstrations change with the epoch as theirs do."""

    def __init__(self, examples: DemonstratedRecords, rows: Sequence[int]):
        self.examples, self.rows = examples, rows
        self.set_epoch = examples.set_epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.examples[self.rows[index]]
