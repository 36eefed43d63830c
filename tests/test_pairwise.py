"""The reductions over all pairs, against the oracle, a loop and torch's cross entropy."""

from typing import Any

import pytest
import torch
from mpmath import mpf
from torch import Tensor

from hyperbolic import lorentz, pairwise, poincare
from hyperbolic.ops import dispatch
from hyperbolic.testing import Sampler, oracle, ulp_error

MODULES: dict[str, Any] = {"lorentz": lorentz, "poincare": poincare}
MODELS = pytest.mark.parametrize("model", sorted(MODULES))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@MODELS
def test_pairwise_dist(model: str, dtype: torch.dtype) -> None:
    for c in (0.1, 1.0, 10.0):
        sampler = Sampler(model, dtype, 4, c, 0, 8)
        x = sampler.point()
        y = torch.cat([x[:3], sampler.partner(x)])
        d = pairwise.pairwise_dist(x, y, model, c=c)
        assert d.shape == (8, 11)
        assert torch.equal(d, MODULES[model].pairwise_dist(x, y, c=c))
        assert not d[:, :3].diagonal().any()
        with oracle.digits():
            for i in range(8):
                for j in range(11):
                    p, q = oracle.exact(x[i]), oracle.exact(y[j])
                    want = getattr(oracle, model).dist(p, q, mpf(c)) if p != q else mpf(0)
                    assert ulp_error(d[i, j], want) <= (5 if dtype == torch.float64 else 1) if want else d[i, j] == 0


@MODELS
def test_batches_and_pieces(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is cut into pieces of the batch; neither that nor how shows in values or, beyond rounding, in gradients."""
    sampler = Sampler(model, torch.float64, 3, 1.0, 0, 10, max_radius=3.0)
    x = sampler.point().reshape(2, 5, 3).requires_grad_()
    y = sampler.point().reshape(2, 5, 3).requires_grad_()
    c = torch.tensor([1.0, 0.9], dtype=torch.float64, requires_grad=True)
    whole = pairwise.pairwise_dist(x, y, model, c=c)
    for i in range(2):
        for j in range(5):
            assert torch.equal(whole[i, :, j], MODULES[model].dist(x[i], y[i, j], c=c[i]))
    gradients = torch.autograd.grad(whole.sum(), (x, y, c))
    for piece in (1, 7, 40):
        monkeypatch.setitem(dispatch._PIECE, "cpu", piece)
        parts = pairwise.pairwise_dist(x, y, model, c=c)
        assert torch.equal(parts, whole)
        for a, b in zip(torch.autograd.grad(parts.sum(), (x, y, c)), gradients):
            torch.testing.assert_close(a, b, rtol=2.3e-16, atol=0)


@MODELS
def test_empty(model: str) -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    y = torch.rand(4, 3) / 3
    assert pairwise.pairwise_dist(x, y, model).shape == (0, 4)
    assert pairwise.pairwise_dist(y, x, model).shape == (4, 0)
    assert torch.autograd.grad(pairwise.pairwise_dist(x, y, model).sum(), x)[0].shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("depth_weight", [0.0, 0.3])
@MODELS
def test_nearest(model: str, depth_weight: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle's choice. Doubled rows are ties, which go to the lower index."""
    monkeypatch.setattr(pairwise, "_BLOCK", 50)
    sampler = Sampler(model, torch.float32, 3, 0.5, 4, 20, max_radius=4.0)
    bank = torch.cat([sampler.point(), sampler.point()[:5]]).to(dtype)
    bank = torch.cat([bank, bank[:4]])
    query = torch.cat([bank[[0, 7]], sampler.point()[:3].to(dtype)])
    found = pairwise.nearest(query, bank, 6, model, c=0.5, depth_weight=depth_weight)
    module = getattr(oracle, model)
    with oracle.digits():
        points = [oracle.exact(row) for row in bank]
        for i, row in enumerate(oracle.exact(query)):
            d = [module.dist(row, p, mpf("0.5")) if row != p else mpf(0) for p in points]
            score = [-a + mpf(depth_weight) * module.dist0(p, mpf("0.5")) for a, p in zip(d, points)]
            order = sorted(range(len(points)), key=lambda j: (-score[j], j))[:6]
            for chosen, j in zip(found.indices[i].tolist(), order):
                # the same, up to scores that float64 cannot tell apart
                assert chosen == j or abs(score[chosen] - score[j]) <= mpf(2) ** -53 * abs(score[j])
                assert chosen <= j or score[chosen] != score[j]
            for got, j in zip(found.dist[i], found.indices[i].tolist()):
                assert ulp_error(got, d[j]) <= 4 if d[j] else got == 0
    alone = pairwise.nearest(query, bank, 6, model, c=0.5, depth_weight=depth_weight, return_dist=False)
    assert isinstance(alone, Tensor)
    assert torch.equal(alone, found.indices)


def test_nearest_gradient() -> None:
    query = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    bank = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def f(query: Tensor, bank: Tensor, c: Tensor) -> Tensor:
        return pairwise.nearest(query, bank, 2, c=c).dist

    assert torch.autograd.gradcheck(f, (query, bank, c))


@MODELS
def test_contrastive_loss(model: str) -> None:
    torch.manual_seed(0)
    x, y = (torch.randn(5, 3, dtype=torch.float64) / 4 for _ in range(2))
    labels = torch.tensor([1, 0, 4, 2, 2])
    tau = torch.tensor(0.3, dtype=torch.float64)
    c = torch.tensor(0.8, dtype=torch.float64)
    for chosen in (None, labels):
        d = torch.stack([torch.stack([MODULES[model].dist(a, b, c=c) for b in y]) for a in x])
        target = torch.arange(5) if chosen is None else chosen
        want = -torch.stack([(-d[i] / tau).log_softmax(0)[t] for i, t in enumerate(target)]).mean()
        torch.testing.assert_close(pairwise.contrastive_loss(x, y, tau, model, c=c, labels=chosen), want)
    inputs = [t.requires_grad_() for t in (x, y, tau, c)]

    def f(x: Tensor, y: Tensor, tau: Tensor, c: Tensor) -> Tensor:
        return pairwise.contrastive_loss(x, y, tau, model, c=c, labels=labels)

    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)
