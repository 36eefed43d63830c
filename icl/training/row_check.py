"""A look at every row before a model is loaded: those that cannot be used are listed, all at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from icl.bank import DemonstratedRecords
from icl.common.configuration import meant
from icl.common.failures import RowFailure
from icl.data import LIST_COLUMNS, TEXT_COLUMNS, Examples, Records, format_query
from icl.training.splits import SampledExamples

FAILURES_FILE = "failures.jsonl"
# Rows that an error shows.
_LISTED = 5
_BATCH = 1 << 8

Place = tuple[Records, int]


class RowError(ValueError):
    """Rows that cannot be used; ``failures`` are all of them."""

    def __init__(self, failures: Sequence[RowFailure], count: int, file: Path | None):
        self.failures = list(failures)
        shown = "; ".join(f"{failure.what}: {failure.reason}" for failure in failures[:_LISTED])
        more = len(failures) - _LISTED
        also = f"; and {more} more" if more > 0 else ""
        where = "" if file is None else f" ({file} lists all)"
        super().__init__(f"{len(failures)} of {count} rows cannot be used: {shown}{also}{where}")


def check_rows(sets: Mapping[str, Examples], answered: Collection[str], folder: Path | None = None) -> None:
    """Read every query and every row that may be shown before one, each once.

    ``RowError`` lists rows whose images cannot be read, that have no answer in the sets that must be ``answered``, or
    from which too few rows of the pool differ; also as JSON lines in ``folder``, as ``icl bank build --failures``
    writes them. ``ValueError`` if the prompt names fields that there are not.
    """
    results: dict[Place, str | RowFailure] = {}
    for name, examples in sets.items():
        whole, rows = (examples.examples, examples.rows) if isinstance(examples, SampledExamples) else (examples, None)
        if not isinstance(whole, DemonstratedRecords):
            continue  # of the testbed, which makes its rows
        queries = [(whole.records, row) for row in (range(len(whole)) if rows is None else rows)]
        pool = [(whole.pool, row) for row in range(len(whole.pool) if whole.k else 0)]
        format_query(*queries[0], whole.prompt)
        fresh = [place for place in dict.fromkeys([*queries, *pool]) if place not in results]
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(fresh), _BATCH):  # an interruption waits for one batch
                part = fresh[start : start + _BATCH]
                results.update(zip(part, threads.map(partial(_read, whole), part)))
        results.update(_unfit(whole, queries, pool, results, name in answered))
    failures = [result for result in results.values() if isinstance(result, RowFailure)]
    file = None if folder is None else folder / FAILURES_FILE
    if file is not None:
        file.unlink(missing_ok=True)
    if failures:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)
            file.write_text("".join(lines), encoding="utf-8")
        raise RowError(failures, len(results), file)


def _read(examples: DemonstratedRecords, place: Place) -> str | RowFailure:
    """What a row shows (:func:`icl.data.digest_content`), or why it cannot be read."""
    records, row = place
    try:
        return examples.user_message(records, row)[1]
    except ValueError as error:
        return RowFailure(row, records.where(row), str(error.__cause__ or error))


def _unfit(
    examples: DemonstratedRecords,
    queries: list[Place],
    pool: list[Place],
    results: Mapping[Place, str | RowFailure],
    ask: bool,
) -> Iterator[tuple[Place, RowFailure]]:
    """Queries that can be read and have no answer, or not enough others to be shown."""
    drawn = bool(pool) and examples.selection_digest is None
    counts = Counter(results[place] for place in pool)
    shows = {records.ids[row]: results[records, row] for records, row in pool}
    for records, row in queries:
        own = results[records, row]
        if isinstance(own, RowFailure):
            continue
        if ask and records.answers[row] is None:
            reason = "there is no answer to learn from or compare with" + meant(
                records.columns, (*TEXT_COLUMNS, *LIST_COLUMNS)
            )
            yield (records, row), RowFailure(row, records.where(row), reason)
            continue
        # by content, and by id
        others = len(pool) - counts[own] - (shows.get(records.ids[row], own) != own)
        if drawn and others < examples.k:
            reason = f"{others} rows of the pool differ from it, and {examples.k} are to be shown"
            yield (records, row), RowFailure(row, records.where(row), reason)
