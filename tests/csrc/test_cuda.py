"""The kernels for GPUs: run by an emulator of their threads, on a GPU where there is one, and as they are built.

The emulator (tests/csrc/simt) compiles csrc/cuda for the host, all of it, and runs it on CPU tensors.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mpmath import mpf
from torch import Tensor

import hyperbolic
from hyperbolic import lorentz, pairwise
from hyperbolic.limits import LARGEST_COORDINATE
from hyperbolic.ops.dispatch import Op
from hyperbolic.testing import CASES, Case, Sampler, contract, covector_error, oracle
from tests.csrc import rowwise, test_rowwise
from tests.csrc.simt import build
from tests.csrc.simt.device import Device, devices, needs_gpu
from tests.hyperbolic import test_outside as outside

LIBRARY = build.ROOT / "hyperbolic" / "_kernels_cuda.abi3.so"
NVCC = shutil.which("nvcc", path=f"{os.environ['CUDA_HOME']}/bin" if "CUDA_HOME" in os.environ else None)
HALF = (torch.bfloat16, torch.float16)
DIMS = (1, 3, 16, 64, 130)
ROW_CASES = [case for case in CASES if str(case) in rowwise.OPS]

dtypes = pytest.mark.parametrize("dtype", rowwise.DTYPES, ids=str)
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc here")


class On:
    """An operator on rows as the tests of test_rowwise take one, on another device."""

    def __init__(self, op: Op, device: Device):
        self.title, self.names, self.cores, self.result, self.level = op.title, op.names, op.cores, op.result, op.level
        self.device = device

    def operator(self, *args: Tensor) -> Tensor:
        return self.device(self.level.name, *args)

    def backward(self, *args: Tensor) -> tuple[Tensor, ...]:
        return self.device(self.level.derivative.name, *args)


# --- operators on rows ---------------------------------------------------------------------------------------------


@devices
@rowwise.operators
@dtypes
def test_dimensions(op: Op, dtype: torch.dtype, device: Device) -> None:
    """Those of the reference, with a curvature for each row and with one for all, whose cotangent is a sum."""
    vectors = sum(bool(core.dims) for core in op.cores)
    for dim in DIMS:
        args = rowwise.arguments(op, 12, dim, dtype)
        rowwise.assert_same(On(op, device), args)
        rowwise.assert_same(On(op, device), [*args[:vectors], args[vectors][0], *args[vectors + 1 :]])


@devices
@pytest.mark.parametrize("test", ["layouts", "broadcast", "empty", "nan"])
@rowwise.operators
@dtypes
def test_arguments(op: Op, dtype: torch.dtype, test: str, device: Device) -> None:
    getattr(test_rowwise, f"test_{test}")(On(op, device), dtype)


@devices
@rowwise.operators
def test_types_mixed(op: Op, device: Device) -> None:
    test_rowwise.test_types_mixed(On(op, device))


@devices
@pytest.mark.parametrize("name", ["lorentz.dist", "lorentz.expmap", "poincare.logmap", "poincare.expmap0"])
@pytest.mark.parametrize(
    ("dim", "dtype"),
    [(2048, torch.float32), (2500, torch.bfloat16), (2300, torch.float64), (4200, torch.float64)],
    ids=str,
)
def test_long_rows(name: str, dim: int, dtype: torch.dtype, device: Device) -> None:
    """Rows of a block, in its memory or beyond; sums over rows of their vectors as well."""
    op = On(rowwise.OPS[name], device)
    args = rowwise.arguments(rowwise.OPS[name], 3, dim, dtype)
    # the sums of so many terms are not taken in the same order
    rowwise.assert_same(op, args, slack=4.0)
    rowwise.assert_same(op, [args[0][:1], *args[1:]], slack=4.0)


@devices
def test_many_rows(device: Device) -> None:
    """Sums over more rows than one block takes, of all rows and by segments."""
    op = rowwise.OPS["lorentz.dist"]
    x, y, _ = rowwise.arguments(op, 3000, 4, torch.float32)
    c = torch.tensor(rowwise.C, dtype=torch.float64)
    rowwise.assert_same(On(op, device), [x, y[0], c])
    rowwise.assert_same(On(op, device), [x.reshape(2, 1500, 4), y[:2, None], c])


@devices
@pytest.mark.parametrize("case", ROW_CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_contract(case: Case, dtype: torch.dtype, device: Device) -> None:
    """The error bounds, against the oracle, out to the limits of the type."""
    op, allowed = rowwise.OPS[str(case)], contract.bound(case, dtype)
    with oracle.digits():
        for seed, (dim, c) in enumerate(((2, 0.01), (40, 10.0))):
            sampler = Sampler(case.model, dtype, dim, c, seed, 12, contract.max_radius(case, dtype))
            args = sampler.arguments(case.arguments)
            numbers = [torch.tensor(n, dtype=torch.float64) for n in (c, LARGEST_COORDINATE[dtype])]
            out = On(op, device).operator(*args, *numbers[: len(op.cores) - len(args)])
            for i in range(12):
                exact = [oracle.exact(a[i]) for a in args]
                error = contract.error(case, exact, out[i], case.oracle(*exact, mpf(c)), mpf(c))
                assert error <= allowed, (error, allowed, c, [a[i].tolist() for a in args])


@devices
@pytest.mark.parametrize("model", sorted(pairwise.PAIRS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_of_dist(model: str, dtype: torch.dtype, device: Device) -> None:
    sampler = Sampler(model, dtype, 5, 0.5, 3, 25, contract.GRADIENT_RADIUS[dtype])
    x = sampler.point()
    y = sampler.partner(x)
    numbers = torch.tensor(0.5, dtype=torch.float64), torch.ones(25, dtype=dtype)
    gradients = device(f"{model}_dist_backward", x, y, *numbers)
    with oracle.digits():
        for points, others, gradient in ((x, y, gradients[0]), (y, x, gradients[1])):
            for p, q, g in zip(points, others, gradient):
                if torch.equal(p, q):
                    assert not g.any()
                    continue
                exact = oracle.exact(p), oracle.exact(q)
                want = oracle.gradient_of_dist(model, *exact, mpf(0.5))
                assert covector_error(model, exact[0], g, want, mpf(0.5)) <= contract.GRADIENT_OF_DIST


@devices
def test_refused(device: Device) -> None:
    """What does not fit is refused before memory is read."""
    x, c, d, tiles = torch.zeros(2, 3), torch.tensor(1.0), torch.zeros(2, 2), torch.ones(1, 1, dtype=torch.int32)
    for operator, args, message in (
        ("lorentz_dist", (x, torch.zeros(2, 500), c), "a1 must have size 3 along D as a0 has, got"),
        ("lorentz_dist", (x, torch.zeros(5, 3), c), "a1 must have a batch shape that broadcasts"),
        ("poincare_expmap_backward", (x, x, c, torch.zeros(2, 4)), "a3 must have size 3 along D as a0 has, got"),
        ("poincare_mobius_add", (x, x.long(), c), "a1 must be a tensor of float16"),
        ("lorentz_dist0", (x[:, :1].expand(2, 2**60), c), "at most 2.48 elements"),
        ("lorentz_dist0", (x.reshape(1, 2, 3).expand(2**60, 2, 3), c), "at most 2.48 elements"),
        ("lorentz_dist0", (c, c), "a0 must have shape"),
        ("lorentz_repair", (d, torch.zeros(9, 3), x, c, tiles, 2, 2), "d must have size 9 along N as x has, got"),
        ("lorentz_repair", (d, x, x, c, tiles, 1, 2), "tiles must be int32 of shape"),
        ("lorentz_repair", (d, x, x, c, tiles, 0, 2), "tiles must have rows and columns"),
        ("poincare_repair_backward", (d, d, x, x, c, x, x, c, tiles, 2, 2), "must be one number of float64"),
        ("poincare_repair_backward", (d, d[:1], x, x, c, x, x, c, tiles, 2, 2), "g must have size 2 along N"),
    ):
        with pytest.raises(RuntimeError, match=message):
            device(operator, *args)
    size = 2**62
    filled = torch.full((2, 2), torch.nan)
    device("lorentz_repair", filled, x, x, c, tiles, size, size)
    assert not filled.any()


@devices
@pytest.mark.parametrize("bad", [0.0, -1.0, torch.nan, torch.inf])
def test_curvature_of_rows(bad: float, device: Device) -> None:
    """NaN where it is none, also of the origin and of coincident points."""
    x, c = torch.tensor([[0.0, 0.0], [0.1, 0.2], [0.1, 0.2]]), torch.tensor([1.0, bad, bad])
    x[2] = 0.0
    for operator, args in (
        ("lorentz_dist", (x, x, c)),
        ("poincare_dist", (x, x, c)),
        ("poincare_expmap0", (x, c)),
        ("lorentz_logmap0", (x, c)),
    ):
        assert device(operator, *args).reshape(3, -1).isnan().all(1).tolist() == [False, True, True]
    filled = torch.full((3, 3), torch.nan)
    device("lorentz_repair", filled, x, x, c[1], torch.ones(1, 1, dtype=torch.int32), 3, 3)
    assert filled.isnan().all()


@devices
@pytest.mark.parametrize("name", ["poincare.expmap0", "poincare.expmap", "poincare.mobius_add"])
@dtypes
def test_strictly_inside(name: str, dtype: torch.dtype, device: Device) -> None:
    """As c|x|^2 < 1 is decided exactly, for points that lie nearer to the rim than the type resolves."""
    op, eps = rowwise.OPS[name], torch.finfo(dtype).eps
    c = torch.tensor(rowwise.C, dtype=torch.float64)
    for dim in (1, 3, 40):
        x = torch.randn(20, dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        x *= (1 - 8 * eps) / (x.norm(dim=-1, keepdim=True) * rowwise.C**0.5)
        args = {"expmap0": [30 * x], "expmap": [0.9 * x, 30 * x.flip(0)], "mobius_add": [x, x]}
        rounded = [a.to(dtype) for a in args[name.split(".")[1]]]
        out = On(op, device).operator(*rounded, c)
        rowwise.close(out, op.level.evaluate(*rounded, c), 2.0, 0.0, True)
        with oracle.digits():
            for row in oracle.exact(out):
                assert mpf(rowwise.C) * sum(a * a for a in row) < 1


@devices
@pytest.mark.parametrize(
    ("title", "place"), [(title, place) for title in rowwise.OPS for place in rowwise.OPS[title].inside]
)
@dtypes
def test_outside(title: str, place: str, dtype: torch.dtype, device: Device) -> None:
    """Points outside the ball are NaN."""
    op = On(rowwise.OPS[title], device)
    outside.check(rowwise.OPS[title], place, dtype, op.operator, op.backward)


@devices
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_finite(dtype: torch.dtype, device: Device) -> None:
    """Points that the type cannot hold become the longest of their direction that it can."""
    largest = torch.finfo(dtype).max
    u = torch.tensor([[0.6, -0.8, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, -2.0]], dtype=torch.float64)
    c = torch.tensor(1.0, dtype=torch.float64)
    out = device("lorentz_expmap", (3 * u).to(dtype), (2000 * u).to(dtype), c).double()
    want = u / u.abs().amax(-1, keepdim=True) * largest
    assert ((out - want).abs() <= 2 * torch.finfo(dtype).eps * largest).all()


# --- on a GPU ------------------------------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_public_functions(dtype: torch.dtype) -> None:
    x = Sampler("lorentz", torch.float32, 6, 1.0, 0, 50, 2.0).point().to(dtype)
    y = x.roll(1, 0)
    results = []
    for place in ("cpu", "cuda"):
        a, b = (t.to(place).requires_grad_() for t in (x, y))
        out = lorentz.dist(lorentz.expmap(a, lorentz.logmap(a, b, c=0.5), c=0.5), b.flip(0), c=0.5)
        results.append([t.cpu() for t in (out.detach(), *torch.autograd.grad(out.sum(), (a, b)))])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=8 * torch.finfo(a.dtype).eps, atol=8 * torch.finfo(dtype).eps)


@needs_gpu
def test_same_bits() -> None:
    """Sums over rows: every time, on any stream, and replayed by a graph."""
    x, y = torch.randn(2, 100_000, 24, device="cuda")
    c, g = torch.tensor(0.7, device="cuda"), torch.randn(100_000, device="cuda")

    def run() -> tuple[Tensor, ...]:
        return torch.ops.hyperbolic.lorentz_dist_backward(x, y[0], c, g)

    first = run()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        second = run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        third = run()
    graph.replay()
    torch.cuda.synchronize()
    for a, b, d in zip(first, second, third):
        assert torch.equal(a, b)
        assert torch.equal(a, d)


@needs_gpu
def test_more_rows_than_32_bits_count() -> None:
    rows = 2**31 + 40
    if torch.cuda.mem_get_info()[0] < 6 * rows:
        pytest.skip("not enough memory")
    x = torch.zeros(1, 1, dtype=torch.bfloat16, device="cuda").expand(rows, 1)
    y = torch.tensor([[3.0]], device="cuda").expand(rows, 1)
    d = torch.ops.hyperbolic.lorentz_dist(x, y, torch.tensor(1.0, device="cuda"))
    want = torch.asinh(torch.tensor(3.0))
    assert (d[-50:].cpu() - want).abs().max() < 1e-6
    assert (d[:50].cpu() - want).abs().max() < 1e-6


@needs_gpu
def test_devices_mixed() -> None:
    x = torch.zeros(2, 3, device="cuda")
    with pytest.raises(RuntimeError, match="one device"):
        torch.ops.hyperbolic.lorentz_dist0(x, torch.tensor(1.0))


# --- as built ------------------------------------------------------------------------------------------------------


@needs_nvcc
def test_library() -> None:
    """What torch has for CUDA alone comes from torch's own library; kernels are there for the GPUs that we name."""
    assert LIBRARY.exists(), "setup.py finds nvcc, as this test does, and the library is not built"
    dynamic = subprocess.run(["readelf", "-d", LIBRARY], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    assert {"libtorch_cuda.so", "libtorch_cpu.so"} <= set(needed)
    assert all(re.match(r"lib(torch_cuda|torch_cpu|cudart|stdc\+\+|m|gcc_s|c|dl|pthread|rt)\.so", n) for n in needed)
    triton = importlib.util.find_spec("triton")
    folders = [Path(NVCC or "").resolve().parent]
    if triton is not None:
        folders += [Path(folder, "backends", "nvidia", "bin") for folder in triton.submodule_search_locations or ()]
    cuobjdump = shutil.which("cuobjdump", path=os.pathsep.join(map(str, folders)))
    if cuobjdump is None:
        pytest.skip("no cuobjdump, neither nvcc's nor Triton's")

    def dump(what: str) -> str:
        return subprocess.run([cuobjdump, what, LIBRARY], capture_output=True, text=True, check=True).stdout

    assert set(re.findall(r"\.(sm_\w+)\.cubin", dump("--list-elf"))) == {"sm_80", "sm_90"}
    assert set(re.findall(r"\.(sm_\w+)\.ptx", dump("--list-ptx"))) == {"sm_90"}
    # per GPU: forward and backward of the operators on rows and on pairs, for float and double, and the sums
    kernels = 4 * (len(rowwise.OPS) + len(pairwise.PAIRS)) + 1
    assert len(re.findall(r"^ *Function ", dump("--dump-resource-usage"), re.MULTILINE)) == 2 * kernels


@needs_nvcc
def test_stable_symbols() -> None:
    pytest.importorskip("torch_abi_audit", reason="needs Python 3.11")
    command = [sys.executable, "-m", "torch_abi_audit.cli", str(LIBRARY), "--check", "torch"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Min torch: +2\.(9|10)\.", done.stdout), done.stdout


def test_kernels() -> None:
    kernels = hyperbolic.kernels()
    if torch.cuda.is_available() and LIBRARY.exists():
        assert kernels.cuda == "{}.{}".format(*torch.cuda.get_device_capability())
        assert "not yet run on hardware" in kernels.cuda_reason
    else:
        assert kernels.cuda == "reference"
        assert kernels.cuda_reason
    code = "import hyperbolic; print(hyperbolic.kernels())"
    environment = {**os.environ, "HYPERBOLIC_KERNELS": "reference"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "cuda='reference', cuda_reason='HYPERBOLIC_KERNELS=reference'" in done.stdout
