"""Rows of a pool that are rows of a test set: as demonstrations they would tell what is to be answered."""

from __future__ import annotations

from pathlib import Path

from icl.common.files import digest
from icl.data.examples import format_query
from icl.data.records import Records

Asked = tuple[str, tuple[int, ...]]


def refuse_overlap(test: Records, pool: Records, prompt: str) -> None:
    """Raise ``ValueError`` if rows of the pool ask what rows of the test set ask: the same text about the same images.

    Images are the same byte for byte, whatever they are called; only those of the same size are read.

    >>> rows = [Records({"question": questions}) for questions in (["2 + 2", "3 + 3"], ["1 + 1", "3 + 3"])]
    >>> refuse_overlap(*rows, "{question}")
    Traceback (most recent call last):
    ...
    ValueError: pool: 1 of its 2 rows is a row of the test set, such as records, row 1, which is records, row 1: ...
    """
    known: dict[Asked, list[int]] = {}
    for row in range(len(test)):
        known.setdefault(_asked(test, row, prompt), []).append(row)
    contents: dict[int, list[str]] = {}
    both = []
    for row in range(len(pool)):
        candidates = known.get(_asked(pool, row, prompt), [])
        if not candidates:
            continue
        own = _contents(pool, row)
        for candidate in candidates:
            if contents.setdefault(candidate, _contents(test, candidate)) == own:
                both.append((row, candidate))
                break
    if both:
        row, same = both[0]
        rows = "rows is a row" if len(both) == 1 else "rows are rows"
        raise ValueError(
            f"pool: {len(both)} of its {len(pool)} {rows} of the test set, such as {pool.where(row)}, which is "
            f"{test.where(same)}: a demonstration must not be one, so take them out, or name another pool"
        )


def _asked(records: Records, row: int, prompt: str) -> Asked:
    """What can be compared without reading an image: the text, and how many bytes each image has."""
    record = records[row]
    sizes = tuple(len(image) if isinstance(image, bytes) else Path(image).stat().st_size for image in record.images)
    return " ".join(format_query(records, row, prompt).split()), sizes


def _contents(records: Records, row: int) -> list[str]:
    return [digest(image if isinstance(image, bytes) else Path(image).read_bytes()) for image in records[row].images]
