"""The registered operators, ``torch.ops.hyperbolic``, called directly with arguments that do not fit.

What does not fit is refused before memory is read: by the compiled kernels, by the reference and by the fake kernels.
Calls that may crash are made in a process of their own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

KERNELS = pytest.mark.parametrize("kernels", ["", "reference"], ids=["compiled", "reference"])

PRELUDE = """
import torch
from hyperbolic import lorentz, models, pairwise, poincare

torch.set_num_threads(1)


def schemas():
    every = (s for s in torch._C._jit_get_all_schemas() if s.name.startswith("hyperbolic::"))
    return sorted(every, key=lambda s: s.name)


def refused(function, *args):
    try:
        function(*args)
    except (ValueError, TypeError, RuntimeError, MemoryError):
        return True
    return False
"""

HOSTILE = """
ranks = [(), (1,), (3,), (2, 3), (2, 500), (500, 3), (7, 2, 3), (0, 3), (2, 0), (1,) * 70, (2, 1, 3, 5)]
torch.manual_seed(0)
for schema in schemas():
    function = getattr(torch.ops.hyperbolic, schema.name.split("::")[1]).default
    types = [str(a.type) for a in schema.arguments]
    tensors = types.count("Tensor")
    dtypes = [torch.float32, torch.float64, torch.float16, torch.int32, torch.int64, torch.complex64, torch.bool]
    for trial in range(12):
        def pick(n):
            return int(torch.randint(n, ()))
        base, odd, args = ranks[1 + pick(5)], pick(tensors), []
        for i, kind in enumerate(types):
            if kind != "Tensor":
                args.append([0.0, float("nan"), -1e308][pick(3)] if kind == "float" else [0, -1, 3, 2**62][pick(4)])
                continue
            shape = ranks[pick(len(ranks))] if len(args) == odd or trial % 2 else base
            dtype = dtypes[pick(7)] if trial % 3 == 0 else torch.float32
            a = torch.zeros(shape).to(dtype)
            if trial % 5 == 0 and a.dim() and a.shape[-1]:
                a = a[..., :1].expand(*a.shape[:-1], 2 ** [1, 9, 52][pick(3)])
            args.append(a)
        refused(function, *args)
print("end")
"""


def alone(code: str, kernels: str = "") -> str:
    """What the code prints in a process of its own, which must end well."""
    environment = {**os.environ, "HYPERBOLIC_KERNELS": kernels}
    command = [sys.executable, "-W", "ignore", "-c", PRELUDE + code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.returncode, done.stdout[-500:], done.stderr[-2000:])
    return done.stdout


@KERNELS
def test_hostile_arguments(kernels: str) -> None:
    """Shapes, types, sizes and numbers, for every operator: an error or a result, and the process lives."""
    assert alone(HOSTILE, kernels).split() == ["end"]


REFUSED = {
    "lorentz_dist(x, torch.zeros(2, 500), c)": r"a1 must have size 3 along D as a0 has, got",
    "lorentz_transport(x, x, torch.zeros(2, 1), c)": r"a2 must have size 3 along D as a0 has, got",
    "poincare_dist(x, torch.zeros(5, 3), c)": r"a1 must have a batch shape that broadcasts with \(2,\), got",
    "lorentz_dist0(x, torch.ones(5))": r"a1 must have a batch shape that broadcasts with \(2,\), got",
    "lorentz_dist(c, x, c)": r"a0 must have shape \(..., D\)",
    "poincare_dist0(torch.zeros(2, 0), c)": r"a0 must have at least one element along D, got",
    "poincare_mobius_add(x, x.long(), c)": r"a1 must be a tensor of float16, bfloat16, float32 or float64, got",
    "lorentz_expmap_backward(x, x, c, torch.zeros(2, 4))": r"a3 must have size 3 along D as a0 has, got",
    "lorentz_to_ambient_backward(x, c, torch.zeros(2, 3))": r"a2 must have size 4 along D\+1 as a0 has, got",
    "lorentz_pairwise_dist(x, torch.zeros(7, 500), c)": r"a1 must have size 3 along D as a0 has, got",
    "lorentz_pairwise_dist(x[0], x, c)": r"a0 must have shape \(..., N, D\), got",
    "lorentz_pairwise_dist(x[None].expand(4, 2, 3), x[None].expand(5, 2, 3), c)": r"a1 must have a batch shape",
    "poincare_pairwise_dist(x[:, :0], x[:, :0], c)": r"a0 must have at least one element along D, got",
    "poincare_pairwise_dist_backward(x, x, c, torch.zeros(2, 5))": r"a3 must have size 2 along M as a1 has, got",
    "lorentz_nearest(x, torch.zeros(7, 500), c, 1, 0.0)": r"bank must have size 3 along D as query has, got",
    "lorentz_nearest(x, x[None], c, 1, 0.0)": r"bank must have shape \(M, D\), got",
    "lorentz_nearest(x, x, torch.ones(2), 1, 0.0)": r"c must be one number, got",
    "lorentz_nearest(x, x, c, 1000, 0.0)": r"k must be from 1 to the 2 rows of bank, got 1000",
    "poincare_nearest(x, x, c, -1, 0.0)": r"k must be from 1 to the 2 rows of bank, got -1",
    "poincare_nearest(x, x, c, 1, float('nan'))": r"depth_weight must be finite, got nan",
    "lorentz_contrast(x, torch.zeros(7, 500), labels, c, c)": r"y must have size 3 along D as x has, got",
    "lorentz_contrast(x, x, labels.int(), c, c)": r"labels must be a tensor of int64 of shape \(2,\)",
    "lorentz_contrast(x, x, labels[:1], c, c)": r"labels must be a tensor of int64 of shape \(2,\)",
    "lorentz_contrast(x, x, labels, c, torch.ones(2))": r"temperature must be one number, got",
    "lorentz_contrast_backward(x, x, labels, c, c, row, row, row[:1])": r"h must have size 2 along N as x has, got",
    "lorentz_contrast_backward(x, x, labels, c, c, row[None], row, row)": r"partition must have s",
    "lorentz_repair(d, torch.zeros(9, 3), x, c, tiles, 2, 2)": r"d must have size 9 along N as x has, got",
    "lorentz_repair(d, x, x, c, tiles, 1, 2)": r"tiles must be int32 of shape \(2, 1\)",
    "lorentz_repair(d, x, x, c, tiles, 0, 2)": r"tiles must have rows and columns, got 0 by 2",
    "lorentz_repair_backward(d, d, x, x, c, x, x, c, tiles, 2, 2)": r"gx must be contiguous, of float64",
}
"""Calls, and what is said of them."""

EACH = """
from contextlib import nullcontext
from torch._subclasses.fake_tensor import FakeTensorMode

