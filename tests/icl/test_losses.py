"""The losses against mpmath, loops in float64 and transformers' own; masks, digits, gradients, what is learned."""

import itertools
import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.loss.loss_utils import ForCausalLMLoss

from hyperbolic.testing import oracle
from icl.lift import TEMPERATURE_BOUNDS
from icl.losses import (
    AnchorLoss,
    ContrastiveLoss,
    RelationalLoss,
    StateLoss,
    answer_cross_entropy,
    answer_positions,
    attention_kl,
    logit_kl,
    outputs,
    states,
)

CURVATURES = (0.01, 0.1, 1.0)
SETTINGS = [
    (kind, metric, scale)
    for kind, metric, scale in itertools.product(
        (AnchorLoss, RelationalLoss, ContrastiveLoss), states.METRICS, ("unit", "paper", "layer", "raw")
    )
    if not (metric == "l2" and scale == "paper")
    and not (metric == "geodesic" and kind is not AnchorLoss and scale in ("paper", "raw"))
]
each_setting = pytest.mark.parametrize(("kind", "metric", "scale"), SETTINGS)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def made(
    layers: int, *shape: int, noise: float = 0.3, dtype: torch.dtype = torch.float32, mean: float = 0.5
) -> tuple[list[Tensor], list[Tensor]]:
    """States of a student and a teacher whose tokens differ in length, as those of real models do."""
    teacher = [(mean + normal(*shape, seed=i)) * (1 + normal(*shape[:-1], 1, seed=50 + i).abs()) for i in range(layers)]
    student = [t + noise * normal(*shape, seed=100 + i) for i, t in enumerate(teacher)]
    return [s.to(dtype).requires_grad_() for s in student], [t.to(dtype) for t in teacher]


def layer_norm(h: Tensor, eps: float = 1e-5) -> list[mpmath.mpf]:
    values = oracle.exact(h)
    mean = mpmath.fsum(values) / len(values)
    deviation = mpmath.sqrt(mpmath.fsum((a - mean) ** 2 for a in values) / len(values) + mpmath.mpf(eps))
    return [(a - mean) / deviation for a in values]


