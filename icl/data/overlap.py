"""Rows of a pool that are rows of a test set: as demonstrations they would tell what is to be answered."""

from __future__ import annotations

from pathlib import Path

from icl.common.files import digest
from icl.data.examples import format_query
from icl.data.records import Records


def refuse_overlap(test: Records, pool: Records, prompt: str) -> None:
    """Raise ``ValueError`` if rows of the pool ask what rows of the test set ask: the same text about the same images.

    Images are the same byte for byte, whatever they are called; only those of the same size are read.

    >>> rows = [Records({"question": questions}) for questions in (["2 + 2", "3 + 3"], ["1 + 1", "3 + 3"])]
    >>> refuse_overlap(*rows, "{question}")
    Traceback (most recent call last):
    ...
    ValueError: pool: 1 of its 2 rows is a row of the test set, such as records, row 1, which is records, row 1: ...
    """
    rows_of: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for row in range(len(test)):
        rows_of.setdefault(_measure_query(test, row, prompt), []).append(row)
    contents: dict[int, list[str]] = {}
    pairs = []
    for row in range(len(pool)):
        candidates = rows_of.get(_measure_query(pool, row, prompt), [])
        own = _digest_images(pool, row) if candidates else []
        for candidate in candidates:
            if candidate not in contents:
                contents[candidate] = _digest_images(test, candidate)
            if contents[candidate] == own:
                pairs.append((row, candidate))
                break
    if pairs:
        row, same = pairs[0]
        rows = "rows is a row" if len(pairs) == 1 else "rows are rows"
        raise ValueError(
            f"pool: {len(pairs)} of its {len(pool)} {rows} of the test set, such as {pool.where(row)}, which is "
            f"{test.where(same)}: a demonstration must not be one, so take them out, or name another pool"
        )


def _measure_query(records: Records, row: int, prompt: str) -> tuple[str, tuple[int, ...]]:
    """Return what can be compared without reading an image: the text, and how many bytes each image has."""
    images = records[row].images
    sizes = tuple(len(image) if isinstance(image, bytes) else Path(image).stat().st_size for image in images)
    return " ".join(format_query(records, row, prompt).split()), sizes


def _digest_images(records: Records, row: int) -> list[str]:
    return [digest(image if isinstance(image, bytes) else Path(image).read_bytes()) for image in records[row].images]
