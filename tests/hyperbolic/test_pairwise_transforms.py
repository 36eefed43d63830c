"""The operators over all pairs under torch.func, torch.compile, torch.export, and as torch wants its operators."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from hyperbolic import pairwise

MODELS = pytest.mark.parametrize("model", ["lorentz", "poincare"])


def arguments(n: int = 4, m: int = 5, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    x, y = (torch.randn(k, 3, dtype=dtype) / 4 for k in (n, m))
    return [x, y, torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)]


def functions(model: str) -> dict[str, Any]:
    labels = torch.tensor([1, 0, 3, 3])
    return {
        "pairwise_dist": lambda x, y, c, t: pairwise.pairwise_dist(x, y, model, c=c) * t,
        "nearest": lambda x, y, c, t: pairwise.nearest(x, y, 2, model, c=c, depth_weight=0.1).dist * t,
        "contrastive_loss": lambda x, y, c, t: pairwise.contrastive_loss(x, y, t, model, c=c, labels=labels),
    }


NAMES = pytest.mark.parametrize("name", list(functions("lorentz")))


def loss(f: Any) -> Any:
    return lambda *args: f(*args).square().sum()


@NAMES
@MODELS
def test_second_order(model: str, name: str) -> None:
    f, args = functions(model)[name], [a.requires_grad_() for a in arguments()]
    assert torch.autograd.gradcheck(f, args)
    assert torch.autograd.gradgradcheck(f, args, fast_mode=True)


@NAMES
@MODELS
def test_func(model: str, name: str) -> None:
    f, args = functions(model)[name], arguments()
    inputs = [a.clone().requires_grad_() for a in args]
    expected = torch.autograd.grad(loss(f)(*inputs), inputs)
    for got, want in zip(grad(loss(f), (0, 1, 2, 3))(*args), expected):
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-14)
    tangents = tuple(torch.ones_like(a) for a in args)
    pushed = jvp(f, tuple(args), tangents)[1]
    total = torch.zeros_like(pushed)
    for a, forward, backward in zip(args, jacfwd(f, (0, 1, 2, 3))(*args), jacrev(f, (0, 1, 2, 3))(*args)):
        torch.testing.assert_close(forward, backward, rtol=1e-11, atol=1e-11)
        total += backward.reshape(*pushed.shape, -1).sum(-1) if a.dim() else backward
    torch.testing.assert_close(pushed, total, rtol=1e-11, atol=1e-11)


@NAMES
@MODELS
def test_vmap(model: str, name: str) -> None:
    f = functions(model)[name]
    x, y, c, t = arguments()
    xs, cs = torch.stack([x, 2 * x, x.flip(0)]), torch.stack([c, c / 2, c])
    got = vmap(f, in_dims=(0, None, 0, None))(xs, y, cs, t)
    slopes = vmap(grad(loss(f), (0, 1)), in_dims=(0, None, 0, None))(xs, y, cs, t)
    for i in range(3):
        torch.testing.assert_close(got[i], f(xs[i], y, cs[i], t), rtol=1e-15, atol=0)
        for a, b in zip(slopes, grad(loss(f), (0, 1))(xs[i], y, cs[i], t)):
            torch.testing.assert_close(a[i], b, rtol=1e-13, atol=1e-15)


@NAMES
@MODELS
def test_vmap_over_none(model: str, name: str) -> None:
    """Of nothing, results of the shape that each would have, and gradients."""
    f = functions(model)[name]
    _, y, c, t = arguments()
    none = torch.zeros(0, 4, 3, dtype=torch.float64, requires_grad=True)
    shape = {"pairwise_dist": (0, 4, 5), "nearest": (0, 4, 2), "contrastive_loss": (0,)}[name]
    out = vmap(f, in_dims=(0, None, None, None))(none, y, c, t)
    assert (out.shape, out.dtype) == (shape, torch.float64)
    assert torch.autograd.grad(out.sum(), none)[0].shape == (0, 4, 3)
    assert vmap(vmap(f, in_dims=(0, None, None, None)), in_dims=(1, None, None, None))(
        none[:, None].expand(0, 2, 4, 3), y, c, t
    ).shape == (2, *shape)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@NAMES
def test_compile(name: str, backend: str) -> None:
    torch._dynamo.reset()
    f = functions("lorentz")[name]
    args = [a.requires_grad_() for a in arguments(dtype=torch.float32)]
    value, expected = torch.compile(loss(f), fullgraph=True, backend=backend)(*args), loss(f)(*args)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    for got, want in zip(torch.autograd.grad(value, args), torch.autograd.grad(expected, args)):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@NAMES
def test_export(name: str) -> None:
    f, args = functions("poincare")[name], tuple(arguments())

    class Model(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor, c: Tensor, t: Tensor) -> Tensor:
            out: Tensor = f(x, y, c, t)
            return out

    assert torch.equal(torch.export.export(Model(), args).module()(*args), f(*args))


@MODELS
def test_opcheck(model: str) -> None:
    x, y, c, t = (a.requires_grad_() for a in arguments())
    ops, labels = torch.ops.hyperbolic, torch.tensor([1, 0, 3, 3])
    detached = [a.detach() for a in (x, y, c, t)]
    torch.library.opcheck(getattr(ops, f"{model}_pairwise_dist").default, (x, y, c))
    torch.library.opcheck(
        getattr(ops, f"{model}_pairwise_dist_backward").default, (*detached[:3], torch.ones(4, 5).double())
    )
    torch.library.opcheck(getattr(ops, f"{model}_nearest").default, (*detached[:3], 2, 0.3))
    torch.library.opcheck(getattr(ops, f"{model}_contrast").default, (x, y, labels, c, t))
    rest = (labels, *detached[2:])
    partition, positive = getattr(ops, f"{model}_contrast").default(*detached[:2], *rest)
    backward = getattr(ops, f"{model}_contrast_backward").default
    torch.library.opcheck(backward, (*detached[:2], *rest, partition, positive, positive))


def test_autocast() -> None:
    x, y, *_ = arguments(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pairwise.pairwise_dist(x, y), pairwise.pairwise_dist(x.clone(), y.clone()))
        assert pairwise.pairwise_dist(x, y).dtype == torch.float32


@MODELS
def test_precision_of_matrix_products_is_not_borrowed(model: str) -> None:
    """``torch.set_float32_matmul_precision`` may not lower the digits of a distance."""
    x, y, c, t = arguments(64, 64, torch.float32)
    before = torch.get_float32_matmul_precision()
    expected = [f(x[:4], y, c, t) for f in functions(model).values()]
    try:
        torch.set_float32_matmul_precision("medium")
        for f, want in zip(functions(model).values(), expected):
            assert torch.equal(f(x[:4], y, c, t), want)
    finally:
        torch.set_float32_matmul_precision(before)
