"""Files of the common layer."""

from icl.common.files import digest


def test_digest() -> None:
    assert digest("ä") == digest("ä".encode()) != digest("a")
    assert len(digest("")) == 32
