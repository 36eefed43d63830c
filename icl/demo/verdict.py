"""Plain answers from the tables of the demo: is an adapter as good as demonstrations, and which choice is best."""

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
    """A task's best adapter beside the same model with and without demonstrations.

    ``reached`` says whether the adapter's accuracy lies within the interval of 16 demonstrations, or above it.
    """

    task: str
    bare: MethodRow
    shots: MethodRow
    best: MethodRow

    @property
    def skill(self) -> str:
        return TASKS.get(self.task, "")

    @property
    def reached(self) -> bool:
        return self.best.accuracy >= self.shots.low


def verdicts(rows: Sequence[MethodRow]) -> list[Verdict]:
    """Return the outcome of every task that was answered with and without demonstrations and with a trained adapter."""
    found = []
    for task in dict.fromkeys(row.task for row in rows):
        by_method = {row.method: row for row in rows if row.task == task}
        trained = [row for row in by_method.values() if row.parameters]
        if trained and {BARE, SHOTS} <= set(by_method):
            best = max(trained, key=lambda row: row.accuracy)
            found.append(Verdict(task, by_method[BARE], by_method[SHOTS], best))
    return found


def headline(outcomes: Sequence[Verdict]) -> str:
    """Say on how many tasks an adapter reaches the quality of 16 demonstrations, and at which cost."""
    missed = [outcome.task for outcome in outcomes if not outcome.reached]
    answer = f"yes on {len(outcomes) - len(missed)} of {len(outcomes)} tasks"
    parts = [f"16-shot quality without a demonstration in the prompt: {answer}{_except(missed)}."]
    times = [outcome.best.latency for outcome in outcomes if outcome.best.latency is not None]
    shots = next((outcome.shots.latency for outcome in outcomes if outcome.shots.latency is not None), None)
    if times and shots is not None:
        least, most = f"{min(times):.2f}", f"{max(times):.2f}"
        spread = least if least == most else f"{least} to {most}"
        parts.append(f"At {spread} times the time of zero-shot, where 16 demonstrations take {shots:.2f} times.")
    return " ".join(parts)


def choice(rows: Sequence[StrategyRow]) -> str:
    """Say in plain words where the hyperbolic score chooses better demonstrations than RICES, and where it does not."""
    rices = {row.shots: row for row in rows if row.strategy == "RICES"}
    pairs = [(row, rices[row.shots]) for row in rows if row.strategy == "hyperbolic" and row.shots in rices]
    better = [ours.shots for ours, theirs in pairs if ours.low > theirs.accuracy]
    worse = [ours.shots for ours, theirs in pairs if ours.high < theirs.accuracy]
    same = [ours.shots for ours, _ in pairs if ours.shots not in (*better, *worse)]
    groups = (("better", better), ("worse", worse), ("neither better nor worse, within the intervals,", same))
    said = "; ".join(f"{word} with {_and(shots)}" for word, shots in groups if shots)
    if not better:
        return f"The hyperbolic score is not better than RICES on this bank: it is {said} demonstrations."
    return f"Against RICES the hyperbolic score is {said} demonstrations."


def _except(tasks: Sequence[str]) -> str:
    return f" (not on {_and(tasks)})" if tasks else ""


def _and(values: Sequence[object]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last
