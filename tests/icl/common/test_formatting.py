"""Values as text."""

from icl.common.formatting import format_fact


def test_facts_as_text() -> None:
    assert [format_fact(v) for v in (1234567, 0.123456, None, True, "a", ["a", 2], {"a": 0.5}, {})] == [
        "1,234,567", "0.1235", "none", "yes", "a", "a, 2", "a 0.5", "none",
    ]  # fmt: skip
