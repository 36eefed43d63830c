"""What a call does, and whether two calls do the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fuzz.isolation import Fault, only, unexpected

# Torch raises these for sizes that no memory holds; ours are ValueErrors.
_MEMORY = ("memory", "overflow", "storage", "too large", "too big", "numel", "non-zero size", "integer out of range")


# A device for which there is the reference alone; where it runs is decided by where the tensors are.
_NO_KERNELS = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)


class Reference(TorchDispatchMode):
    """Within it the operators of this package run their reference, whatever kernels are loaded."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "hyperbolic":
            return function._handle.redispatch_boxed(_NO_KERNELS, *args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def outcome(call: Callable[[], Any], allowed: Sequence[type[Exception]]) -> list[Tensor] | Exception:
    """The tensors that a call returns, or the exception that it raises: one of the allowed, or for lack of memory."""
    try:
        with only(*allowed, RuntimeError, MemoryError):
            return flat(call())
    except Exception as error:
        if isinstance(error, Fault):
            raise
        starved = isinstance(error, RuntimeError | MemoryError) and any(w in str(error).lower() for w in _MEMORY)
        if starved or isinstance(error, tuple(allowed)):
            return error
        raise unexpected(error) from error


def finite(arguments: Iterable[Any]) -> bool:
    """Whether no tensor among the arguments has a NaN or an infinity."""
    numbers = (a for a in arguments if isinstance(a, Tensor) and (a.is_complex() or a.dtype.itemsize > 1))
    return all(bool(a.isfinite().all()) for a in numbers)


def flat(result: Any) -> list[Tensor]:
    """Its tensors and numbers, in order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, (tuple, list)):
        return [t for each in result for t in flat(each)]
    if isinstance(result, (bool, int, float)):
        return [torch.tensor(result)]
    return []


def compare(got: Tensor, want: Tensor, what: str, loose: bool, values: bool = True) -> None:
    """``Fault`` unless both have one shape, one type and, as far as both tell, the same values.

    ``loose`` where the contract ends, far from the origin: there signs have to agree, and the rough size. ``values``
    are not compared where the arguments are not finite, of which nothing is promised.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        raise Fault(f"{what}: shape or type", f"{got.dtype} {tuple(got.shape)}, want {want.dtype} {tuple(want.shape)}")
    if not got.numel() or not values:
        return
    if got.is_complex():
        return compare(torch.view_as_real(got.resolve_conj()), torch.view_as_real(want.resolve_conj()), what, loose)
    if not got.is_floating_point():
        if not torch.equal(got, want):
            raise Fault(f"{what}: other integers", f"{got.tolist()}\nwant {want.tolist()}"[:2000])
        return
    a, b = (t.detach().resolve_neg().double() for t in (got, want))
    if not torch.equal(a.isnan(), b.isnan()):
        raise Fault(f"{what}: NaN where the reference has none, or none where it has", _both(a, b))
    a, b = a.nan_to_num(0, math.inf, -math.inf), b.nan_to_num(0, math.inf, -math.inf)
    size = b.where(b.isfinite(), 0).abs()
    size = size.amax(-1, keepdim=True) if b.dim() else size
    eps = torch.finfo(got.dtype).eps
    slack = (1e-2 if loose else 64 * eps) * size + (1e-3 if loose else 16 * torch.finfo(got.dtype).tiny)
    wrong = (((a - b).abs() > slack) | (a.isinf() != b.isinf())) & (a != b)
    if bool(wrong.any()):
        flipped = bool(((a * b < 0) & wrong).any())
        raise Fault(f"{what}: {'sign' if flipped else 'value'}", _both(a, b))


def _both(a: Tensor, b: Tensor) -> str:
    return f"got  {a.tolist()}"[:1500] + f"\nwant {b.tolist()}"[:1500]
