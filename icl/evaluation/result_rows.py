"""The rows of a table of results, each a mean over the seeds of one way to answer one test set."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median
from typing import Any, TypeAlias

from icl.evaluation.measurement import Cost, Measurement, RowKey
from icl.evaluation.metrics.intervals import mean_interval

ZERO_SHOT, K_SHOT = "zero-shot", "k-shot"
"""Methods that are no adapters."""
ResultRow: TypeAlias = dict[str, Any]
# The one setting in which rows of a table may differ.
_OWN_SETTING = "training"


def result_rows(measurements: Sequence[Measurement]) -> list[ResultRow]:
    """Return a row for each model, task, method, number of demonstrations and strategy, all with the same keys.

    Scores are means over seeds, of which the last choice counts. Intervals, of 95 %, are for seeds (Student's) where
    there are two or more, else for examples (:attr:`MetricScore.interval`): ``interval_of`` says which. ``test_reads``
    is how many choices were measured on the test set of a seed, at the most. Times in milliseconds are the ratio to
    zero-shot, measured in turns, times zero-shot's median in all rows of the model and task: the machine may have been
    slower when one row was measured than when another was. A row whose settings are not those that its model and task
    were last measured with has a note that says so, and is compared with none.
    """
    groups: dict[RowKey, list[Measurement]] = {}
    settings: dict[tuple[str, ...], dict[str, str]] = {}
    bases: dict[str, set[str]] = {}
    teachers: dict[tuple[Any, ...], str] = {}
    for measurement in measurements:
        groups.setdefault(measurement.row, []).append(measurement)
        settings.setdefault(measurement.row[:3], {}).update(measurement.settings)
        bases.setdefault(measurement.model, set()).add(measurement.base)
        if measurement.distances is not None:
            teachers[(*measurement.row[:3], measurement.seed)] = measurement.distances.prompts
    metrics = list(dict.fromkeys(name for measurement in measurements for name in measurement.scores))
    tables: dict[tuple[str, ...], list[tuple[ResultRow, list[Measurement]]]] = {}
    for key in sorted(groups, key=lambda key: ({ZERO_SHOT: 0, K_SHOT: 1}.get(key[3], 2), key[4])):
        table = key[:3]
        current = [_drop_other_teacher(m, teachers.get((*table, m.seed))) for m in _latest_by_seed(groups[key])]
        row = _summarise(groups[key], current, metrics)
        if len(bases[row["model"]]) > 1:
            row["model"] += f" ({key[1][:6]})"  # other weights of the same name
        changed = [n for n, v in current[-1].settings.items() if n != _OWN_SETTING and v != settings[table][n]]
        if changed:
            warning = f"other {', '.join(changed)} than rows measured later"
            row["note"] = "; ".join(filter(None, [row["note"], warning]))
        # what cannot be compared is a table by itself
        tables.setdefault((*table, *(map(str, key) if changed else ())), []).append((row, current))
    for rows in tables.values():
        _add_times(rows)
    first = {key[:3]: place for place, key in reversed(list(enumerate(groups)))}
    ordered = sorted(tables, key=lambda key: (first[key[0], key[1], key[2]], len(key)))
    return [row for key in ordered for row, _ in tables[key]]


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same keys as CSV with six digits, or nothing where there are none."""
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    return out.getvalue()


def _latest_by_seed(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return what a row is a mean of: one a seed, with the settings and metrics that were measured last.

    Seeds that decide nothing, by which the same prompts were answered with the same weights, are one.
    """
    last = measurements[-1]
    same = [m for m in measurements if m.settings == last.settings and set(last.scores) <= set(m.scores)]
    by_seed = {measurement.seed: measurement for measurement in same}
    return list({(m.test, m.choice): m for m in by_seed.values()}.values())


def _drop_other_teacher(measurement: Measurement, prompts: str | None) -> Measurement:
    """Return the measurement without distances from another teacher than the one that was compared with last."""
    distances = measurement.distances
    return measurement if distances is None or distances.prompts == prompts else replace(measurement, distances=None)


def _summarise(group: Sequence[Measurement], current: Sequence[Measurement], metrics: Sequence[str]) -> ResultRow:
    """Return a row, but for its times: ``current`` is what counts of all that were measured for it."""
    reads: dict[tuple[int, str], set[str]] = {}
    for measurement in group:
        reads.setdefault((measurement.seed, measurement.test), set()).add(measurement.choice)
    last = current[-1]
    row: ResultRow = {name: getattr(last, name) for name in ("model", "base", "task", "method", "shots", "strategy")}
    bounded = False
    for name in metrics:
        scores = [m.scores[name] for m in current] if all(name in m.scores for m in current) else []
        values = [score.value for score in scores]
        bounds = mean_interval(values) if len(values) > 1 else scores[0].interval if scores else None
        bounded |= bounds is not None
        row[name] = fmean(values) if values else None
        row[f"{name}_low"], row[f"{name}_high"] = bounds or (None, None)
    row["interval_of"] = ("seeds" if len(current) > 1 else "examples") if bounded else None
    row["seeds"], row["examples"] = len(current), round(fmean(len(m.answers) for m in current))
    row["parameters"] = last.parameters
    row["train_seconds"] = _mean_of_known(m.train_seconds for m in current)
    row |= dict.fromkeys(f"{kind}_{of}" for kind in ("prefill", "decode") for of in ("ms", "of_zero_shot", "of_k_shot"))
    for name in ("tokens", "prefill_flops", "decode_flops", "cache_bytes", "peak_bytes"):
        row[name] = _mean_of_known(getattr(m.cost, name) for m in current)
    for name, column in (("geodesic", "geodesic"), ("l2", "l2"), ("attention", "attention_kl")):
        row[column] = _mean_of_known(getattr(m.distances, name, None) for m in current)
    row["test_reads"] = max(map(len, reads.values()))
    row["note"] = "; ".join(dict.fromkeys(m.note for m in current if m.note)) or None
    return row


def _add_times(table: Sequence[tuple[ResultRow, Sequence[Measurement]]]) -> None:
    """Add the times of rows that are compared with each other, from ratios, so that no row contradicts another."""
    costs = [measurement.cost for _, measurements in table for measurement in measurements]
    most = max((row for row, _ in table if row["method"] == K_SHOT), key=lambda row: row["shots"], default=None)
    for kind in ("prefill", "decode"):
        zero_ms = median(getattr(cost, f"zero_{kind}_ms") for cost in costs)
        for row, measurements in table:
            ratio = _mean_of_known(_divide_times(m.cost, kind) for m in measurements)
            row[f"{kind}_of_zero_shot"] = ratio
            row[f"{kind}_ms"] = None if ratio is None else ratio * zero_ms
        k_shot = most and most[f"{kind}_of_zero_shot"]
        for row, _ in table:
            ratio = row[f"{kind}_of_zero_shot"]
            row[f"{kind}_of_k_shot"] = ratio / k_shot if ratio and k_shot else None


def _divide_times(cost: Cost, kind: str) -> float | None:
    """Return the multiple of zero-shot's time; ``None`` where a loaded machine swallowed a difference of times."""
    own, zero_shot = getattr(cost, f"{kind}_ms"), getattr(cost, f"zero_{kind}_ms")
    return own / zero_shot if own > 0 and zero_shot > 0 else None


def _mean_of_known(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
