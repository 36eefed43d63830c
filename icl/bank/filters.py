"""SQL conditions on the columns of a bank, checked before they reach Lance.

Lance takes text in double quotes for a literal, and any expression for a condition. So ``"task" != 'vqa'`` compares two
constants, is true for every row, and deletes all of them. Here a condition is refused unless every comparison in it
names a column.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from icl.bank.schema import BankError

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<comment>--|/\*)
      | (?P<text>'(?:[^']|'')*')
      | (?P<double>"(?:[^"]|"")*")
      | (?P<name>`[^`]*`)
      | (?P<word>[^\W\d]\w*)
      | (?P<number>\d[\w.]*)
      | (?P<sign>::|.)""",
    re.VERBOSE | re.DOTALL,
)
# The ends of statements and the parameters of prepared ones.
_REFUSED = (";", "?", ":", "$", "@")
# After these a word names a type: CAST(1 AS text), 1::text.
_BEFORE_TYPES = ("AS", "::")


class _Token(NamedTuple):
    kind: str | None
    value: str

    def is_word(self, *words: str) -> bool:
        return self.kind in ("word", "sign") and self.value.upper() in words


def quoted(value: str) -> str:
    """Return a text as an SQL literal. ``BankError`` for what is no text.

    >>> quoted("it's")
    "'it''s'"
    """
    if not isinstance(value, str):
        raise BankError(f"ids and values must be texts, got {value!r}")
    return "'" + value.replace("'", "''") + "'"


def of_ids(ids: Iterable[str]) -> str:
    """Return the condition that holds for the rows with these ids.

    >>> of_ids(["a", "b"])
    "id IN ('a', 'b')"
    """
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise BankError(f"ids must be a list of texts, got {ids!r}: a condition is given as where=")
    names = ", ".join(map(quoted, ids))
    return f"id IN ({names})" if names else "id IS NULL"


def check(condition: str | None, columns: Collection[str]) -> str:
    """Return the condition in parentheses if each of its comparisons names one of the ``columns``.

    ``BankError`` if not. In parentheses nothing can follow the condition that is no part of it, as an ORDER BY would.

    >>> check("task = 'vqa' AND NOT (depth > 2 OR id IN ('a', 'b'))", ["id", "task", "depth"])
    "(task = 'vqa' AND NOT (depth > 2 OR id IN ('a', 'b')))"
    """
    if not isinstance(condition, str):
        raise BankError(f"where must be an SQL condition as text, got {type(condition).__name__}")
    refused = f"cannot filter by {condition or 'nothing'}"
    tokens = [_Token(match.lastgroup, match[0]) for match in _TOKEN.finditer(condition) if match.lastgroup != "space"]
    for token in tokens:
        if token.kind == "double":
            raise BankError(
                f"{refused}: {token.value} is a text there and not a column: columns are written plainly or in "
                "backticks, texts in single quotes"
            )
        if token.kind == "comment" or token.is_word(*_REFUSED):
            raise BankError(f"{refused}: {token.value} has no place there")
    steps = (token.is_word("(", "[") - token.is_word(")", "]") for token in tokens)
    depths = list(itertools.accumulate(steps, initial=0))
    if min(depths) < 0 or depths[-1]:
        raise BankError(f"{refused}: its parentheses do not match")
    names = {name.lower() for name in columns}
    for comparison in _split_comparisons(tokens):
        if not any(_is_column(comparison, i, names) for i in range(len(comparison))):
            constant = " ".join(token.value for token in comparison).strip("() ") or "an empty condition"
            raise BankError(f"{refused}: {constant} names no column, and the columns are {', '.join(columns)}")
    return f"({condition})"


def _split_comparisons(tokens: list[_Token]) -> list[list[_Token]]:
    """Return the parts that AND and OR join, at any depth of parentheses; the AND of a BETWEEN joins nothing."""
    comparisons: list[list[_Token]] = [[]]
    open_betweens = 0
    for token in tokens:
        if token.is_word("AND", "OR", "XOR") and not (token.is_word("AND") and open_betweens):
            comparisons.append([])
            continue
        open_betweens += token.is_word("BETWEEN") - token.is_word("AND")
        comparisons[-1].append(token)
    return comparisons


def _is_column(tokens: list[_Token], i: int, names: set[str]) -> bool:
    """Return whether a token names a column: not a function, a type, or the type of a literal such as DATE '2020'."""
    following = tokens[i + 1] if i + 1 < len(tokens) else _Token(None, "")
    is_name = tokens[i].kind in ("word", "name") and tokens[i].value.strip("`").lower() in names
    is_type = i > 0 and tokens[i - 1].is_word(*_BEFORE_TYPES)
    return is_name and not is_type and not following.is_word("(") and following.kind != "text"
