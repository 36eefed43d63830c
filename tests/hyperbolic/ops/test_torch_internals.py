"""Every private name of torch that is used, alone. A test that fails says what to do about a new release of torch."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import hyperbolic
from hyperbolic import lorentz
from hyperbolic.ops import torch_internals

PRIVATE = re.compile(r"torch(\.\w+)*\._|forward_ad\._|\._handle|from torch[\w.]* import .*\b_[a-z]", re.IGNORECASE)


class Cube(torch_internals.SingleLevelFunction):
    @staticmethod
    def forward(x: Tensor) -> Any:
        with torch_internals.below_autograd():
            return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return 3 * ctx.saved_tensors[0] ** 2 * g


def test_all_stand_in_one_file() -> None:
    """A private name elsewhere belongs into torch_internals, with a test of its own here."""
    package = Path(hyperbolic.__file__).parent
    files = [path for path in package.rglob("*.py") if path.name != "torch_internals.py"]
    assert [path for path in files if PRIVATE.search(path.read_text())] == []


def test_single_level_function() -> None:
    """If not: torch.autograd.Function made of ``_SingleLevelFunction`` has become something else. Look at how
    torch/autograd/function.py defines ``Function.apply`` now, and derive from what it calls once there is no transform
    of torch.func. As a last resort derive from Function itself: all but torch.compile under torch.func still works.
    """
    x = torch.tensor(2.0, requires_grad=True)
    y = torch_internals.apply(Cube, x)
    assert y.item() == 8
    assert torch.autograd.grad(y, x)[0].item() == 12


def test_below_autograd() -> None:
    """If not: ``torch._C._AutoDispatchBelowAutograd`` is what torch/_library/autograd.py holds while it calls the
    kernel under its autograd. Take what stands there now.
    """
    x = torch.tensor(2.0, requires_grad=True)
    with torch_internals.below_autograd():
        assert not (x * x).requires_grad
    assert (x * x).requires_grad


def test_is_wrapped() -> None:
    """If not: torch/_functorch/pyfunctorch.py and torch/_C/_functorch.pyi have what tells a wrapped tensor now. Values
    of such a tensor cannot be checked; without an answer, ``checks()`` has to stay away from torch.func.
    """
    inside = []
    torch.func.vmap(lambda a: inside.append(torch_internals.is_wrapped(a)) or a)(torch.ones(3))
    assert inside == [True]
    assert not torch_internals.is_wrapped(torch.ones(3))


def test_is_called_directly() -> None:
    """If not: the answer may always be False, which makes small calls on the CPU slower and nothing else, until the
    state of transforms, forward derivatives and modes is found where torch keeps it now. Look in
    torch/_functorch/pyfunctorch.py, torch/autograd/forward_ad.py and torch/utils/_python_dispatch.py.
    """
    answers = []

    def ask(a: Tensor) -> Tensor:
        answers.append(torch_internals.is_called_directly())
        return a

    ask(torch.ones(3))
    torch.func.vmap(ask)(torch.ones(3))
    torch.func.grad(lambda a: ask(a).sum())(torch.ones(3))
    with torch.autograd.forward_ad.dual_level():
        ask(torch.ones(3))
    with FakeTensorMode():
        ask(torch.ones(3))
    assert answers == [True, False, False, False, False]


def test_cpu_kernel() -> None:
    """If not: call the operator itself in ``Op.__call__``, which is slower by the dispatcher's autograd, until what
    ``torch._ops.OpOverload.redispatch`` calls has been found again.
    """
    x, c = torch.tensor([3.0, 4.0], requires_grad=True), torch.tensor(1.0, dtype=torch.float64)
    operator = lorentz.dist0.op.operator
    got = torch_internals.CpuKernel(operator)(x, c)
    assert torch.equal(got, operator(x, c))
    assert not got.requires_grad
