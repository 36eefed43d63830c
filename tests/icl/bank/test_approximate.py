"""The index: its metric, the recall that it promises, and when it is not used."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import hyperbolic
from hyperbolic import lorentz
from icl.bank.anchor_bank import AnchorBank
from icl.bank.schema import BankError

pytest.importorskip("usearch", reason="the extra [ann]")

from icl.bank.search import approximate as ann

C = 0.8
K = 10

pytestmark = pytest.mark.skipif(
    not (Path(hyperbolic.__file__).parent / "_kernels.abi3.so").exists(), reason="installed without a compiler"
)


def clusters(n: int, dim: int = 16, count: int = 100, seed: int = 0) -> Tensor:
    """Round centres in all directions at radius 1 to 6."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(count, dim, generator=generator), dim=1)
    radius = 1 + 5 * torch.rand(count, 1, generator=generator)
    centre = lorentz.expmap0(direction * radius / C**0.5, c=C)[torch.randint(count, (n,), generator=generator)]
    step = 0.1 * torch.randn(n, dim, generator=generator)
    return lorentz.expmap(centre, lorentz.transport0(centre, step, c=C), c=C)


def exact(points: Tensor, query: Tensor, depth_weight: float = 0.0) -> Tensor:
    """All scores by the definition, in float64, where acosh has the digits that these points need."""
    x, y = query.double(), points.double()
    x0, y0 = ((1 + C * p.square().sum(1)).sqrt() for p in (x, y))
    z = x0[:, None] * y0 - C * x @ y.T
    return (depth_weight * torch.acosh(y0) - torch.acosh(z.clamp(min=1.0))) / C**0.5


def recall(neighbours: Tensor, scores: Tensor, k: int = K) -> float:
    """The share of rows found that are among the k best; a few ULP off is a tie."""
    least = scores.topk(k).values[:, -1:]
    return (scores.gather(1, neighbours) >= least - 1e-6).double().mean().item()


@pytest.fixture(scope="module")
def points() -> Tensor:
    return clusters(8_000)


@pytest.fixture(scope="module")
def bank(points: Tensor, tmp_path_factory: pytest.TempPathFactory) -> AnchorBank:
    folder = tmp_path_factory.mktemp("ann") / "bank"
    bank = AnchorBank.build(folder, {"id": [str(i) for i in range(len(points))], "point": points}, c=C)
    added: list[int] = []
    record = ann.build_index(bank, 0.95, K, progress=added.append)
    assert record.recall >= 0.95
    assert sum(added) % len(points) == 0
    return bank


def test_metric() -> None:
    """cosh D - 1, for close and far points and widths that fill vectors and not."""
    metric = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(ann._metric().pointer)
    for dim in (1, 3, 16, 37, 128):
        x = clusters(300, dim, 5) * C**0.5
        y = torch.cat([x[100:], x[:100] * 1.01])
        got = torch.tensor([metric(a.data_ptr(), b.data_ptr(), dim) for a, b in zip(x, y)]).double()
        d = lorentz.dist(x.double(), y.double())
        want = 2 * torch.sinh(d / 2).square()
        # of the two points' radii, what the difference of the squares may lose
        lost = (lorentz.dist0(x) + lorentz.dist0(y)).double().exp() / 4
        assert ((got - want).abs() <= 4e-7 * (1 + lost) * want).all()
    assert metric(x.data_ptr(), x.data_ptr(), dim) == 0


def test_recall_holds_for_new_queries(bank: AnchorBank, points: Tensor) -> None:
    query = torch.cat([points[:100], lorentz.midpoint(points[100:200], points[200:300], c=C)])
    hits = ann.search_index(bank, query, K)
    scores = exact(points, query)
    assert recall(hits.rows, scores) >= 0.93
    torch.testing.assert_close(hits.dist, -scores.gather(1, hits.rows).float(), rtol=1e-5, atol=1e-5)
    assert (hits.dist.diff(dim=1) >= 0).all()
    assert torch.equal(hits.rows[:100, 0], torch.arange(100))
    # fewer, and one query alone
    assert torch.equal(ann.search_index(bank, query, 3).rows, hits.rows[:, :3])
    assert torch.equal(ann.search_index(bank, query[7:8], K).rows, hits.rows[7:8])


def test_where_there_is_no_index(tmp_path: Path) -> None:
    points = clusters(60)
    bank = AnchorBank.build(tmp_path / "bank", {"id": [str(i) for i in range(60)], "point": points}, c=C)
    with pytest.warns(RuntimeWarning, match="searched exactly: it has no index"):
        hits = ann.search_index(bank, points[:5], 4)
    assert recall(hits.rows, exact(points, points[:5]), 4) == 1
    ann.search_index(bank, points[:5], 4)  # said once: another warning is an error here


def test_depth(bank: AnchorBank, points: Tensor, tmp_path: Path) -> None:
    """An index that was not measured with a depth is not used for one."""
    query = points[5:400:13] * 1.01
    with pytest.warns(RuntimeWarning, match=r"built for k up to 10 and depth_weight from 0 to 0"):
        hits = ann.search_index(bank, query, K, depth_weight=0.2)
    assert recall(hits.rows, exact(points, query, 0.2)) == 1
    few = points[:4000]
    other = AnchorBank.build(tmp_path / "bank", {"id": [str(i) for i in range(4000)], "point": few}, c=C)
    assert ann.build_index(other, 0.9, K, depth_weight=0.2).recall >= 0.9
    assert recall(ann.search_index(other, query, K, depth_weight=0.2).rows, exact(few, query, 0.2)) >= 0.87
    assert recall(ann.search_index(other, query, K, depth_weight=0.1).rows, exact(few, query, 0.1)) >= 0.87


