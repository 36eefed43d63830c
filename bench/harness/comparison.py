"""Published figures beside measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.published import Row, Task
from harness.report import lines
from icl.evaluation import K_SHOT, ZERO_SHOT, Results
from icl.training import describe_method


def compare(name: str, task: Task, rows: Sequence[Row], results: Results, test: str | None) -> list[dict[str, Any]]:
    """A line for each row: what is published, and what was measured last on ``test`` in the same units, if it was."""
    base = next((measurement.base for measurement in reversed(results.measurements) if measurement.task == test), None)
    measured = [row for row in results.rows() if (row["task"], row["base"]) == (test, base)]
    found = {(row["method"], row["shots"], row["strategy"]): row for row in measured}
    zero = next((row.milliseconds for row in rows if row.milliseconds and not row.shots and row.config is None), None)
    compared = []
    for row in rows:
        if row.config is not None:
            key: tuple[Any, ...] = (describe_method(row.config), 0, None)
        else:
            key = (K_SHOT, row.shots, row.strategy) if row.shots else (ZERO_SHOT, 0, None)
        line: dict[str, Any] = {"task": task.title, "method": row.name, "published": row.figures[name]}
        line["published parameters, M"] = row.parameters
        line["published time"] = row.milliseconds / zero if row.milliseconds and zero else None
        line["published FLOP"] = row.flops
        notes = [f"not printed, chosen here: {', '.join(row.ours)}"] if row.ours else []
        if (seen := found.get(key)) is not None:
            value, low, high = (seen[name] for name in (task.metric, f"{task.metric}_low", f"{task.metric}_high"))
            line |= {"measured": 100 * value, "low": low and 100 * low, "high": high and 100 * high}
            line["difference"] = line["measured"] - line["published"]
            line |= {"parameters": seen["parameters"], "time": seen["prefill_of_zero_shot"], "seeds": seen["seeds"]}
            line["FLOP"] = seen["prefill_flops"] / found[ZERO_SHOT, 0, None]["prefill_flops"]
            line["examples"] = seen["examples"]
            notes += [seen["note"]] if seen["note"] else []
            notes += [f"test set read for {seen['test_reads']} choices"] if seen["test_reads"] > 1 else []
        compared.append({**line, "note": "; ".join(notes)})
    return compared


def markdown(compared: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of published and measured figures."""
    header = ("task", "method", "published", "measured (95 %)", "difference", "parameters, M", "time", "FLOP", "note")

    def pair(line: Mapping[str, Any], published: str, value: float | None) -> str:
        told, got = ("" if v is None else f"{v:.3g}" for v in (line[published], value))
        return f"{told} / {got}" if told or got else ""

    def written(line: Mapping[str, Any]) -> list[str]:
        got = line.get("measured")
        bounds = "" if line.get("low") is None else f" ({line['low']:.2f} to {line['high']:.2f})"
        count = line.get("parameters")
        return [
            line["task"],
            line["method"],
            f"{line['published']:.2f}",
            "" if got is None else f"{got:.2f}{bounds}",
            "" if got is None else f"{line['difference']:+.2f}",
            pair(line, "published parameters, M", count / 1e6 if count else None),
            pair(line, "published time", line.get("time")),
            pair(line, "published FLOP", line.get("FLOP")),
            line["note"],
        ]

    return "\n".join(lines(header, map(written, compared))) + "\n"