with FakeTensorMode() if FAKE else nullcontext():
    x, c, labels, row = torch.zeros(2, 3), torch.ones(()), torch.zeros(2, dtype=torch.int64), torch.zeros(2)
    d, tiles = torch.zeros(2, 2), torch.ones(1, 1, dtype=torch.int32)
    for call in CALLS:
        try:
            eval("torch.ops.hyperbolic." + call)
            print("accepted")
        except Exception as error:
            print(str(error).splitlines()[0])
"""


@pytest.mark.parametrize("kernels", ["", "reference", "fake"], ids=["compiled", "reference", "fake"])
def test_refused(kernels: str) -> None:
    """Every kernel says which argument does not fit, what it got and what it wanted."""
    code = f"CALLS, FAKE = {list(REFUSED)!r}, {kernels == 'fake'}\n{EACH}"
    messages = alone(code, kernels.removesuffix("fake")).splitlines()
    for (call, wanted), message in zip(REFUSED.items(), messages, strict=True):
        assert re.search(wanted, message), (call, wanted, message)
        assert call.split("(")[0].removesuffix("_backward") in message, message


HUGE = """
from hyperbolic.testing import CASES, Sampler

for case in CASES:
    sampler = Sampler(case.model, torch.float32, 2, 1.0, 0, 1, 1.0)
    args = sampler.arguments(case.arguments)
    wide = [a[..., :1].expand(*a.shape[:-1], 2**60) if a.dim() > 1 else a for a in args]
    long = [a.expand(2**59, *a.shape[1:]) for a in args]
    for call in (wide, long):
        if not refused(case.function, *call):
            print(case)
# A sum over rows is small, whatever their number.
rows = torch.ones(1).expand(2**62)
for backward in (torch.ops.hyperbolic.lorentz_half_aperture_backward, torch.ops.hyperbolic.poincare_dist0_backward):
    numbers = [torch.tensor(0.1)] * (len(backward.default._schema.arguments) - 2)
    if not refused(backward, torch.ones(1, 1), *numbers, rows):
        print(backward)
point = torch.zeros(1, 1)
wide, long, crossed = point.expand(2, 2**60), point.expand(2**60, 2), point.expand(2**40, 1)
for model in ("lorentz", "poincare"):
    for name, call in {
        "wide": lambda: pairwise.pairwise_dist(wide, wide, model),
        "long": lambda: pairwise.pairwise_dist(long, long, model),
        "crossed": lambda: pairwise.pairwise_dist(crossed, crossed, model),
        "broadcast": lambda: lorentz.dist(crossed[:, None], crossed),
        "nearest": lambda: pairwise.nearest(wide, wide, 1, model),
        "long bank": lambda: pairwise.nearest(long[:1], long, 1, model),
        "loss": lambda: pairwise.contrastive_loss(wide, wide, 1.0, model),
        "long loss": lambda: pairwise.contrastive_loss(long, long, 1.0, model),
    }.items():
        if not refused(call):
            print(model, name)
"""


@KERNELS
def test_sizes_beyond_any_memory(kernels: str) -> None:
    """Expanded views, which have few numbers in memory and any size: refused, of every function and at once."""
    assert alone(HUGE, kernels) == ""


WITHOUT_MEMORY = """
freed = torch.rand(4, 3)
freed.untyped_storage().resize_(0)
for a in (freed, torch._efficientzerotensor((4, 3))):
    for call in (lambda: lorentz.dist(a, a), lambda: lorentz.expmap0(a), lambda: pairwise.pairwise_dist(a, a),
                 lambda: pairwise.nearest(a, a, 1), lambda: pairwise.contrastive_loss(a, a, 1.0)):
        refused(call)
"""


def test_tensors_without_memory() -> None:
    """Storage that FSDP has freed, and zeros that torch does not store."""
    alone(WITHOUT_MEMORY)
