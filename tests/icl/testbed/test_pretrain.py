"""Training of the testbed: the same every time, interrupted or not."""

import math
from pathlib import Path

import pytest
import torch

from icl.testbed import episodes, pretrain


def test_objective_by_hand() -> None:
    predicted = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [9.0, 9.0]]])
    batch = episodes.EpisodeBatch(
        input_ids=torch.tensor([[0, 0, 0, 1]]),
        images=torch.tensor([]),
        weights=torch.tensor([[0.0, 1.0, 0.1, 0.5]]),
        judged=torch.tensor([[False, True, False, True]]),
    )
    losses = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(1)), math.log(1 + math.exp(-3))]
    loss, accuracy = pretrain.objective(predicted, batch)
    assert loss.item() == pytest.approx((losses[0] + 0.1 * losses[1] + 0.5 * losses[2]) / 1.6, rel=1e-6)
    assert accuracy == 1
    assert pretrain.objective(predicted.flip(2), batch)[1] == 0


def test_learning_rate() -> None:
    phase = pretrain.PretrainingPhase("any", 1000, 2e-3, warm_up=100, decay=0.25)
    got = [pretrain.learning_rate(phase, step) for step in (0, 49, 99, 500, 750, 875, 999)]
    assert got == pytest.approx([2e-5, 1e-3, 2e-3, 2e-3, 2e-3, 1e-3, 8e-6])


SHORT = (
    pretrain.PretrainingPhase("bare", 8, 3e-3, warm_up=4, until=0.0001, chat=False, fewest_classes=6),
    pretrain.PretrainingPhase("chat", 5, 2e-3, decay=0.3, digit_names=0.5),
)


class KilledError(Exception):
    pass


def test_a_run_that_was_killed_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "PHASES", SHORT)
    monkeypatch.setattr(pretrain, "_CHECKPOINT_EVERY", 3)
    whole = pretrain.Pretraining("base", 1, tmp_path / "whole")
    states: list[tuple[int, int, float]] = []
    pictures: list[list[int]] = []
    objective = pretrain.objective

    def recorded(predicted: torch.Tensor, batch: episodes.EpisodeBatch) -> tuple[torch.Tensor, torch.Tensor]:
        pictures.append(batch.images.tolist())
        return objective(predicted, batch)

    monkeypatch.setattr(pretrain, "objective", recorded)
    want = whole.run(lambda state: states.append((state.phase, state.step, state.loss)))
    assert states[-1][:2] == (1, 5)
    assert all(a != b for i, a in enumerate(pictures) for b in pictures[:i]), "data came twice"

    def die(state: pretrain.PretrainingState) -> None:
        if (state.phase, state.step) == (1, 4):
            raise KilledError

    with pytest.raises(KilledError):
        pretrain.Pretraining("base", 1, tmp_path / "cut").run(die)
    later: list[tuple[int, int, float]] = []
    cut = pretrain.Pretraining("base", 1, tmp_path / "cut")
    got = cut.run(lambda state: later.append((state.phase, state.step, state.loss)))
    assert later == states[-2:], "two steps were left after the checkpoint"
    for (name, a), (_, b) in zip(want.state_dict().items(), got.state_dict().items()):
        assert torch.equal(a, b), name
    assert cut.state.total == whole.state.total
    with pytest.raises(ValueError, match="style 'base' and seed 1"):
        pretrain.Pretraining("base", 2, tmp_path / "cut")


def test_no_breakthrough_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "PHASES", (pretrain.PretrainingPhase("bare", 2, 1e-3, until=0.99, chat=False),))
    with pytest.raises(pretrain.NoBreakthroughError, match="try a seed other than 5"):
        pretrain.Pretraining("base", 5, tmp_path).run(lambda state: None)
