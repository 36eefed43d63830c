"""Trials: what they are trained on, and their bounds."""

from dataclasses import replace

import pytest

from icl.testbed import images
from icl.testbed.prepared_task import BASES
from icl.testbed.tasks import TASKS
from icl.testbed.trials import TRIALS, AccuracyBound, Trial, training_examples

TRIAL = Trial("", "options", (), data=6)


@pytest.mark.parametrize("shots", [1, 4, 16])
def test_shots(shots: int) -> None:
    for example, whole in zip(
        training_examples(replace(TRIAL, shots=shots), 1), training_examples(TRIAL, 1), strict=True
    ):
        *before, query = example.teacher
        assert query is whole.teacher[-1]
        assert [message["role"] for message in before] == ["user", "assistant"] * shots
        said = [message["content"][0]["text"] for message in before[1::2]]
        assert example.answer in said
        pairs = [(id(a), id(b)) for a, b in zip(whole.teacher[::2], whole.teacher[1::2])]
        assert {(id(a), id(b)) for a, b in zip(before[::2], before[1::2])} <= set(pairs)


def test_data() -> None:
    one = training_examples(replace(TRIAL, task="fixed_map", data="one a class"), 2)
    digits = images.load_digits("train").labels
    assert sorted(int(digits[int(e.id.removeprefix("train-"))]) for e in one) == list(range(10))
    unlabelled = training_examples(replace(TRIAL, task="fixed_map", data="unlabelled"), 2)
    assert len(unlabelled) == 300
    assert {e.answer for e in unlabelled} == {None}
    first = unlabelled[0].teacher[:-1]
    assert len({m["content"][0]["text"] for m in first[1::2]}) == 10
    assert all(e.teacher[:-1] == first and e.teacher[-1] is e.student[-1] for e in unlabelled)
    assert len(training_examples(TRIAL, 2)) == 6


def test_trials() -> None:
    assert len(BASES) == 3
    assert len({trial.key for trial in TRIALS}) == len(TRIALS)
    assert {trial.task for trial in TRIALS} <= set(TASKS)
    assert AccuracyBound(0.9).holds(0.9)
    assert not AccuracyBound(0.9).holds(0.89)
    assert AccuracyBound(0.1, upper=True).holds(0.1)
    assert not AccuracyBound(0.1, upper=True).holds(0.11)
