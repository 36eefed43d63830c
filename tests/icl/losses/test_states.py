"""The losses on states against mpmath and loops in float64; masks, digits, gradients."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch

from hyperbolic.testing import oracle
from icl.losses import (
    AnchorLoss,
    ContrastiveLoss,
    RelationalLoss,
    StateLoss,
    states,
)
from tests.icl.compared import (
    CURVATURES,
    SETTINGS,
    distances,
    each_setting,
    in_numpy,
    layer_norm,
    learned,
    made,
    normal,
)

# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("scale", ["unit", "paper"])
@pytest.mark.parametrize("width", [8, 4096])
def test_anchor_against_mpmath(width: int, scale: str, c: float) -> None:
    student, teacher = made(2, 2, 2, width, noise=0.05)
    mask = torch.tensor([[True, False], [True, True]])
    with oracle.digits(40):
        radius = 1 if scale == "paper" else 1 / mpmath.sqrt(width)
        want = []
        for s, t in zip(student, teacher):
            for h, g in zip(s[mask], t[mask]):
                u, v = ([radius * a for a in layer_norm(x)] for x in (h, g))
                want.append(oracle.lorentz.dist_exp0(u, v, mpmath.mpf(c)) ** 2)
        mean = float(mpmath.fsum(want) / len(want))
    got = AnchorLoss(feature_scale=scale, c=c)(student, teacher, mask)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(mean, rel=1e-5)


# At paper scale the law of cosines has no digits: that is held against mpmath above.
@pytest.mark.parametrize(("kind", "metric", "scale"), [s for s in SETTINGS if s[2] != "paper"])
def test_values_against_loops_in_float64(kind: type[StateLoss], metric: str, scale: str) -> None:
    c = 0.7
    student, teacher = made(2, 3, 4, 16, dtype=torch.float64)
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(3)) < 0.7
    want = []
    for s, t in zip(student, teacher):
        u, v = in_numpy(s[mask], t[mask], scale)
        if kind is AnchorLoss:
            want.append((np.diagonal(distances(u, v, metric, c)) ** 2).mean())
        elif kind is RelationalLoss:
            off = ~np.eye(len(u), dtype=bool)
            ours, wanted = (distances(a, a, metric, c)[off] for a in (u, v))
            want.append((((ours - wanted) / wanted.mean()) ** 2).mean())
        else:
            exponent = -distances(u, v, metric, c) / states.TEMPERATURE
            want.append(np.mean(np.log(np.exp(exponent).sum(1)) - np.diagonal(exponent)))
    got = kind(metric, feature_scale=scale, c=c)(student, teacher, mask)
    assert got.item() == pytest.approx(float(np.mean(want)), rel=1e-9)


@pytest.mark.parametrize("kind", [AnchorLoss, RelationalLoss, ContrastiveLoss])
@pytest.mark.parametrize("scale", ["unit", "layer"])
def test_the_metrics_agree_where_space_is_flat(kind: type[StateLoss], scale: str) -> None:
    student, teacher = made(2, 3, 4, 16, dtype=torch.float64)
    mask = torch.ones(3, 4, dtype=torch.bool)
    flat, euclidean = (
        kind(metric, feature_scale=scale, c=1e-9)(student, teacher, mask) for metric in ("geodesic", "l2")
    )
    torch.testing.assert_close(flat, euclidean, rtol=1e-7, atol=0)


def test_layers_are_averaged() -> None:
    student, teacher = made(4, 2, 3, 8)
    mask = torch.ones(2, 3, dtype=torch.bool)
    one = [AnchorLoss()([s], [t], mask).item() for s, t in zip(student, teacher)]
    assert len({round(a, 6) for a in one}) == 4
    assert AnchorLoss()(student, teacher, mask).item() == pytest.approx(sum(one) / 4)


def test_radii_of_layer_features_are_those_of_the_states() -> None:
    """Features of unit scale forget the length of a state, those of layer scale do not."""
    teacher = [normal(1, 6, 32)]
    student = [2 * teacher[0]]
    mask = torch.ones(1, 6, dtype=torch.bool)
    assert AnchorLoss(feature_scale="unit")(student, teacher, mask).item() < 1e-8
    # exactly along the ray: the distance is the difference of the radii, whatever the curvature
    loss = AnchorLoss(feature_scale="layer", c=1.0)(student, teacher, mask).item()
    assert loss == pytest.approx(1.0, rel=1e-4)


def test_relations_ignore_what_moves_all_tokens_alike_unless_demonstrations_are_there() -> None:
    _, (teacher,) = made(1, 2, 4, 16)
    student = teacher[..., torch.randperm(16, generator=torch.Generator().manual_seed(0))]  # an isometry
    mask = torch.ones(2, 4, dtype=torch.bool)
    loss = RelationalLoss()
    assert loss([student], [teacher], mask).item() < 1e-10
    assert AnchorLoss()([student], [teacher], mask).item() > 0.1
    demonstrations = normal(2, 3, 16, seed=7)
    with_demonstrations = [[torch.cat([a, demonstrations], 1)] for a in (student, teacher)]
    assert loss(*with_demonstrations, torch.ones(2, 7, dtype=torch.bool)).item() > 0.01


# --- digits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("scale", ["unit", "paper", "layer", "raw"])
def test_anchor_is_finite_at_width_4096(scale: str, c: float, dtype: torch.dtype) -> None:
    student, teacher = made(2, 2, 4, 4096, dtype=dtype, noise=3)
    with torch.no_grad():
        student[0][0, 0] = teacher[0][0, 0] + 2.0**-7 * (normal(4096) > 2)  # nearly the same
        student[0][0, 1] = -teacher[0][0, 1]
        student[0][0, 2] = 0
        student[0][0, 3, 5] = 6e4  # what massive activations look like
    mask = torch.ones(2, 4, dtype=torch.bool)
    loss = AnchorLoss(feature_scale=scale, c=c)(student, teacher, mask)
    gradients = torch.autograd.grad(loss, student)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss > 0
    for g in gradients:
        assert g.dtype == dtype
        assert g.isfinite().all()
    # float16 has no number as small as most of the gradient
    assert all((g != 0).any() for g in gradients) or dtype == torch.float16
    wide = [[a.detach().double() for a in side] for side in (student, teacher)]
    torch.testing.assert_close(
        loss.detach().double(), AnchorLoss(feature_scale=scale, c=c)(*wide, mask), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize(("kind", "metric", "scale"), [s for s in SETTINGS if s[0] is not ContrastiveLoss])
def test_equal_states_give_exactly_zero(
    kind: type[StateLoss], metric: str, scale: str, c: float, dtype: torch.dtype
) -> None:
    width = 4096 if kind is AnchorLoss else 64
    student, _ = made(2, 2, 3, width, dtype=dtype)
    loss = kind(metric, feature_scale=scale, c=c)(
        student, [s.detach().clone() for s in student], torch.ones(2, 3, dtype=torch.bool)
    )
    assert loss.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, student))


@each_setting
def test_what_is_masked_is_never_looked_at(kind: type[StateLoss], metric: str, scale: str) -> None:
    student, teacher = made(2, 3, 4, 16)
    mask = torch.tensor([[True, True, False, True], [False] * 4, [True, False, False, False]])
    loss = kind(metric, feature_scale=scale)
    clean = loss(student, teacher, mask)
    gradients = torch.autograd.grad(clean, student)
    with torch.no_grad():
        for a, hole in zip((*student, *teacher), itertools.cycle((math.nan, math.inf, 1e30))):
            a[~mask] = hole
    dirty = loss(student, teacher, mask)
    torch.testing.assert_close(dirty, clean, rtol=0, atol=0)
    for g, h in zip(gradients, torch.autograd.grad(dirty, student)):
        torch.testing.assert_close(g, h, rtol=0, atol=0)
        assert (g[~mask] == 0).all()
        assert (g[mask] != 0).any()
    # the valid tokens alone, in one row
    packed = loss([s[mask][None] for s in student], [t[mask][None] for t in teacher], mask[mask][None])
    torch.testing.assert_close(packed, clean, rtol=1e-5, atol=0)


@each_setting
@pytest.mark.parametrize("shape", [(2, 3), (2, 0)])
def test_without_a_valid_token_the_loss_is_zero(
    kind: type[StateLoss], metric: str, scale: str, shape: tuple[int, int]
) -> None:
    student, teacher = made(2, *shape, 8)
    loss = kind(metric, feature_scale=scale)(student, teacher, torch.zeros(shape, dtype=torch.bool))
    assert loss.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, student))


@each_setting
def test_one_valid_token(kind: type[StateLoss], metric: str, scale: str) -> None:
    student, teacher = made(1, 2, 2, 8)
    mask = torch.tensor([[True, False], [False, False]])
    loss = kind(metric, feature_scale=scale)(student, teacher, mask)
    if kind is AnchorLoss:
        assert loss > 0.01
    else:  # there are no pairs and no negatives
        assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


@each_setting
def test_gradients(kind: type[StateLoss], metric: str, scale: str) -> None:
    student, teacher = made(1, 2, 3, 6, dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    loss = kind(metric, feature_scale=scale, c=0.5)
    assert torch.autograd.gradcheck(lambda s: loss([s], teacher, mask), student)


def test_no_gradient_to_the_teacher() -> None:
    student, teacher = made(1, 2, 3, 8)
    teacher[0].requires_grad_()
    mask = torch.ones(2, 3, dtype=torch.bool)
    for scale in ("unit", "layer"):
        AnchorLoss(feature_scale=scale)(student, teacher, mask).backward()
    assert teacher[0].grad is None
    assert student[0].grad is not None


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (AnchorLoss, {"metric": "cosine"}, "metric must be one of geodesic, l2, got 'cosine'"),
        (AnchorLoss, {"feature_scale": "big"}, "feature_scale must be one of .*, got 'big'"),
        (AnchorLoss, {"metric": "l2", "feature_scale": "paper"}, "averaged over the width"),
        (RelationalLoss, {"feature_scale": "paper"}, "feature_scale must be one of unit, layer, lift here"),
        (ContrastiveLoss, {"feature_scale": "raw"}, "feature_scale must be one of unit, layer, lift here"),
        (AnchorLoss, {"feature_scale": "paper", "learn_curvature": True}, "feature_scale must be one of"),
        (AnchorLoss, {"metric": "l2", "learn_curvature": True}, "of the metric 'geodesic'"),
        (AnchorLoss, {"c": 0.0}, r"c must be between 0.0 and inf, got 0.0"),
        (AnchorLoss, {"c": math.nan}, "c must be between"),
        (AnchorLoss, {"c": 10.0, "learn_curvature": True}, r"c must be between 0.001 and 10.0, got 10.0"),
        (AnchorLoss, {"feature_scale": "lift"}, "needs 1 <= dim <= width"),
        (AnchorLoss, {"feature_scale": "lift", "width": 4, "dim": 5}, "got dim 5 and width 4"),
        (AnchorLoss, {"width": 4, "dim": 2}, "got them with 'unit'"),
    ],
)
def test_options(kind: type[StateLoss], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: .*{message}"):
        kind(**options)


def test_arguments_of_losses_on_states() -> None:
    a, mask = torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    loss = AnchorLoss()
    for student, teacher in (([], []), ([a], [a, a])):
        with pytest.raises(ValueError, match="same layers, at least one"):
            loss(student, teacher, mask)
    for student, valid, layer in ((a[:, :2], mask, 1), (a, mask[:1], 0)):
        with pytest.raises(ValueError, match=rf"\(B, S, D\) twice and \(B, S\), got .* in layer {layer}"):
            loss([a, student], [a, a], valid)
    with pytest.raises(TypeError, match=r"mask must be bool, got torch.int64"):
        loss([a], [a], mask.long())
    with pytest.raises(TypeError, match=r"floating point, got torch.int64"):
        loss([a.long()], [a], mask)
    with pytest.raises(ValueError, match="width 24, got 4"):
        learned()([a], [a], mask)
