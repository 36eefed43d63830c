"""The Triton kernels as they are compiled for GPUs, which takes none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

triton = pytest.importorskip("triton", reason="not installed")

from hyperbolic.ops.triton import contrast, nearest, pairwise_dist, rows, tile  # noqa: E402

SHARED = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes that a block may have."""
NAMES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int64: "i64",
}


def compiled(capability: int, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a launch with these arguments would run."""
    values = dict(zip(kernel.arg_names, args)) | {k: v for k, v in kwargs.items() if k in kernel.arg_names}
    options = {k: v for k, v in kwargs.items() if k not in kernel.arg_names}
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        name, value = parameter.name, values[parameter.name]
        aligned = isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0)
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        if isinstance(value, Tensor):
            signature[name] = "*" + NAMES[value.dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
        if aligned:
            attributes[i,] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(kernel, signature, constants, attributes)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=options)


def launches(model: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any, Any]]:
    """What all operators launch on a GPU, with tensors that hold nothing."""
    seen: dict[Any, tuple[Any, Any, Any]] = {}

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        key = kernel.fn.__name__, *kwargs.values(), *(a is None for a in args)
        seen.setdefault(key, (kernel, args, kwargs))

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", record)
    for wide in (torch.float32, torch.float64):
        monkeypatch.setitem(tile.TILING, ("cpu", wide), tile.TILING["cuda", wide])
    with FakeTensorMode():
        x, y, labels = torch.empty(256, 96, dtype=dtype), torch.empty(512, 96, dtype=dtype), torch.zeros(256).long()
        one, g = torch.ones((), dtype=torch.float64), torch.empty(256, 512, dtype=pairwise_dist.result_type(x, y))
        pairwise_dist.pairwise_dist(model, x, y, one)
        pairwise_dist.pairwise_dist_backward(model, x, y, one, g)
        contrast.contrast(model, x, y, labels, one, one)
        contrast.contrast_backward(model, x, y, labels, one, one, g[:, 0], g[:, 0], g[:, 0])
        nearest._candidates(model, x, y, one, 20, 0.5)
    yield from seen.values()


@pytest.mark.parametrize(
    ("capability", "model", "dtype"),
    [(80, "poincare", torch.float32), (90, "lorentz", torch.float32), (90, "poincare", torch.float64)],
)
def test_compiled(capability: int, model: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel fits the GPU, and its products are those of tensor cores."""
    names = set()
    for kernel, args, kwargs in launches(model, dtype, monkeypatch):
        binary = compiled(capability, kernel, args, kwargs)
        names.add(kernel.fn.__name__)
        assert binary.asm["cubin"]
        assert binary.metadata.shared <= SHARED[capability]
        if any("parts" in name for name in kernel.arg_names) and kernel is not rows._describe:
            instruction = "wgmma.mma_async" if capability == 90 and dtype == torch.float32 else "mma.sync"
            assert instruction in binary.asm["ptx"], kernel.fn.__name__
    assert names >= {"_describe", "_distances", "_weigh", "_weigh_repaired", "_add_products", "_reduce"}
    assert names >= {"_reduce_repaired", "_highest_scores"}
