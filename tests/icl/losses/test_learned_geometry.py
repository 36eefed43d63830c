"""What losses on states learn of their geometry: a lift, and the curvature."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from icl.common.bounded import TEMPERATURE_BOUNDS
from icl.losses import (
    AnchorLoss,
    ContrastiveLoss,
    RelationalLoss,
    StateLoss,
    states,
)
from tests.icl.compared import learned, made


def gradients(loss: StateLoss, student: list[Tensor], teacher: list[Tensor], seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    loss.zero_grad()
    for s in student:
        s.grad = None
    mask = torch.ones(student[0].shape[:2], dtype=torch.bool)
    loss(student, teacher, mask).backward()
    grads = {name: p.grad.clone() for name, p in loss.named_parameters() if p.grad is not None}
    return grads | {f"state {i}": s.grad.clone() for i, s in enumerate(student)}


def test_a_fixed_geometry_has_no_parameters() -> None:
    assert list(AnchorLoss().parameters()) == []


def test_lift_starts_with_orthogonal_rows_and_keeps_the_teachers_mean_radius() -> None:
    loss = learned()
    weight = loss.head.weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(6), rtol=0, atol=1e-5)
    _, (teacher,) = made(1, 4, 5, 24)
    mask = torch.ones(4, 5, dtype=torch.bool)
    # a student at the origin is as far as the teacher's radius
    assert loss.eval()([torch.zeros_like(teacher)], [teacher], mask).item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("metric", states.METRICS)
@pytest.mark.parametrize("kind", [AnchorLoss, RelationalLoss, ContrastiveLoss])
def test_the_comparison_trains_the_student_and_the_teacher_trains_the_geometry(
    kind: type[StateLoss], metric: str
) -> None:
    loss = learned(kind, metric)
    student, teacher = made(2, 4, 5, 24)
    other = [s.detach().roll(1, 0).requires_grad_() for s in student]
    here, there = (gradients(loss, s, teacher) for s in (student, other))
    names = {name for name, _ in loss.named_parameters()}
    assert names == {"head.weight", "raw_temperature"} | ({"raw_c"} if metric == "geodesic" else set())
    for name in names:
        assert (here[name] != 0).any()
        torch.testing.assert_close(here[name], there[name], rtol=0, atol=0)
    assert not torch.equal(here["state 0"], there["state 0"])
    still = gradients(loss.eval(), student, teacher)
    assert set(still) == {"state 0", "state 1"}
    for name, g in still.items():
        torch.testing.assert_close(g, here[name], rtol=0, atol=0)


def test_no_lift_without_content_is_better_than_the_start() -> None:
    _, teacher = made(1, 8, 8, 24)
    mask = torch.ones(8, 8, dtype=torch.bool)

    def fit(change: Callable[[Tensor], Tensor]) -> float:
        loss = learned()
        with torch.no_grad():
            loss.head.weight.copy_(change(loss.head.weight))
            torch.manual_seed(1)
            return loss(teacher, teacher, mask).item()  # the comparison is 0

    start = fit(lambda w: w)
    assert fit(torch.zeros_like) == pytest.approx(math.log(64), rel=1e-5)
    assert fit(lambda w: 1e-6 * w) > start
    assert fit(lambda w: w * torch.tensor([1.0, 0, 0, 0, 0, 0])[:, None]) > start
    assert fit(lambda w: 50 * w) == pytest.approx(start, rel=1e-3)


def test_training_keeps_the_lift_from_collapsing() -> None:
    loss = learned()
    student, teacher = made(1, 8, 8, 24)
    mask = torch.ones(8, 8, dtype=torch.bool)
    before = loss.eval()(student, teacher, mask).item()
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-2)
    torch.manual_seed(0)
    loss.train()
    values = []
    for _ in range(150):
        optimizer.zero_grad()
        value = loss(student, teacher, mask)
        value.backward()
        optimizer.step()
        values.append(value.item())
    # the fit gets better, and the student is not called near because all is
    assert np.mean(values[-20:]) < np.mean(values[:20])
    assert loss.eval()(student, teacher, mask).item() > before / 2
    singular = torch.linalg.svdvals(loss.head.weight.detach())
    assert singular[-1] > 0.1 * singular[0]
    for value, (low, high) in ((loss.c, states.CURVATURE_BOUNDS), (loss.temperature, TEMPERATURE_BOUNDS)):
        assert low < value.item() < high
    assert loss.c.item() != pytest.approx(0.1, rel=1e-3)


def test_a_learned_curvature_stays_inside_its_bounds() -> None:
    loss = AnchorLoss(c=0.3, learn_curvature=True)
    assert loss.c.item() == pytest.approx(0.3, rel=1e-6)
    for raw, want in zip((-200.0, 200.0), states.CURVATURE_BOUNDS):
        with torch.no_grad():
            loss.raw_c.fill_(raw)
        assert loss.c.item() == pytest.approx(want)


def test_autocast_changes_nothing() -> None:
    student, teacher = made(1, 4, 5, 24)
    mask = torch.ones(4, 5, dtype=torch.bool)
    for loss in (AnchorLoss(), learned().eval(), learned(ContrastiveLoss, "l2").eval()):
        want = loss(student, teacher, mask)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loss(student, teacher, mask), want)