def in_numpy(h: Tensor, t: Tensor, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Features of rows (N, D), in float64."""
    pair = []
    a, b = (x.detach().double().numpy() for x in (h, t))
    for x in (a, b):
        centred = x - x.mean(1, keepdims=True)
        if scale == "unit":
            pair.append(centred / np.sqrt(x.var(1, keepdims=True) + 1e-5) / math.sqrt(x.shape[1]))
        elif scale == "layer":
            pair.append(centred / np.sqrt((b.var(1) + 1e-5).mean()) / math.sqrt(x.shape[1]))
        else:
            pair.append(x / math.sqrt(x.shape[1]))
    return pair[0], pair[1]


def distances(x: np.ndarray, y: np.ndarray, metric: str, c: float) -> np.ndarray:
    """The hyperbolic law of cosines, or Pythagoras."""
    if metric == "l2":
        return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))
    a, b = (math.sqrt(c) * np.linalg.norm(p, axis=1) for p in (x, y))
    cosine = (x @ y.T) * c / np.outer(a, b)
    cosh = np.outer(np.cosh(a), np.cosh(b)) - np.outer(np.sinh(a), np.sinh(b)) * cosine
    return np.arccosh(np.maximum(1, cosh)) / math.sqrt(c)


# --- values --------------------------------------------------------------------------------------------------------


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
            found, wanted = (distances(a, a, metric, c)[off] for a in (u, v))
            want.append((((found - wanted) / wanted.mean()) ** 2).mean())
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


def test_layers_are_chosen_and_averaged() -> None:
    student, teacher = made(4, 2, 3, 8)
    mask = torch.ones(2, 3, dtype=torch.bool)
    one = [AnchorLoss(layers=[i])(student, teacher, mask).item() for i in range(4)]
    assert len({round(a, 6) for a in one}) == 4
    assert AnchorLoss(layers=(0, -1))(student, teacher, mask).item() == pytest.approx((one[0] + one[3]) / 2)
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


# --- digits --------------------------------------------------------------------------------------------------------


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


# --- a learned geometry --------------------------------------------------------------------------------------------


def learned(kind: type[StateLoss] = AnchorLoss, metric: str = "geodesic") -> StateLoss:
    torch.manual_seed(0)
    return kind(metric, feature_scale="lift", learn_curvature=metric == "geodesic", width=24, dim=6)


def gradients(loss: StateLoss, student: list[Tensor], teacher: list[Tensor], seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    loss.zero_grad()
    for s in student:
        s.grad = None
    mask = torch.ones(student[0].shape[:2], dtype=torch.bool)
    loss(student, teacher, mask).backward()
    found = {name: p.grad.clone() for name, p in loss.named_parameters() if p.grad is not None}
    return found | {f"state {i}": s.grad.clone() for i, s in enumerate(student)}


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


# --- outputs -------------------------------------------------------------------------------------------------------


def labels_of(batch: int, length: int, vocabulary: int) -> Tensor:
    labels = torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(0))
    for i in range(batch):
        labels[i, : i + 2] = -100
    labels[0, -1] = -100
    return labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_is_that_of_transformers(dtype: torch.dtype) -> None:
    logits, labels = (5 * normal(3, 7, 11)).to(dtype).requires_grad_(), labels_of(3, 7, 11)
    got, want = answer_cross_entropy(logits, labels), ForCausalLMLoss(logits, labels, vocab_size=11)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(*(torch.autograd.grad(a, logits)[0] for a in (got, want)))


def test_cross_entropy_in_half_precision_is_that_of_its_numbers() -> None:
    """300 answers: a mean in bfloat16 would stand still at 256."""
    logits = (5 * normal(1, 301, 50)).bfloat16()
    labels = torch.randint(50, (1, 301), generator=torch.Generator().manual_seed(0))
    want = answer_cross_entropy(logits.double(), labels)
    torch.testing.assert_close(answer_cross_entropy(logits, labels).double(), want, rtol=1e-6, atol=0)


def test_no_answers() -> None:
    logits = normal(2, 4, 5).requires_grad_()
    nothing = torch.full((2, 4), -100)
    for loss in (
        answer_cross_entropy(logits, nothing),
        logit_kl(logits, normal(2, 4, 5, seed=1), answer_positions(nothing)),
    ):
        assert loss.item() == 0
        assert (torch.autograd.grad(loss, logits)[0] == 0).all()


def test_the_first_answer_is_predicted_by_the_last_prompt_token() -> None:
    labels = torch.tensor([[-100, -100, -100, 5, 6, -100], [4, 5, -100, -100, -100, 9]])
    want = [[False, False, True, True, False, False], [True, False, False, False, True, False]]
    assert answer_positions(labels).tolist() == want


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_logit_kl_against_mpmath(size: float, temperature: float) -> None:
    student, teacher = size * normal(2, 3, 7), size * normal(2, 3, 7, seed=1)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    student.requires_grad_()
    with oracle.digits(60):
        values, gradient = [], torch.zeros(2, 3, 7)
        for i, j in mask.nonzero().tolist():
            p, q = (
                [mpmath.exp(a / mpmath.mpf(temperature)) for a in oracle.exact(x[i, j])] for x in (teacher, student)
            )
            p, q = ([a / mpmath.fsum(x) for a in x] for x in (p, q))
            values.append(mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(p, q)) * temperature**2)
            gradient[i, j] = torch.tensor([float((b - a) * temperature / 3) for a, b in zip(p, q)])
        want = float(mpmath.fsum(values) / 3)
    got = logit_kl(student, teacher, mask, temperature)
    assert got.item() == pytest.approx(want, rel=1e-5)
    torch.testing.assert_close(torch.autograd.grad(got, student)[0], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logit_kl_of_equal_logits_is_exactly_zero(dtype: torch.dtype) -> None:
    student = (3 * normal(4, 100)).to(dtype).requires_grad_()
    loss = logit_kl(student, student.detach().clone(), torch.ones(4, dtype=torch.bool), 2.0)
    assert loss.item() == 0
    gradient = torch.autograd.grad(loss, student)[0]
    assert gradient.dtype == dtype
    assert (gradient == 0).all()


def test_logit_kl_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = normal(3, 5, 11, dtype=torch.float64).requires_grad_(), normal(3, 5, 11, seed=1).double()
    mask = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)) < 0.7
    whole = logit_kl(student, teacher, mask)
    monkeypatch.setattr(outputs, "CHUNK", 23)  # two rows
    parts = logit_kl(student, teacher, mask)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(*(torch.autograd.grad(a, student)[0] for a in (parts, whole)))
    assert torch.autograd.gradcheck(lambda s: logit_kl(s, teacher, mask, 2.0), student)


def test_tokens_that_are_ruled_out() -> None:
    student, teacher = normal(1, 5), normal(1, 5, seed=1)
    mask = torch.tensor([True])
    want = logit_kl(student[:, :4], teacher[:, :4], mask)
    student[:, 4] = teacher[:, 4] = -math.inf
    student.requires_grad_()
    got = logit_kl(student, teacher, mask)
    torch.testing.assert_close(got, want)
    assert torch.autograd.grad(got, student)[0].isfinite().all()


def attention(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Causal, with a share of the mass elsewhere."""
    scores = normal(*shape, seed=seed, dtype=dtype) + torch.full(shape[-2:], -math.inf).triu(1)
    elsewhere = normal(*shape[:-1], 1, seed=seed + 1, dtype=dtype)
    return torch.cat([elsewhere, scores], -1).softmax(-1)[..., 1:]


def test_attention_kl_against_loops() -> None:
    student, teacher = attention(0, 2, 3, 4, 4), attention(5, 2, 3, 4, 4)
    mask = torch.tensor([[True, True, True, False], [False, True, True, True]])
    total = 0.0
    for b, h, i in itertools.product(range(2), range(3), range(4)):
        if mask[b, i]:
            p, q = (a[b, h, i][mask[b]].numpy() for a in (teacher, student))
            p, q = p / p.sum(), q / q.sum()
            total += sum(x * math.log(x / y) for x, y in zip(p, q) if x > 0)
    got = attention_kl(student, teacher, mask, mask)
    assert got.item() == pytest.approx(total / (3 * mask.sum().item()), rel=1e-12)
    share = torch.rand(2, 3, 4, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attention_kl(share * student, (1 - share) * teacher, mask, mask), got)


def test_gradient_of_attention_kl() -> None:
    teacher, mask = attention(5, 2, 2, 3, 3), torch.tensor([[True, True, False], [True, True, True]])
    scores = normal(2, 2, 3, 3, dtype=torch.float64).requires_grad_()
    causal = torch.full((3, 3), -math.inf).triu(1)
    assert torch.autograd.gradcheck(
        lambda s: attention_kl((s + causal).softmax(-1), teacher, mask, mask),
        scores,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_without_mass(dtype: torch.dtype) -> None:
    student, teacher = (attention(seed, 1, 2, 3, 3, dtype=torch.float32).to(dtype) for seed in (0, 5))
    teacher[0, 0, 2] = 0  # all on the demonstrations
    student[0, 1, 2, 0] = 0  # no longer a number of its type
    student[0, 0, 0, 0] = math.nan  # of a token that does not count
    student.requires_grad_()
    mask, keys = torch.tensor([[False, True, True]]), torch.ones(1, 3, dtype=torch.bool)
    for valid in (mask, torch.zeros_like(mask)):
        for key_mask in (keys, ~keys):
            loss = attention_kl(student, teacher, valid, key_mask)
            assert loss.isfinite()
            assert loss.dtype == torch.float32
            assert torch.autograd.grad(loss, student)[0].isfinite().all()
            if not (valid.any() and key_mask.any()):
                assert loss.item() == 0


# --- arguments -----------------------------------------------------------------------------------------------------


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
        (AnchorLoss, {"layers": []}, "at least one layer"),
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
    with pytest.raises(ValueError, match=r"layers must name some of the 1 layers given, got \(1,\)"):
        AnchorLoss(layers=[1])([a], [a], mask)
    with pytest.raises(ValueError, match="width 24, got 4"):
        learned()([a], [a], mask)


def test_arguments_of_losses_on_outputs() -> None:
    a, mask = torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"answer_cross_entropy: .*got \(2, 3, 4\) and \(2, 4\)"):
        answer_cross_entropy(a, torch.zeros(2, 4).long())
    with pytest.raises(ValueError, match="logit_kl: student, teacher and mask"):
        logit_kl(a, a[..., :3], mask)
    with pytest.raises(TypeError, match="logit_kl: mask must be bool"):
        logit_kl(a, a, mask.float())
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            logit_kl(a, a, mask, temperature)
    heads = torch.zeros(2, 5, 3, 4)
    keys = torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="attention_kl: student, teacher and mask"):
        attention_kl(heads, heads, keys, keys)
    with pytest.raises(ValueError, match=r"key_mask must be \(2, 4\), got \(2, 3\)"):
        attention_kl(heads, heads, mask, mask)
    with pytest.raises(TypeError, match="key_mask must be bool"):
        attention_kl(heads, heads, mask, keys.float())
