"""Rows of results as tables: for a terminal of any width, and whole in Markdown, with what their columns mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rich.cells import cell_len
from rich.console import Group
from rich.table import Column as RichColumn
from rich.table import Table
from rich.text import Text

from icl.evaluation.metrics.scoring import METRICS
from icl.evaluation.results import ResultRow

# What a column of rich has beside its text, and what a table has.
_PADDING, _EDGE = 3, 1
# Of the width, for a column that must stand in a table: longer texts are written on several lines.
_SHARE = 0.18

_BOUNDS = (
    "In parentheses: the 95 % interval, over seeds (Student's) or, where there is one, over examples (Wilson's of "
    "answers that are right or wrong, else Student's)."
)
_STATES = (
    "geodesic, L2: how far the states of the model are from those of the teacher, which is the base with "
    "demonstrations: root mean square over layers and the tokens of query and answer, along geodesics and along "
    "straight lines. 0 is the same."
)
_ATTENTION = (
    "attention KL: Kullback-Leibler divergence of the attention among these tokens from the teacher's. 0 is the same."
)
_READS = (
    "test read: for how many choices of weights, prompts or demonstrations the test set was measured. A score that was "
    "chosen among several by the test set is too good."
)
_TIMES = (
    "prefill: time to the first token of the answer; decode: to each further token. Every prompt was timed in turns "
    "with zero-shot, and milliseconds are their ratio times zero-shot's median over all rows. k-shot: the row with the "
    "most demonstrations."
)


@dataclass(frozen=True)
class ResultColumn:
    """A column of a table of results."""

    name: str
    """As in results.csv, and for ``--columns``."""
    head: str
    text: Callable[[ResultRow], str]
    rank: int
    """Columns of a lower rank are kept where there is not room for all; those of rank 0 always."""
    note: str | None = None
    """What stands under the table about it."""


def _number(name: str, unit: float, row: ResultRow) -> str:
    value = row.get(name)
    if value is None:
        return ""
    value = value / unit
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _score(name: str, row: ResultRow) -> str:
    value, low, high = (row.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return ""
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _numeric(name: str, head: str, rank: int, note: str | None = None, unit: float = 1) -> ResultColumn:
    return ResultColumn(name, head, partial(_number, name, unit), rank, note)


_HEADS = {"exact": "exact match", "vqa": "VQA accuracy", "cider": "CIDEr-D", "bleu4": "BLEU-4"}
_ROWS = [
    ResultColumn("model", "model", lambda row: row["model"], 0),
    ResultColumn("task", "task", lambda row: row["task"], 0),
    ResultColumn("method", "method", lambda row: row["method"], 0),
    ResultColumn("shots", "shots", lambda row: f"{row['shots']} {row['strategy'] or ''}".strip(), 0),
]
_WORTH = [
    *(ResultColumn(name, _HEADS.get(name, name), partial(_score, name), 1, _BOUNDS) for name in METRICS),
    ResultColumn("interval_of", "interval over", lambda row: row["interval_of"] or "", 4),
    ResultColumn("seeds", "seeds", lambda row: str(row["seeds"]), 2),
    ResultColumn("examples", "examples", lambda row: str(row["examples"]), 2),
    _numeric("geodesic", "geodesic", 5, _STATES),
    _numeric("l2", "L2", 6, _STATES),
    _numeric("attention_kl", "attention KL", 7, _ATTENTION),
    ResultColumn("test_reads", "test read", lambda row: _reads(row["test_reads"]), 3, _READS),
]
_NOTE = ResultColumn("note", "note", lambda row: row["note"] or "", 8)
_COST = [
    ResultColumn("parameters", "parameters", lambda row: f"{row['parameters']:,}" if row["parameters"] else "", 1),
    _numeric("train_seconds", "training seconds", 3),
    _numeric("tokens", "prompt tokens", 5),
    _numeric("prefill_ms", "prefill ms", 4, _TIMES),
    _numeric("prefill_of_zero_shot", "prefill / zero-shot", 1, _TIMES),
    _numeric("prefill_of_k_shot", "prefill / k-shot", 2, _TIMES),
    _numeric("decode_ms", "decode ms", 8, _TIMES),
    _numeric("decode_of_zero_shot", "decode / zero-shot", 6, _TIMES),
    _numeric("decode_of_k_shot", "decode / k-shot", 7, _TIMES),
    _numeric("prefill_flops", "prefill GFLOP", 9, unit=1e9),
    _numeric("cache_bytes", "cache MB", 9, unit=1e6),
    _numeric("peak_bytes", "peak MB", 9, unit=1e6),
]
COLUMNS = {column.name: column for column in (*_ROWS, *_WORTH, _NOTE, *_COST)}
"""All that there are, by name."""


def parse_columns(names: str) -> list[ResultColumn]:
    """The columns of a list such as "method,exact". ``ValueError`` names one that is none.

    >>> [column.head for column in parse_columns("method, prefill_ms")]
    ['method', 'prefill ms']
    """
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in COLUMNS]:
        raise ValueError(f"columns must be of {', '.join(COLUMNS)}, got {unknown[0]!r}")
    return [COLUMNS[name] for name in dict.fromkeys(wanted)]


def terminal_tables(rows: Sequence[ResultRow], width: int, columns: Sequence[ResultColumn] = ()) -> Group:
    """The given columns as a table, or two tables, of scores and of costs, with the columns that there is room for.

    Under them stands what the columns mean, and what a reader has to know about single rows.
    """
    if columns:
        return Group(_table(columns, rows, width), *map(Text, _explanations(columns)))
    several = [column for column in _ROWS if column.name not in ("model", "task") or _differs(column, rows)]
    parts: list[Table | Text] = []
    left_out: list[ResultColumn] = []
    for own in (_WORTH, _COST):
        known = _known([*several, *own], rows)
        chosen = _fitting(known, rows, width)
        left_out += [column for column in known if column not in chosen]
        parts += [_table(chosen, rows, width), *map(Text, _explanations(chosen))]
    if rows and len(several) < len(_ROWS):
        same = [f"{column.head} {column.text(rows[0])}" for column in _ROWS if column not in several]
        parts.insert(0, Text(", ".join(same)))
    parts += [Text(f"{row['method']} {_ROWS[-1].text(row)}: {note}") for row in rows if (note := _note(row))]
    if left_out:
        names = ", ".join(column.name for column in left_out)
        parts.append(Text(f"No room at {width} columns for {names}: --columns chooses."))
    return Group(*parts)


def markdown_tables(rows: Sequence[ResultRow]) -> str:
    """Both tables, with all columns that say something."""
    parts = []
    for own in ([*_WORTH, _NOTE], _COST):
        columns = _known([*_ROWS, *own], rows)
        lines = [[column.head for column in columns], ["---"] * len(columns)]
        lines += [[_escaped(column.text(row)) for column in columns] for row in rows]
        parts.append("".join("| " + " | ".join(line) + " |\n" for line in lines))
        parts += [f"{note}\n" for note in _explanations(columns)]
    return "\n".join(parts)


def _table(columns: Sequence[ResultColumn], rows: Sequence[ResultRow], width: int) -> Table:
    table = Table(*(RichColumn(c.head, width=size, overflow="fold") for c, size in _sizes(columns, rows, width)))
    for row in rows:
        table.add_row(*(Text(column.text(row), overflow="fold") for column in columns))
    return table


def _sizes(
    columns: Sequence[ResultColumn], rows: Sequence[ResultRow], width: int
) -> Iterator[tuple[ResultColumn, int]]:
    """What each column needs, and more where there is room for more of it on a line."""
    needs = [_need(column, rows, width) for column in columns]
    room = width - _EDGE - sum(needs) - _PADDING * len(columns)
    for column, need in zip(columns, needs):
        more = max(map(cell_len, [column.head, *(column.text(row) for row in rows)])) - need
        more = more if more <= room else 0
        room -= more
        yield column, need + more


def _need(column: ResultColumn, rows: Sequence[ResultRow], width: int) -> int:
    """In characters: heads are written on as many lines as they have words, and so are long names."""
    need = max(map(cell_len, [*column.head.split(), *(column.text(row) for row in rows)]))
    return need if column.rank else min(need, int(_SHARE * width))


def _fitting(columns: Sequence[ResultColumn], rows: Sequence[ResultRow], width: int) -> list[ResultColumn]:
    room = width - _EDGE
    chosen = []
    for column in sorted(columns, key=lambda column: column.rank):
        need = _need(column, rows, width) + _PADDING
        if not column.rank or need <= room:
            chosen.append(column)
            room -= need
    return [column for column in columns if column in chosen]


def _known(columns: Sequence[ResultColumn], rows: Sequence[ResultRow]) -> list[ResultColumn]:
    """Those that say something."""
    return [column for column in columns if any(column.text(row) for row in rows)]


def _differs(column: ResultColumn, rows: Sequence[ResultRow]) -> bool:
    return len({column.text(row) for row in rows}) > 1


def _explanations(columns: Sequence[ResultColumn]) -> Iterator[str]:
    yield from dict.fromkeys(column.note for column in columns if column.note)


def _reads(count: int) -> str:
    return "once" if count == 1 else f"for {count} choices"


def _note(row: ResultRow) -> str:
    reads = f"the test set was read {_reads(row['test_reads'])}" if row["test_reads"] > 1 else None
    return "; ".join(filter(None, [row["note"], reads]))


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
