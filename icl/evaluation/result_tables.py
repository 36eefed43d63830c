"""Tables of results for a terminal of any width, and whole in Markdown, with what their columns mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from icl.evaluation.metrics.scoring import METRICS
from icl.evaluation.result_rows import ResultRow

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
    """A column of a table of results.

    Args:
        name: as in results.csv, and for ``--columns``.
        head: its title.
        text: the text of a row.
        rank: columns of a lower rank are kept where there is not room for all; those of rank 0 always.
        note: what stands under the table about it.
    """

    name: str
    head: str
    text: Callable[[ResultRow], str]
    rank: int
    note: str | None = None


def _format_number(name: str, unit: float, row: ResultRow) -> str:
    value = row.get(name)
    if value is None:
        return ""
    value = value / unit
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _format_score(name: str, row: ResultRow) -> str:
    value, low, high = (row.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return ""
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _number_column(name: str, head: str, rank: int, note: str | None = None, unit: float = 1) -> ResultColumn:
    return ResultColumn(name, head, partial(_format_number, name, unit), rank, note)


_HEADS = {"exact": "exact match", "vqa": "VQA accuracy", "cider": "CIDEr-D", "bleu4": "BLEU-4"}
_ROWS = [
    ResultColumn("model", "model", lambda row: row["model"], 0),
    ResultColumn("task", "task", lambda row: row["task"], 0),
    ResultColumn("method", "method", lambda row: row["method"], 0),
    ResultColumn("shots", "shots", lambda row: f"{row['shots']} {row['strategy'] or ''}".strip(), 0),
]
_WORTH = [
    *(ResultColumn(name, _HEADS.get(name, name), partial(_format_score, name), 1, _BOUNDS) for name in METRICS),
    ResultColumn("interval_of", "interval over", lambda row: row["interval_of"] or "", 4),
    ResultColumn("seeds", "seeds", lambda row: str(row["seeds"]), 2),
    ResultColumn("examples", "examples", lambda row: str(row["examples"]), 2),
    _number_column("geodesic", "geodesic", 5, _STATES),
    _number_column("l2", "L2", 6, _STATES),
    _number_column("attention_kl", "attention KL", 7, _ATTENTION),
    ResultColumn("test_reads", "test read", lambda row: _format_reads(row["test_reads"]), 3, _READS),
]
_NOTE = ResultColumn("note", "note", lambda row: row["note"] or "", 8)
_COST = [
    ResultColumn("parameters", "parameters", lambda row: f"{row['parameters']:,}" if row["parameters"] else "", 1),
    _number_column("train_seconds", "training seconds", 3),
    _number_column("tokens", "prompt tokens", 5),
    _number_column("prefill_ms", "prefill ms", 4, _TIMES),
    _number_column("prefill_of_zero_shot", "prefill / zero-shot", 1, _TIMES),
    _number_column("prefill_of_k_shot", "prefill / k-shot", 2, _TIMES),
    _number_column("decode_ms", "decode ms", 8, _TIMES),
    _number_column("decode_of_zero_shot", "decode / zero-shot", 6, _TIMES),
    _number_column("decode_of_k_shot", "decode / k-shot", 7, _TIMES),
    _number_column("prefill_flops", "prefill GFLOP", 9, unit=1e9),
    _number_column("cache_bytes", "cache MB", 9, unit=1e6),
    _number_column("peak_bytes", "peak MB", 9, unit=1e6),
]
COLUMNS = {column.name: column for column in (*_ROWS, *_WORTH, _NOTE, *_COST)}
"""All columns by name."""


def parse_columns(names: str) -> list[ResultColumn]:
    """Return the columns of a list such as "method,exact". ``ValueError`` names one that there is not.

    >>> [column.head for column in parse_columns("method, prefill_ms")]
    ['method', 'prefill ms']
    """
    stripped = dict.fromkeys(name.strip() for name in names.split(","))
    if unknown := [name for name in stripped if name not in COLUMNS]:
        raise ValueError(f"columns must be of {', '.join(COLUMNS)}, got {unknown[0]!r}")
    return [COLUMNS[name] for name in stripped]


def terminal_tables(rows: Sequence[ResultRow], width: int, columns: Sequence[ResultColumn] = ()) -> Group:
    """Return a table of the given columns, or one of scores and one of costs with the columns that there is room for.

    Under them stands what the columns mean, and what a reader has to know about single rows.
    """
    if columns:
        return Group(_make_table(columns, rows, width), *map(Text, _column_notes(columns)))
    several = [
        column
        for column in _ROWS
        if column.name not in ("model", "task") or len({column.text(row) for row in rows}) > 1
    ]
    parts: list[Table | Text] = []
    if rows and len(several) < len(_ROWS):
        parts.append(Text(", ".join(f"{c.head} {c.text(rows[0])}" for c in _ROWS if c not in several)))
    left_out: list[ResultColumn] = []
    for own in (_WORTH, _COST):
        filled = _drop_empty([*several, *own], rows)
        fitting = _select_columns(filled, rows, width)
        left_out += [column for column in filled if column not in fitting]
        parts += [_make_table(fitting, rows, width), *map(Text, _column_notes(fitting))]
    parts += [Text(f"{row['method']} {_ROWS[-1].text(row)}: {note}") for row in rows if (note := _row_note(row))]
    if left_out:
        names = ", ".join(column.name for column in left_out)
        parts.append(Text(f"No room at {width} columns for {names}: --columns chooses."))
    return Group(*parts)


def markdown_tables(rows: Sequence[ResultRow]) -> str:
    """Return both tables in Markdown, with all columns that are not empty."""
    parts = []
    for own in ([*_WORTH, _NOTE], _COST):
        columns = _drop_empty([*_ROWS, *own], rows)
        lines = [[column.head for column in columns], ["---"] * len(columns)]
        # a text is one line, and no bar in it ends its cell
        lines += [[" ".join(c.text(row).replace("|", "\\|").split()) for c in columns] for row in rows]
        parts.append("".join("| " + " | ".join(line) + " |\n" for line in lines))
        parts += [f"{note}\n" for note in _column_notes(columns)]
    return "\n".join(parts)


def _make_table(columns: Sequence[ResultColumn], rows: Sequence[ResultRow], width: int) -> Table:
    """Return a table whose columns are as wide as they need, and as their longest text where there is room for it."""
    widths = [_minimal_width(column, rows, width) for column in columns]
    room = width - _EDGE - sum(widths) - _PADDING * len(columns)
    table = Table()
    for column, least in zip(columns, widths):
        more = max(map(cell_len, [column.head, *(column.text(row) for row in rows)])) - least
        more = more if more <= room else 0
        room -= more
        table.add_column(column.head, width=least + more, overflow="fold")
    for row in rows:
        table.add_row(*(Text(column.text(row), overflow="fold") for column in columns))
    return table


def _minimal_width(column: ResultColumn, rows: Sequence[ResultRow], width: int) -> int:
    """Return a width in characters: heads take as many lines as they have words, and long names several."""
    need = max(map(cell_len, [*column.head.split(), *(column.text(row) for row in rows)]))
    return need if column.rank else min(need, int(_SHARE * width))


def _select_columns(columns: Sequence[ResultColumn], rows: Sequence[ResultRow], width: int) -> list[ResultColumn]:
    room = width - _EDGE
    fitting = []
    for column in sorted(columns, key=lambda column: column.rank):
        need = _minimal_width(column, rows, width) + _PADDING
        if not column.rank or need <= room:
            fitting.append(column)
            room -= need
    return [column for column in columns if column in fitting]


def _drop_empty(columns: Sequence[ResultColumn], rows: Sequence[ResultRow]) -> list[ResultColumn]:
    return [column for column in columns if any(column.text(row) for row in rows)]


def _column_notes(columns: Sequence[ResultColumn]) -> Iterator[str]:
    yield from dict.fromkeys(column.note for column in columns if column.note)


def _format_reads(count: int) -> str:
    return "once" if count == 1 else f"for {count} choices"


def _row_note(row: ResultRow) -> str:
    reads = f"the test set was read {_format_reads(row['test_reads'])}" if row["test_reads"] > 1 else None
    return "; ".join(filter(None, [row["note"], reads]))
