"""The losses on outputs against mpmath, loops in float64 and transformers' own."""

import itertools
import math

import mpmath
import pytest
import torch
from torch import Tensor
from transformers.loss.loss_utils import ForCausalLMLoss

from hyperbolic.testing import oracle
from icl.losses import (
    answer_cross_entropy,
    answer_positions,
    attention_kl,
    logit_kl,
    outputs,
)
from tests.icl.compared import (
    normal,
)


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
