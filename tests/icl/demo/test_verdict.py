"""Answers in words are what the tables say."""

from dataclasses import replace
from typing import Any

from icl.demo import tables, verdict


def result(method: str, accuracy: float, low: float, high: float, **others: Any) -> tables.MethodRow:
    return tables.MethodRow("options", method, accuracy, low, high, 3, "seeds", **others)


def test_headline() -> None:
    """Yes where the best trained adapter is within the interval of 16 demonstrations; a vector is not trained."""
    bare, shots = result("zero-shot", 0.2, 0.1, 0.3, latency=1.0), result("16-shot", 0.95, 0.9, 1.0, latency=2.5)
    weak, strong = (
        result(name, a, 0, 1, parameters=8, latency=t) for name, a, t in (("A", 0.5, 1.1), ("B", 0.91, 1.2))
    )
    vector = result("Task vector", 0.99, 0, 1, parameters=0, latency=1.0)
    other = [replace(row, task="parity") for row in (bare, shots, replace(weak, latency=1.4))]
    unanswered = [replace(strong, task="many_to_one")]
    verdicts = verdict.judge_tasks([bare, shots, weak, strong, vector, *other, *unanswered])
    assert [(each.task, each.best.method, each.reached) for each in verdicts] == [
        ("options", "B", True),
        ("parity", "A", False),
    ]
    assert verdict.headline(verdicts) == (
        "16-shot quality without a demonstration in the prompt: yes on 1 of 2 tasks (not on parity). "
        "At 1.20 to 1.40 times the time of zero-shot, where 16 demonstrations take 2.50 times."
    )


def choice(strategy: str, shots: int, accuracy: float) -> tables.StrategyRow:
    return tables.StrategyRow(strategy, shots, accuracy, accuracy - 0.02, accuracy + 0.02, 3, "seeds")


def test_choice_in_words() -> None:
    rices = [choice("RICES", shots, 0.8) for shots in (1, 4, 8, 16)]
    level = [choice("hyperbolic", shots, accuracy) for shots, accuracy in ((1, 0.7), (4, 0.81), (8, 0.79), (16, 0.8))]
    assert verdict.compare_strategies([*rices, *level]) == (
        "The hyperbolic score is not better than RICES on this bank: it is worse with 1; "
        "neither better nor worse, within the intervals, with 4, 8 and 16 demonstrations."
    )
    ahead = [choice("hyperbolic", shots, 0.9) for shots in (1, 4, 8, 16)]
    assert verdict.compare_strategies([*rices, *ahead]) == (
        "Against RICES the hyperbolic score is better with 1, 4, 8 and 16 demonstrations."
    )
