"""A look at every row before a model is loaded: those that cannot be used are listed, all at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from icl.bank.selection.demonstrated_records import DemonstratedRecords, SampledExamples
from icl.common.configuration import meant
from icl.common.failures import RowFailure
from icl.common.files import write_text
from icl.data import LIST_COLUMNS, TEXT_COLUMNS, Examples, Records, format_query

FAILURES_FILE = "failures.jsonl"
# Rows that an error shows.
_LISTED = 5
_BATCH = 1 << 8

RowPlace = tuple[Records, int]
"""A row of a dataset by its number."""


class RowError(ValueError):
    """Rows that cannot be used; ``failures`` are all of them."""

    def __init__(self, failures: Sequence[RowFailure], count: int, file: Path | None):
        self.failures = list(failures)
        reasons = [f"{failure.what}: {failure.reason}" for failure in failures[:_LISTED]]
        if len(failures) > _LISTED:
            reasons.append(f"and {len(failures) - _LISTED} more")
        where = "" if file is None else f" ({file} lists all)"
        super().__init__(f"{len(failures)} of {count} rows cannot be used: {'; '.join(reasons)}{where}")


def check_rows(sets: Mapping[str, Examples], answered: Collection[str], folder: Path | None = None) -> None:
    """Read every query and every row that may be shown before one, each once.

    Args:
        sets: examples by the name of their set.
        answered: the sets whose queries must have an answer.
        folder: where rows that cannot be used are listed as JSON lines, as ``icl bank build --failures`` writes them.

    Raises:
        RowError: images cannot be read, answers are missing, or too few rows of the pool differ from a query.
        ValueError: the prompt names fields that there are not.
    """
    contents: dict[RowPlace, str | RowFailure] = {}
    for name, examples in sets.items():
        source, rows = (examples.examples, examples.rows) if isinstance(examples, SampledExamples) else (examples, None)
        if not isinstance(source, DemonstratedRecords):
            continue  # of the testbed, which makes its rows
        queries = [(source.records, row) for row in (range(len(source)) if rows is None else rows)]
        pool = [(source.pool, row) for row in range(len(source.pool) if source.k else 0)]
        format_query(*queries[0], source.prompt)
        unread = [place for place in dict.fromkeys([*queries, *pool]) if place not in contents]
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(unread), _BATCH):  # an interruption waits for one batch
                batch = unread[start : start + _BATCH]
                contents.update(zip(batch, threads.map(_read_content, [source] * len(batch), batch)))
        for (records, row), reason in _find_unfit(source, queries, pool, contents, name in answered):
            contents[records, row] = RowFailure(row, records.where(row), reason)
    failures = [content for content in contents.values() if isinstance(content, RowFailure)]
    file = None if folder is None else folder / FAILURES_FILE
    if file is not None:
        file.unlink(missing_ok=True)
    if failures:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in failures))
        raise RowError(failures, len(contents), file)


def _read_content(examples: DemonstratedRecords, place: RowPlace) -> str | RowFailure:
    """Return a digest of what a row shows (:func:`icl.data.digest_content`), or why it cannot be read."""
    records, row = place
    try:
        return examples.user_message(records, row)[1]
    except ValueError as error:
        return RowFailure(row, records.where(row), str(error.__cause__ or error))


def _find_unfit(
    examples: DemonstratedRecords,
    queries: list[RowPlace],
    pool: list[RowPlace],
    contents: Mapping[RowPlace, str | RowFailure],
    needs_answer: bool,
) -> Iterator[tuple[RowPlace, str]]:
    """Yield queries that can be read and have no answer, or not enough others to be shown, and the reason."""
    is_random = bool(pool) and examples.selection_digest is None
    counts = Counter(contents[place] for place in pool)
    content_of = {records.ids[row]: contents[records, row] for records, row in pool}
    for records, row in queries:
        own = contents[records, row]
        if isinstance(own, RowFailure):
            continue
        # A demonstration must differ from the query by content, and by id.
        others = len(pool) - counts[own] - (content_of.get(records.ids[row], own) != own)
        if needs_answer and records.answers[row] is None:
            hint = meant(records.columns, (*TEXT_COLUMNS, *LIST_COLUMNS))
            yield (records, row), f"there is no answer to learn from or compare with{hint}"
        elif is_random and others < examples.k:
            yield (records, row), f"{others} rows of the pool differ from it, and {examples.k} are to be shown"