def test_other_version_and_low_recall(tmp_path: Path) -> None:
    points = clusters(600)
    rows = {"id": [str(i) for i in range(500)], "point": points[:500]}
    bank = AnchorBank.build(tmp_path / "bank", rows, c=C)
    record = ann.build_index(bank)
    assert (record.version, record.k) == (bank.version, 10)
    bank.append({"id": [str(i) for i in range(500, 600)], "point": points[500:]})
    with pytest.warns(RuntimeWarning, match=r"its index is of version \d+ and the bank at"):
        hits = ann.search_index(bank, points[590:], K)
    assert torch.equal(hits.rows[:, 0], torch.arange(590, 600))
    bank.delete(["3"])
    left = torch.cat([points[:3], points[4:]])
    ann.build_index(bank)
    assert [path.name for path in (bank.folder / "ann").glob("*.usearch")] == [f"{bank.version}.usearch"]
    hits = ann.search_index(bank, left[:50], K)
    assert torch.equal(hits.rows[:, 0], torch.arange(50))
    description = bank.folder / "ann" / "index.json"
    good = json.loads(description.read_text())
    # it is searched as it was measured
    record = ann._read(bank.folder / "ann")
    assert record is not None
    index = ann._open(bank.folder / "ann", record, 16)
    assert index is not None
    assert index.expansion_search == good["expansion"]
    for change, message in (
        ({"recall": 0.5}, "measured as 0.500, and 0.95 was asked for"),
        ({"format": 9}, "its index has format version 9"),
    ):
        description.write_text(json.dumps({**good, **change}))
        with pytest.warns(RuntimeWarning, match=message):
            assert torch.equal(ann.search_index(bank, left[:50], K).rows[:, 0], torch.arange(50))


@pytest.mark.parametrize("part", ["index", "cut", "record", "types"])
def test_damaged_index(tmp_path: Path, part: str) -> None:
    """Searched exactly, with a warning: a flipped link would lead a search out of the index's memory."""
    points = clusters(300)
    bank = AnchorBank.build(tmp_path / "bank", {"id": [str(i) for i in range(300)], "point": points}, c=C)
    ann.build_index(bank)
    path, description = bank.folder / "ann" / f"{bank.version}.usearch", bank.folder / "ann" / "index.json"
    content, record = bytearray(path.read_bytes()), json.loads(description.read_text())
    if part == "index":
        for i in range(200, len(content), 37):
            content[i] ^= 0xFF
    path.write_bytes(content[:100] if part == "cut" else content)
    if part in ("record", "types"):
        changed = {"candidates": record["candidates"] - 5} if part == "record" else {"k": "many", "version": [1]}
        description.write_text(json.dumps({**record, **changed}))
    with pytest.warns(RuntimeWarning, match="searched exactly: (its index is damaged|it has no index)"):
        hits = ann.search_index(bank, points[:50] * 1.01, K)
    assert recall(hits.rows, exact(points, points[:50] * 1.01)) == 1
    ann.build_index(bank)
    assert recall(ann.search_index(bank, points[:50] * 1.01, K).rows, exact(points, points[:50] * 1.01)) >= 0.93


def test_arguments(bank: AnchorBank) -> None:
    with pytest.raises(ValueError, match="recall must be above 0"):
        ann.build_index(bank, 1.5)
    with pytest.raises(BankError, match=r"k must be from 1 to 4000, half of the bank's rows, got 4001"):
        ann.build_index(bank, k=4_001)
    with pytest.raises(BankError, match=r"must have shape \(N, 16\), got \(1, 4\)"):
        ann.search_index(bank, torch.zeros(1, 4), 3)
    with pytest.raises(BankError, match="query must be finite in float32, and row 1 is not"):
        ann.search_index(bank, torch.tensor([[0.0] * 16, [torch.nan] * 16]), 3)
    for k in (True, 2.5, "3"):
        with pytest.raises(BankError, match=r"build_index: k must be a whole number"):
            ann.build_index(bank, k=k)  # type: ignore[arg-type]


def test_without_kernels(bank: AnchorBank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Building says what is missing, and exact search goes on."""
    ann._metric.cache_clear()
    monkeypatch.setattr(hyperbolic, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(BankError, match="needs the compiled kernels"):
        ann.build_index(bank)
    assert bank.search(torch.zeros(1, 16), 1).rows.shape == (1, 1)
    ann._metric.cache_clear()


ISA = """
import ctypes, pathlib, sys, numpy as np, hyperbolic
kernels = ctypes.CDLL(str(pathlib.Path(hyperbolic.__file__).parent / "_kernels.abi3.so"))
kernels.hyperbolic_lorentz_metric.restype = ctypes.c_void_p
kind = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
metric = kind(kernels.hyperbolic_lorentz_metric())
x = np.load(sys.argv[1])
np.save(sys.argv[2], [metric(a.ctypes.data, b.ctypes.data, x.shape[1]) for a, b in zip(x, x[::-1].copy())])
print(hyperbolic.kernels().cpu)
"""


@pytest.mark.parametrize("choice", ["baseline", "avx2", "avx512"])
def test_metric_of_instruction_sets(choice: str, tmp_path: Path) -> None:
    x = clusters(64, 37, 8)
    np.save(tmp_path / "x.npy", x.numpy())
    command = [sys.executable, "-c", ISA, str(tmp_path / "x.npy"), str(tmp_path / "out.npy")]
    environment = {**os.environ, "HYPERBOLIC_KERNELS": choice}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if done.stdout.strip() != choice:
        pytest.skip(f"this machine does not run {choice}")
    d = lorentz.dist(x.double(), x.flip(0).double())
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), (d.cosh() - 1).numpy(), rtol=1e-4)
