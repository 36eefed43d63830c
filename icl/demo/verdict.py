"""Plain answers from the tables of the demo: is an adapter as good as demonstrations, and which strategy is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icl.demo.jobs import BARE, SHOTS
from icl.demo.tables import MethodRow, StrategyRow

TASKS = {
    "options": "which of the four words in the prompt the digit is called, by ten words that only demonstrations tell",
    "last_block": "to follow the second of two blocks of demonstrations that contradict each other",
    "set_conflict": "to follow the words of one half of the vocabulary, where demonstrations contradict each other",
    "fixed_map": "the word that the digit is called, which no part of the prompt tells",
    "unseen_classes": "the same, for digits that had no label in training",
}
"""The skill that each task asks for."""


@dataclass(frozen=True)
class Verdict:
    """A task's best adapter beside the same model with and without demonstrations."""

    task: str
    bare: MethodRow
    shots: MethodRow
    best: MethodRow

    @property
    def skill(self) -> str:
        """The skill that the task asks for."""
        return TASKS.get(self.task, "")

    @property
    def reached(self) -> bool:
        """Whether the adapter's accuracy lies within the interval of 16 demonstrations, or above it."""
        return self.best.accuracy >= self.shots.low


def judge_tasks(rows: Sequence[MethodRow]) -> list[Verdict]:
    """Return the verdict of each task that was answered with and without demonstrations and with a trained adapter."""
    verdicts = []
    for task in dict.fromkeys(row.task for row in rows):
        by_method = {row.method: row for row in rows if row.task == task}
        trained = [row for row in by_method.values() if row.parameters]
        if trained and {BARE, SHOTS} <= set(by_method):
            best = max(trained, key=lambda row: row.accuracy)
            verdicts.append(Verdict(task, by_method[BARE], by_method[SHOTS], best))
    return verdicts


def headline(verdicts: Sequence[Verdict]) -> str:
    """Say on how many tasks an adapter reaches the quality of 16 demonstrations, and at which cost."""
    missed = [verdict.task for verdict in verdicts if not verdict.reached]
    answer = f"yes on {len(verdicts) - len(missed)} of {len(verdicts)} tasks"
    exceptions = f" (not on {_enumerate(missed)})" if missed else ""
    parts = [f"16-shot quality without a demonstration in the prompt: {answer}{exceptions}."]
    times = [verdict.best.latency for verdict in verdicts if verdict.best.latency is not None]
    shots = next((verdict.shots.latency for verdict in verdicts if verdict.shots.latency is not None), None)
    if times and shots is not None:
        least, most = f"{min(times):.2f}", f"{max(times):.2f}"
        spread = least if least == most else f"{least} to {most}"
        parts.append(f"At {spread} times the time of zero-shot, where 16 demonstrations take {shots:.2f} times.")
    return " ".join(parts)


def compare_strategies(rows: Sequence[StrategyRow]) -> str:
    """Say where the hyperbolic score selects better demonstrations than RICES, and where it does not."""
    rices = {row.shots: row for row in rows if row.strategy == "RICES"}
    pairs = [(row, rices[row.shots]) for row in rows if row.strategy == "hyperbolic" and row.shots in rices]
    better = [ours.shots for ours, theirs in pairs if ours.low > theirs.accuracy]
    worse = [ours.shots for ours, theirs in pairs if ours.high < theirs.accuracy]
    same = [ours.shots for ours, _ in pairs if ours.shots not in (*better, *worse)]
    groups = (("better", better), ("worse", worse), ("neither better nor worse, within the intervals,", same))
    comparison = "; ".join(f"{word} with {_enumerate(shots)}" for word, shots in groups if shots)
    if not better:
        return f"The hyperbolic score is not better than RICES on this bank: it is {comparison} demonstrations."
    return f"Against RICES the hyperbolic score is {comparison} demonstrations."


def _enumerate(values: Sequence[object]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last
