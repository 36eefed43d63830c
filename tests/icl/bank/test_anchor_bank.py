"""The bank: what is built, appended, deleted and found, and what happens when writers misbehave."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime, timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch

from hyperbolic import lorentz
from icl.bank.anchor_bank import AnchorBank
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.schema import BankError

C = 0.7


def rows(n: int, dim: int = 5, seed: int = 0, first: int = 0) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(n, dim, generator=generator) * torch.rand(n, 1, generator=generator) * 3
    ids = [f"demo-{i}" for i in range(first, first + n)]
    return {"id": ids, "point": points, "text": [f"text {i}" for i in ids], "task": ["vqa", "ocr"] * (n // 2)}


def oracle(points: torch.Tensor, query: torch.Tensor, k: int, weight: float) -> torch.Tensor:
    """By the definition: all scores in float64, sorted, ties to the earlier row."""
    p, q = points.double(), query.double()
    d = torch.acosh((1 + C * q.square().sum(-1)).sqrt()[:, None] * (1 + C * p.square().sum(-1)).sqrt() - C * q @ p.T)
    d0 = torch.acosh((1 + C * p.square().sum(-1)).sqrt())
    return ((weight * d0 - d) / C**0.5).sort(dim=1, descending=True, stable=True).indices[:, :k]


@pytest.fixture
def bank(tmp_path: Path) -> AnchorBank:
    return AnchorBank.build(tmp_path / "bank", rows(60), c=C)


@pytest.mark.parametrize("weight", [0.0, 0.6])
def test_search_is_exact(bank: AnchorBank, weight: float) -> None:
    points, query = rows(60)["point"], torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    assert isinstance(points, torch.Tensor)
    hits = bank.search(query, 9, depth_weight=weight)
    want = oracle(points, query, 9, weight)
    assert torch.equal(hits.rows, want)
    d = lorentz.dist(query[:, None], points[want], c=C)
    torch.testing.assert_close(hits.dist, d, rtol=2e-7, atol=0)
    torch.testing.assert_close(hits.scores, weight * lorentz.dist0(points[want], c=C) - d, rtol=1e-6, atol=1e-6)
    reopened = AnchorBank.open(bank.folder)
    assert torch.equal(reopened.search(query, 9, depth_weight=weight).rows, want)


def test_search_over_fragments_and_deletions(bank: AnchorBank) -> None:
    everything = [rows(60)["point"], rows(20, seed=2, first=60)["point"], rows(30, seed=3, first=80)["point"]]
    assert bank.append(rows(20, seed=2, first=60)) == 20
    assert bank.append(rows(30, seed=3, first=80)) == 30
    points = torch.cat(everything)  # type: ignore[arg-type]
    query = torch.randn(4, 5, generator=torch.Generator().manual_seed(5))
    assert torch.equal(bank.search(query, 12).rows, oracle(points, query, 12, 0.0))
    gone = [f"demo-{i}" for i in (0, 3, 61, 62, 109)]
    assert bank.delete(gone) == 5
    left = torch.tensor([i for i in range(110) if f"demo-{i}" not in gone])
    assert len(bank) == 105
    assert torch.equal(left[bank.search(query, 12, depth_weight=0.3).rows], left[oracle(points[left], query, 12, 0.3)])
    ids = bank.take(torch.arange(105), ["id"]).column("id").to_pylist()
    assert ids == [f"demo-{i}" for i in left.tolist()]
    bank.compact()
    assert len(bank.vectors()) == 1
    assert torch.equal(left[bank.search(query, 12).rows], left[oracle(points[left], query, 12, 0.0)])
    assert len(bank.versions()) == 1
    names = {path.name.split(".")[0] for path in (bank.folder / "vectors").iterdir()}
    assert len(names) == 1


def test_equal_points_keep_their_order(tmp_path: Path) -> None:
    same = torch.ones(1, 3).repeat(40, 1)
    bank = AnchorBank.build(tmp_path / "bank", {"id": [str(i) for i in range(40)], "point": same})
    bank.append({"id": [f"later {i}" for i in range(40)], "point": same})
    assert bank.search(same[:1] * 2, 50).rows.tolist() == [list(range(50))]


def test_filter(bank: AnchorBank) -> None:
    points, query = rows(60)["point"], torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    assert isinstance(points, torch.Tensor)
    bank.delete(["demo-1", "demo-2"])
    left = torch.tensor([i for i in range(60) if i not in (1, 2)])
    ocr = left[left % 2 == 1]
    hits = bank.search(query, 5, where="task = 'ocr'")
    assert torch.equal(left[hits.rows], ocr[oracle(points[ocr], query, 5, 0.0)])
    assert set(bank.take(hits.rows.flatten(), ["task"]).column("task").to_pylist()) == {"ocr"}
    assert bank.search(query, 5, where="task = 'none'").rows.shape == (3, 0)
    with pytest.raises(BankError, match="cannot filter by nothing"):
        bank.search(query, 5, where="nothing = 3")


def test_take_keeps_order_and_repeats(bank: AnchorBank) -> None:
    table = bank.take([5, 2, 5], ["id", "depth"])
    assert table.column("id").to_pylist() == ["demo-5", "demo-2", "demo-5"]
    points = rows(60)["point"]
    assert isinstance(points, torch.Tensor)
    depth = torch.asinh(C**0.5 * points[[5, 2, 5]].double().norm(dim=1)) / C**0.5
    np.testing.assert_allclose(table.column("depth").to_numpy(), depth.numpy(), rtol=1e-6)
    assert torch.equal(bank.gather(torch.tensor([[5], [2]])), points[[5, 2]][:, None])


def test_versions(bank: AnchorBank) -> None:
    first = bank.version
    time.sleep(0.01)
    between = datetime.now()
    time.sleep(0.01)
    reader = AnchorBank.open(bank.folder)
    bank.append(rows(2, first=60))
    bank.delete(where="task = 'vqa'")
    assert (len(reader), len(AnchorBank.open(bank.folder, first)), len(bank)) == (60, 60, 31)
    assert [v for v, _ in bank.versions()] == [first, first + 1, first + 2]
    assert bank.nearest_version(between).version == first
    assert bank.nearest_version(between + timedelta(days=1)).version == bank.version
    with pytest.raises(BankError, match="no version as old as"):
        bank.nearest_version(between - timedelta(days=1))
    with pytest.raises(BankError, match="has no version 99"):
        AnchorBank.open(bank.folder, 99)


def test_lift_is_part_of_the_bank(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lift = HyperbolicLift(6, dim=3, c=2.0)
    embeddings = torch.randn(9, 6)
    source = {"id": list("abcdefgh"), "image_embedding": embeddings[:8]}
    bank = AnchorBank.open(AnchorBank.build(tmp_path / "bank", source, lift=lift).folder)
    bank.append({"id": ["i"], "image_embedding": embeddings[8:]})
    assert bank.meta.c == pytest.approx(2.0)
    torch.testing.assert_close(bank.gather(torch.arange(9)), lift(embeddings).detach(), rtol=1e-6, atol=1e-7)
    assert bank.search(lift(embeddings[4:5]).detach(), 1).rows.item() == 4
    assert torch.equal(torch.cat(bank.vectors("image_embedding")), embeddings)


def test_errors_of_arguments(bank: AnchorBank, tmp_path: Path) -> None:
    with pytest.raises(BankError, match="there is a bank at"):
        AnchorBank.build(bank.folder, rows(2))
    with pytest.raises(BankError, match=r"must have shape \(N, 5\), got \(1, 4\)"):
        bank.search(torch.zeros(1, 4), 3)
    with pytest.raises(BankError, match="k must be at least 1"):
        bank.search(torch.zeros(1, 5), 0)
    for source, message in [
        (rows(2), "in the bank already: demo-0, demo-1"),
        ({"id": ["x", "x"], "point": torch.zeros(2, 5)}, "more than once in the rows: x"),
        ({"id": ["x"], "point": torch.zeros(1, 4)}, "point must have width 5, got 4"),
        ({"id": ["x"], "point": torch.zeros(1, 5), "other": [1]}, "has no column other"),
        ({"id": ["x"], "point": torch.full((1, 5), torch.inf)}, "neither a finite point"),
        ({"id": [None], "point": torch.zeros(1, 5)}, "row 0 has no id"),
        ({"id": ["x"]}, "need a lift"),
        ({"id": ["x", "y"], "point": [[1.0], [1.0, 2.0]]}, "vectors of one width, got 1, 2"),
    ]:
        with pytest.raises(BankError, match=message):
            bank.append(source)
    assert len(AnchorBank.open(bank.folder)) == 60
    with pytest.raises(BankError, match="nothing to build"):
        AnchorBank.build(tmp_path / "empty", pa.table({"id": pa.array([], pa.string())}))
    assert not (tmp_path / "empty").exists()
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        AnchorBank.build(tmp_path / "none", tmp_path / "missing.jsonl")


def test_lost_vectors_are_made_again(bank: AnchorBank) -> None:
    query = torch.zeros(1, 5)
    want = bank.search(query, 5).rows
    for path in (bank.folder / "vectors").iterdir():
        path.write_bytes(path.read_bytes()[:17])
    assert torch.equal(AnchorBank.open(bank.folder).search(query, 5).rows, want)


WRITER = """
    import sys, torch
    from icl.bank.anchor_bank import AnchorBank
    bank = AnchorBank.open(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    i = 0
    while i < int(sys.argv[3]):
        n = 50
        ids = [f"{sys.argv[2]}-{i + j}" for j in range(n)]
        bank.append({"id": ids, "point": torch.rand(n, 5)})
        i += n
        print(i, flush=True)
"""


def writer(bank: AnchorBank, name: str, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(bank.folder), name, str(count)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def start(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("moment", [0.0, 0.013, 0.041])
def test_killed_writer(bank: AnchorBank, moment: float) -> None:
    """Rows that were committed stay, nothing else is seen, and the next append works."""
    process = writer(bank, "w", 10**9)
    assert process.stdout is not None
    start(process)
    while (line := process.stdout.readline().strip()) != "150":
        assert line, "the writer died by itself"
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    reported = [150, *map(int, process.communicate()[0].split())][-1]
    after = AnchorBank.open(bank.folder)
    written = [i for i in after.take(range(len(after)), ["id"]).column("id").to_pylist() if i.startswith("w-")]
    # all of what it reported, and perhaps the whole of the transaction that it had no time to report
    assert len(written) in (reported, reported + 50)
    assert written == [f"w-{i}" for i in range(len(written))]
    assert after.append(rows(4, first=1000)) == 4
    assert len(AnchorBank.open(bank.folder)) == 60 + len(written) + 4
    assert torch.cat(after.vectors()).isfinite().all()


def test_two_writers_lose_nothing(bank: AnchorBank) -> None:
    both = [writer(bank, name, 200) for name in ("a", "b")]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
    for process in both:
        start(process)
    for process in both:
        process.communicate()
        assert process.returncode == 0
    after = AnchorBank.open(bank.folder)
    ids = after.take(range(len(after)), ["id"]).column("id").to_pylist()
    assert sorted(ids) == sorted([f"demo-{i}" for i in range(60)] + [f"{w}-{i}" for w in "ab" for i in range(200)])


def test_a_cut_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icl.bank.ingest._BATCH", 10)
    monkeypatch.setattr("icl.bank.ingest._CHUNK", 20)
    write, writes = lance.write_dataset, []

    def dies(*args: object, **kwargs: object) -> object:
        if len(writes) == 2:
            raise KeyboardInterrupt
        writes.append(args)
        return write(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(lance, "write_dataset", dies)
    with pytest.raises(KeyboardInterrupt):
        AnchorBank.build(tmp_path / "bank", rows(60), c=C)
    with pytest.raises(BankError, match="did not finish: run the same build again"):
        AnchorBank.open(tmp_path / "bank")
    monkeypatch.setattr(lance, "write_dataset", write)
    bank = AnchorBank.build(tmp_path / "bank", rows(60), c=C)
    assert bank.take(range(60), ["id"]).column("id").to_pylist() == rows(60)["id"]
    points = rows(60)["point"]
    assert isinstance(points, torch.Tensor)
    assert torch.equal(torch.cat(bank.vectors()), points)
