"""The compiled library: every instruction set within the contract, stable symbols only, and life without it."""

import math
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hyperbolic
from hyperbolic import pairwise
from hyperbolic.ops import native
from hyperbolic.testing import Sampler

ROOT = Path(__file__).parents[3]
LIBRARY = ROOT / "hyperbolic" / "_kernels.abi3.so"

WORK = """
import sys, torch, hyperbolic
from hyperbolic import lorentz, pairwise, poincare
x, y, bank = torch.load(sys.argv[1], weights_only=True)
out = []
for module, scale in ((lorentz, 1.0), (poincare, 0.3)):
    a, b, c = (scale * x).requires_grad_(), (scale * y).requires_grad_(), torch.tensor(0.8, requires_grad=True)
    for value in (
        module.pairwise_dist(a, b, c=c),
        module.dist(a[: len(b)], b, c=c),
        module.expmap0(a, c=c),
        module.logmap(a[: len(b)], b, c=c),
        pairwise.contrastive_loss(a, b, 0.2, model=module.__name__[11:], c=c, labels=torch.arange(len(a)) % len(b)),
    ):
        out += [value.detach(), *torch.autograd.grad(value.sum(), (a, b, c), allow_unused=True)]
    out.append(pairwise.nearest(a.detach(), scale * bank, 9, module.__name__[11:], depth_weight=0.1).indices)
torch.save([t for t in out if t is not None], sys.argv[2])
print(hyperbolic.kernels().cpu)
"""


def run(choice: str, points: Path, out: Path) -> tuple[str, list[torch.Tensor]]:
    environment = {**os.environ, "HYPERBOLIC_KERNELS": choice}
    command = [sys.executable, "-c", WORK, str(points), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip(), torch.load(out, weights_only=True)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sampler = Sampler("lorentz", torch.float32, 19, 0.8, 0, 70, max_radius=0.6)
    x = sampler.point()
    path = tmp_path_factory.mktemp("kernels") / "points.pt"
    torch.save((x, sampler.partner(x)[:50], torch.cat([sampler.point(), sampler.point(), x])), path)
    return path


@pytest.mark.parametrize("choice", ["baseline", "avx2", "avx512", ""])
def test_instruction_sets(choice: str, points: Path, tmp_path: Path) -> None:
    """The results of the reference, in float32 to a few digits of the last place."""
    used, got = run(choice, points, tmp_path / "got.pt")
    assert used in native.CHOICES
    if choice and used != choice:
        pytest.skip(f"this machine does not run {choice}")
    reference, expected = run("reference", points, tmp_path / "expected.pt")
    assert reference == "reference"
    for a, b in zip(got, expected, strict=True):
        if a.dtype == torch.int64:
            assert torch.equal(a, b)
        else:
            # a derivative by the curvature may be a small difference of sums of size 1
            atol = 1e-7 if a.dim() == 0 else 3e-6 * b.abs().max().item()
            torch.testing.assert_close(a, b, rtol=3e-6, atol=atol)


def test_unknown_choice(points: Path, tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run("sse9", points, tmp_path / "out.pt")
    assert "HYPERBOLIC_KERNELS must be one of reference, baseline, avx2, avx512, got 'sse9'" in failed.value.stderr


@pytest.mark.skipif(not LIBRARY.exists(), reason="installed without a compiler")
def test_stable_symbols() -> None:
    """Undefined symbols are those of torch's stable ABI, none newer than 2.10."""
    audit = pytest.importorskip("torch_abi_audit", reason="needs Python 3.11")
    assert audit
    command = [sys.executable, "-m", "torch_abi_audit.cli", str(LIBRARY), "--check", "torch"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Min torch: +2\.(9|10)\.", done.stdout), done.stdout


@pytest.mark.skipif(not LIBRARY.exists(), reason="installed without a compiler")
def test_exact_choice_is_reported() -> None:
    kernels = hyperbolic.kernels()
    assert kernels.cpu != "reference"
    if platform.machine() == "x86_64" and not os.environ.get("HYPERBOLIC_KERNELS"):
        assert kernels.reason == "the best that this machine runs"


def test_without_a_compiler(tmp_path: Path) -> None:
    """The build succeeds, the package works on the reference and says so once."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("csrc", "hyperbolic"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    environment = {**os.environ, "CC": "no-compiler", "CXX": "no-compiler", "HYPERBOLIC_KERNELS": ""}
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    subprocess.run(build, env=environment, check=True, capture_output=True, cwd=tmp_path)
    assert not list(tmp_path.rglob("*.so"))
    code = (
        "import torch, hyperbolic; from hyperbolic import lorentz; import hyperbolic.lorentz;"
        "print(hyperbolic.kernels().cpu, lorentz.dist(torch.zeros(2), torch.tensor([3.0, 4.0])).item())"
    )
    environment["PYTHONPATH"] = str(tmp_path)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, cwd=tmp_path)
    used, distance = done.stdout.split()
    assert used == "reference"
    assert abs(float(distance) - math.asinh(5)) < 2e-7
    assert done.stderr.count("no compiled kernels, running on the reference") == 1


def test_pairs_of_a_memory_mapped_bank(tmp_path: Path) -> None:
    bank = torch.randn(1000, 6)
    path = tmp_path / "bank.bin"
    path.write_bytes(bank.numpy().tobytes())
    mapped = torch.from_file(str(path), shared=False, size=bank.numel()).reshape(1000, 6)
    got, want = (pairwise.nearest(bank[:5], b, 4) for b in (mapped, bank))
    assert torch.equal(got.indices, want.indices)
