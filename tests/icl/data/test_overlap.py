"""Rows of a pool that are rows of a test set, by what they ask about which pictures."""

from pathlib import Path
from typing import Any

import pytest

from icl.data.overlap import refuse_overlap
from icl.data.records import Records
from tests.icl.processors import picture


def test_rows_are_the_same_by_text_and_pixels_whatever_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, number in (("a", 0), ("same", 0), ("other", 1)):
        picture(number).save(f"{name}.bmp")  # of one size, so that only pixels tell them apart

    def rows(image: Any, question: str) -> Records:
        return Records({"image": [image], "question": [question]})

    test = rows("a.bmp", "what ?")
    for pool in (rows("same.bmp", " what\t?"), rows(Path("a.bmp").read_bytes(), "what ?")):
        with pytest.raises(ValueError, match="1 of its 1 rows is a row of the test set, such as records, row 0"):
            refuse_overlap(test, pool, "{question}")
    for pool in (rows("other.bmp", "what ?"), rows("same.bmp", "who ?")):
        refuse_overlap(test, pool, "{question}")
    with pytest.raises(ValueError, match="1 of its 1 rows is"):
        refuse_overlap(test, pool, "")
