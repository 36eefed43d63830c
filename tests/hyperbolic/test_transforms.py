"""Under torch.func, torch.compile and torch.export every function gives what it gives in eager mode.

The operators are opaque to the compiler, so compiled results must be the same bits, which the other tests hold
to the contract.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from hyperbolic import lorentz, pairwise
from hyperbolic.testing import CASES, Case, Sampler


def arguments(case: Case, rows: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    sampler = Sampler(case.model, dtype, 3, 0.7, 3, rows, max_radius=3.0)
    return [*sampler.arguments(case.arguments), torch.full((rows,), 0.7, dtype=torch.float64)]


def called(case: Case) -> Any:
    return lambda *args: case.function(*args[:-1], c=args[-1])


def loss(case: Case) -> Any:
    return lambda *args: called(case)(*args).square().sum()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_vmap(case: Case) -> None:
    args, f = arguments(case), called(case)
    expected = f(*args)
    assert torch.equal(vmap(f)(*args), expected)
    # the last argument shared, and a mapped dimension that is not the first
    shared = f(*args[:-1], args[-1][0])
    moved = [a.movedim(0, -1) for a in args[:-1]]
    assert torch.equal(vmap(f, in_dims=(*[-1] * len(moved), None))(*moved, args[-1][0]), shared)
    # gradients of each sample, with an argument that they share
    argnums = tuple(range(len(args)))
    per_sample = vmap(grad(loss(case), argnums), in_dims=(*[0] * len(moved), None))(*args[:-1], args[-1][0])
    for i in range(3):
        one = grad(loss(case), argnums)(*[a[i] for a in args])
        for got, want in zip(per_sample, one):
            assert torch.equal(got[i], want)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_func(case: Case) -> None:
    args = [a[0].clone().requires_grad_() for a in arguments(case)]
    argnums = tuple(range(len(args)))
    expected = torch.autograd.grad(loss(case)(*args), args)
    detached = [a.detach() for a in args]
    for got, want in zip(grad(loss(case), argnums)(*detached), expected):
        assert torch.equal(got, want)
    forward, backward = jacfwd(called(case), argnums)(*detached), jacrev(called(case), argnums)(*detached)
    tangents = tuple(torch.ones_like(a) for a in detached)
    pushed = jvp(called(case), tuple(detached), tangents)[1]
    total = torch.zeros_like(pushed)
    for a, b, x in zip(forward, backward, detached):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
        total += b.reshape(*pushed.shape, -1).sum(-1) if x.dim() else b
    torch.testing.assert_close(pushed, total, rtol=1e-12, atol=1e-12)


def test_hessian() -> None:
    """Forward over reverse, which needs the third operator of the chain."""
    x, y = torch.tensor([0.5, 0.2], dtype=torch.float64), torch.tensor([-0.1, 0.7], dtype=torch.float64)

    def f(p: Tensor) -> Tensor:
        return lorentz.dist(p, y).square()

    torch.testing.assert_close(hessian(f)(x), jacrev(jacrev(f))(x))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_compile(case: Case) -> None:
    """One graph, forward and backward, and the same bits."""
    torch._dynamo.reset()
    args, f = [a.requires_grad_() for a in arguments(case)], loss(case)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    value, expected = compiled(*args), f(*args)
    assert torch.equal(value, expected)
    for got, want in zip(torch.autograd.grad(value, args), torch.autograd.grad(expected, args)):
        assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_inductor(dtype: torch.dtype) -> None:
    """Double-word arithmetic between other operations, through the compiler that contracts and reassociates."""
    torch._dynamo.reset()
    (case,) = [case for case in CASES if str(case) == "lorentz.dist"]
    sampler = Sampler("lorentz", dtype, 3, 0.7, 3, 200)
    x, y = (a.requires_grad_() for a in sampler.arguments(case.arguments))

    def f(x: Tensor, y: Tensor) -> Tensor:
        return lorentz.dist(lorentz.expmap0(lorentz.logmap0(x * 1.5) / 1.5), y, c=0.7)

    compiled = torch.compile(f, fullgraph=True)
    out, expected = compiled(x, y), f(x, y)
    assert torch.equal(out, expected)
    for got, want in zip(torch.autograd.grad(out.sum(), (x, y)), torch.autograd.grad(expected.sum(), (x, y))):
        assert torch.equal(got, want)


@pytest.mark.parametrize("transform", [grad, jacrev, vmap], ids=lambda t: t.__name__)
def test_compiled_transform(transform: Any) -> None:
    torch._dynamo.reset()
    (case,) = [case for case in CASES if str(case) == "poincare.dist"]
    args = arguments(case)
    f = transform(called(case) if transform is vmap else loss(case))
    assert torch.equal(torch.compile(f, fullgraph=True, backend="aot_eager")(*args), f(*args))


def test_dynamic_shapes() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lorentz.dist, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (3, 5, 8):
        x, y = torch.randn(n, 4), torch.randn(1, 4)
        assert torch.equal(compiled(x, y), lorentz.dist(x, y))


def test_export() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return lorentz.dist(x, y, c=0.5)

    x, y = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.equal(torch.export.export(Model(), (x, y)).module()(x, y), lorentz.dist(x, y, c=0.5))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_opcheck(case: Case) -> None:
    """Schema, fake kernel and autograd registration of the operator and of its backward."""
    name = f"{case.model}_{case.name}" if case.model == case.result_model else f"models_{case.name}"
    name = {"log_prob": "wrapped_normal_log_prob"}.get(case.name, name).replace("wrapped", f"{case.model}_wrapped")
    operator = getattr(torch.ops.hyperbolic, name).default
    args = [a.requires_grad_() for a in arguments(case)]
    if case.name == "half_aperture":
        args = [args[0], args[2], args[1]]
    if case.name == "expmap0" and case.model == "lorentz":
        args.append(torch.full((), 1e30, dtype=torch.float64))
    torch.library.opcheck(operator, tuple(args))
    cotangent = torch.ones_like(operator(*args).detach())
    backward = getattr(torch.ops.hyperbolic, name + "_backward").default
    torch.library.opcheck(backward, (*[a.detach() for a in args], cotangent))


def test_compiled_pairwise() -> None:
    x, y = torch.randn(2, 4, 3, requires_grad=True), torch.randn(2, 5, 3, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(pairwise.pairwise_dist, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, y), pairwise.pairwise_dist(x, y))
