"""Records with demonstrations of a pool before each: what a teacher is shown, and what a student is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hyperbolic.plot.pictures import load_image
from icl.common.choices import Strategy
from icl.common.files import digest
from icl.data import Example, Message, Records, digest_content, format_query

if TYPE_CHECKING:
    from icl.bank.anchor_bank import AnchorBank
    from icl.bank.selection.select_rows import Queries

# Queries that are compared with a bank at a time: the scores of each take the width of a block of the bank.
_QUERIES = 1 << 8


class DemonstratedRecords(Dataset[Example]):
    """Records as examples: the teacher is shown ``k`` demonstrations of a pool before the query, the student none.

    Args:
        records: the queries.
        pool: what is shown; its records have answers. It may be ``records`` itself: no query is shown to itself, by
            id and by content, the images' pixels or, where there are none, the text.
        strategy: "random" draws anew in every epoch (:meth:`set_epoch`), the same for the same seed, epoch and record;
            the others of :func:`icl.bank.select` need a bank and are settled at once.
        bank: of the pool's records, by their ids.
        queries: what the strategy compares of each record (:meth:`icl.bank.Queries.read`); by default the records
            are in the bank too.
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
        strategy: Strategy = "random",
        *,
        bank: AnchorBank | None = None,
        queries: Queries | None = None,
        seed: int = 0,
        system: str | None = None,
        prompt: str = "{question}",
    ):
        if not 0 <= k <= len(pool):
            raise ValueError(f"DemonstratedRecords: k must be from 0 to {len(pool)}, the records of the pool, got {k}")
        if k and (bare := [row for row, answer in enumerate(pool.answers) if answer is None]):
            more = f" (and {len(bare) - 1} more rows)" if len(bare) > 1 else ""
            raise ValueError(f"DemonstratedRecords: {pool.where(bare[0])}{more}: a demonstration needs an answer")
        if strategy != "random" and bank is None:
            raise ValueError(f"DemonstratedRecords: {strategy} needs the bank that it compares records with")
        if seed < 0:
            raise ValueError(f"DemonstratedRecords: seed must not be negative, got {seed}")
        self.records, self.pool, self.k, self.seed, self.system, self.prompt = records, pool, k, seed, system, prompt
        # In shared memory, so that the workers of a DataLoader that live for many epochs see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._chosen: Tensor | None = None
        if k and bank is not None and strategy != "random":
            self._chosen = _choose(records, pool, k, strategy, bank, queries)

    @property
    def selection_digest(self) -> str | None:
        """A digest of which demonstrations a strategy chose, or ``None`` where they are drawn anew."""
        return None if self._chosen is None else digest(repr(self._chosen.tolist()))

    def set_epoch(self, epoch: int) -> None:
        """Accelerate's data loaders call it, and so Trainer does."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}")
        record = self.records[index]
        query, own = self.user_message(self.records, index)
        before: list[Message] = []
        if self.system is not None:
            before.append({"role": "system", "content": [{"type": "text", "text": self.system}]})
        shown: list[Message] = []
        for row in self._candidates(index):
            if len(shown) == 2 * self.k:
                break
            asked, what = self.user_message(self.pool, row)
            if self._chosen is None and (self.pool.ids[row] == record.id or what == own):
                continue
            answer = {"role": "assistant", "content": [{"type": "text", "text": self.pool.answers[row]}]}
            shown += [asked, answer]
        if len(shown) < 2 * self.k:
            raise ValueError(
                f"DemonstratedRecords: k must be at most {len(shown) // 2} for {self.records.where(index)}: no more of "
                f"the pool differ from it, got {self.k}"
            )
        return Example(record.id, [*before, *shown, query], [*before, query], record.answer, record.references)

    def _candidates(self, index: int) -> Iterator[int]:
        if self._chosen is not None:
            yield from self._chosen[index].tolist()
            return
        # numpy keeps the stream of RandomState for good
        random = np.random.RandomState([self.seed, int(self._epoch), index])
        drawn: set[int] = set()
        while len(drawn) < len(self.pool):
            row = int(random.randint(len(self.pool)))
            if row not in drawn:
                drawn.add(row)
                yield row

    def user_message(self, records: Records, row: int) -> tuple[Message, str]:
        """The message that asks about a record, and what it shows."""
        record = records[row]
        try:
            images = [load_image(image) for image in record.images]
        except Exception as error:  # decoders raise whatever a broken file makes them raise
            raise ValueError(f"DemonstratedRecords: {records.where(row)}: {error}") from error
        text = format_query(records, row, self.prompt)
        parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
        message = {"role": "user", "content": [*parts, {"type": "text", "text": text}] if text else parts}
        return message, digest_content(message, images)


def _choose(
    records: Records, pool: Records, k: int, strategy: Strategy, bank: AnchorBank, queries: Queries | None
) -> Tensor:
    """Rows of the pool for each record, (records, k)."""
    # Only here: lance, on which banks stand, does not let a process that has imported it fork workers in peace.
    from icl.bank.selection.select_rows import Queries, select

    names = bank.take(range(len(bank)), ["id"]).column("id").to_pylist()
    rows = {name: row for row, name in enumerate(names)}
    places = {name: place for place, name in enumerate(pool.ids)}
    if lacking := [name for name in names if name not in places]:
        raise ValueError(f"DemonstratedRecords: the pool must have all of the bank's rows, and has no {lacking[0]!r}")
    if queries is None:
        if lacking := [name for name in records.ids if name not in rows]:
            raise ValueError(f"DemonstratedRecords: {lacking[0]!r} is not in the bank: give queries (Queries.read)")
        queries = Queries.of_rows(bank, torch.tensor([rows[name] for name in records.ids]))
    if len(queries) != len(records):
        raise ValueError(f"DemonstratedRecords: queries must be of the {len(records)} records, got {len(queries)}")
    chosen = []
    for start in range(0, len(records), _QUERIES):
        part = {key: v if v is None else v[start : start + _QUERIES] for key, v in vars(queries).items()}
        chosen.append(select(bank, Queries(**part), k, strategy))
    return torch.tensor([places[name] for name in names])[torch.cat(chosen)]
