"""Scores of the testbed: their intervals, the choice of demonstrations, and what the weights reach."""

import math

import pytest
import torch

from icl.testbed import TASKS, accuracy
from tests.icl.digit_chats import SHIPPED, card_scores


def test_wilson_interval_solves_its_equation() -> None:
    for right, prompts in ((0, 30), (7, 30), (354, 360)):
        score = accuracy.TestbedScore("any", "0", right, prompts)
        for bound in score.interval:
            p = right / prompts
            deviation = (p - bound) ** 2 - 1.959963985**2 * bound * (1 - bound) / prompts
            assert deviation == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("choice", ["class present", "nearest", "random", "class absent"])
def test_choices(choice: accuracy.Choice) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10).repeat_interleave(9)
    similarity = torch.randn(90, 90, generator=generator).fill_diagonal_(-torch.inf)
    shown = accuracy.choose_rows(choice, 5, labels, similarity, torch.Generator().manual_seed(1))
    assert shown.shape == (90, 5)
    assert not (shown == torch.arange(90)[:, None]).any()
    assert all(len(set(row)) == 5 for row in shown.tolist())
    present = (labels[shown] == labels[:, None]).any(1).float().mean()
    if choice == "nearest":
        want = [sorted((x.item(), i) for i, x in enumerate(row))[-5:] for row in similarity]
        assert shown.tolist() == [[i for _, i in row] for row in want]
    elif choice == "random":
        assert abs(present - (1 - math.comb(81, 5) / math.comb(89, 5))) < 0.15
    else:
        assert present == (choice == "class present")


@pytest.mark.parametrize("weights", SHIPPED)
def test_it_learns_in_context(weights: str) -> None:
    """What the frozen model has to reach for the tasks to tell methods apart."""
    accuracy = {key: score.accuracy for key, score in card_scores(weights).items()}
    assert accuracy["class present", "0"] <= 0.05
    for k in ("1", "2", "4", "8", "16"):
        assert accuracy["class present", k] >= 0.95
        assert accuracy["nearest", k] >= 0.95
        assert accuracy["class absent", k] <= 0.05
    assert accuracy["random", "1"] < accuracy["random", "4"] < accuracy["random", "16"] < 0.9
    for task in ("fixed_map", "parity", "many_to_one", "successor", "unseen_classes"):
        assert accuracy[task, "student"] <= 0.05
    assert accuracy["options", "student"] <= 0.40
    assert accuracy["last_block", "student"] <= 0.55
    assert accuracy["set_conflict", "student"] <= 0.60
    for task in TASKS:
        assert accuracy[task, "teacher"] >= 0.95, task
    assert accuracy["options", "teacher"] >= 0.97
