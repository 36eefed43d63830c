"""Where tests run the operators of csrc/cuda on CPU tensors: in the emulator, and on a GPU if there is one."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperbolic import pairwise
from tests.csrc.rowwise import OPS
from tests.csrc.simt import build

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@cache
def emulator() -> torch.library.Library:
    """Built and registered once, for as long as this is remembered."""
    levels = [level for op in OPS.values() for level in (op.level, op.level.derivative)]
    repairs = [f"{model}_repair{which}" for model in pairwise.PAIRS for which in ("", "_backward")]
    return build.register([*(level.name for level in levels), *repairs])


def to_gpu(a: Any) -> Any:
    """A tensor with the strides that it has here, and memory between its numbers."""
    if not isinstance(a, Tensor):
        return a
    if not a.numel():
        return a.cuda()
    memory = torch.empty(0, dtype=a.dtype).set_(a.untyped_storage())
    return memory.cuda().as_strided(a.shape, a.stride(), a.storage_offset())


class Device:
    def __init__(self, name: str):
        self.name = name

    def __call__(self, operator: str, *args: Any) -> Any:
        if self.name == "simt":
            if not build.COMPILER:
                pytest.skip("no C++ compiler here")
            emulator()
            return getattr(torch.ops.hyperbolic_simt, operator).default(*args)
        function = getattr(torch.ops.hyperbolic, operator).default
        moved = [to_gpu(a) for a in args]
        out = function(*moved)
        for a, b, argument in zip(args, moved, function._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                a.copy_(b)
        return tuple(t.cpu() for t in out) if isinstance(out, tuple) else None if out is None else out.cpu()


devices = pytest.mark.parametrize(
    "device", [Device("simt"), pytest.param(Device("gpu"), marks=needs_gpu)], ids=["simt", "gpu"]
)
