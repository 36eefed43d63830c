"""The private names of torch that this package uses, all of them, under names of our own.

What torch documents is slower or does less here; each entry says which. A release of torch may rename or drop any of
them: tests/hyperbolic/ops/test_torch_internals.py then fails at the one concerned and says what to do.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

# The autograd kernel of an operator is entered once per level of torch.func, below its own dispatch. What fits there is
# the single-level function that torch.autograd.Function is made of: torch.library.register_autograd cannot be used
# under torch.func, and torch.autograd.Function cannot be traced under it.
SingleLevelFunction = _SingleLevelFunction

_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


def apply(function: type[_SingleLevelFunction], *args: Any) -> Any:
    """``function.apply`` for a single-level function, which torch allows nobody else."""
    with enable_single_level_autograd_function():
        return function.apply(*args)  # type: ignore[attr-defined]


def below_autograd() -> AbstractContextManager[None]:
    """Inside, operators run their kernels and not their autograd, whose forward this is."""
    guard: AbstractContextManager[None] = torch._C._AutoDispatchBelowAutograd()
    return guard


def is_wrapped(a: Tensor) -> bool:
    """Whether ``a`` stands for other tensors under torch.func."""
    return torch._C._functorch.is_functorch_wrapped_tensor(a)


def is_called_directly() -> bool:
    """Whether nothing stands between a caller and the kernels.

    That is, no function transform, no forward derivative, and no mode such as that of fake tensors.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0
    )


class CpuKernel:
    """The CPU kernel of an operator past the dispatcher and its autograd, which take as long as a small kernel."""

    def __init__(self, operator: Any):
        self._redispatch = operator._handle.redispatch_boxed

    def __call__(self, *args: Tensor) -> Tensor:
        """Call the kernel with tensors, of which none is another type's."""
        result: Tensor = self._redispatch(_CPU, *args)
        return result
