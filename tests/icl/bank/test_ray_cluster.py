"""Building and searching with Ray: the rows and answers of one machine, whatever dies."""

import json
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from icl.bank.anchor_bank import AnchorBank
from icl.bank.embedding.embedder import EmbeddingBatch
from icl.bank.embedding.lift import HyperbolicLift
from icl.bank.schema import BankError
from icl.common.failures import RowFailure

pytest.importorskip("ray", reason="the extra [ray]")
pytestmark = pytest.mark.filterwarnings("default")  # Ray's own, and the pipes that it leaves to the end

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray

    from icl.bank.search import ray_cluster
    from icl.bank.search.ray_cluster import RayWorkers


@pytest.fixture(scope="module", autouse=True)
def machine() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def embedder(kill_at: str | None = None, marker: Path | None = None) -> Any:
    """The maker of an embedder that needs no model; the worker that embeds ``kill_at`` kills itself, once."""

    class Letters:
        name = "letters"
        images = None

        def texts(self, texts: list[str]) -> EmbeddingBatch:
            if kill_at in texts and marker is not None and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            fails = [i for i, text in enumerate(texts) if "broken" in text]
            rows = torch.tensor([i for i in range(len(texts)) if i not in fails], dtype=torch.int64)
            each = [torch.Generator().manual_seed(sum(map(ord, texts[i])) + len(texts[i])) for i in rows]
            embeddings = torch.stack([torch.randn(6, generator=g) for g in each])
            return EmbeddingBatch(embeddings, rows, [RowFailure(i, texts[i], "broken") for i in fails])

    return Letters


def rows(n: int, broken: tuple[int, ...] = ()) -> dict[str, object]:
    texts = [f"text {i * i}" + " broken" * (i in broken) for i in range(n)]
    return {"text": texts, "task": ["vqa", "ocr"] * (n // 2), "year": list(range(n))}


def lift() -> HyperbolicLift:
    torch.manual_seed(0)
    return HyperbolicLift(6, dim=4, c=0.7)


def same(a: AnchorBank, b: AnchorBank) -> bool:
    """Rows, their order, types, and what is known of the bank."""
    return bool(a.dataset.to_table().equals(b.dataset.to_table())) and a.meta == b.meta


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> AnchorBank:
    folder = tmp_path_factory.mktemp("cluster") / "single"
    return AnchorBank.build(folder, rows(200, (7, 120)), embedder=embedder()(), lift=lift(), on_failure=print)


def test_same_rows_though_a_worker_dies(single: AnchorBank, tmp_path: Path) -> None:
    """The second block kills the worker that has it, after others were written."""
    marker, failures, done = tmp_path / "killed", [], []
    bank = ray_cluster.build_bank(
        tmp_path / "bank",
        rows(200, (7, 120)),
        embedder=embedder("text 8100", marker),
        lift=lift(),
        workers=RayWorkers(2, block_rows=30),
        on_failure=failures.append,
        progress=done.append,
    )
    assert marker.exists()
    assert same(bank, single)
    assert same(AnchorBank.open(bank.folder), single)
    assert [(f.row, f.what) for f in failures] == [(7, "text 49 broken"), (120, "text 14400 broken")]
    assert done == [30] * 6 + [20]
    assert len(bank.dataset.get_fragments()) == 7
    assert bank.append({"id": ["later"], "point": torch.ones(1, 4)}) == 1


def test_a_dataset_of_ray(tmp_path: Path) -> None:
    ids = [f"demo-{i}" for i in range(40)]
    table = pa.table({"id": ids, "text": [f"text {i}" for i in range(40)], "year": range(40)})
    want = AnchorBank.build(tmp_path / "single", table, embedder=embedder()(), lift=lift())
    data = ray.data.from_arrow([table.slice(i, 10) for i in range(0, 40, 10)])
    bank = ray_cluster.build_bank(tmp_path / "bank", data, embedder=embedder(), lift=lift(), workers=RayWorkers(2))
    assert same(bank, want)
    with pytest.raises(BankError, match="need an id"):
        ray_cluster.build_bank(
            tmp_path / "other", ray.data.from_arrow(table.drop(["id"])), embedder=embedder(), lift=lift()
        )


def test_errors(single: AnchorBank, tmp_path: Path) -> None:
    """Nothing is left that looks like a bank, and the build can be run again."""
    with pytest.raises(BankError, match="there is a bank at"):
        ray_cluster.build_bank(single.folder, rows(4))
    make = {"embedder": embedder(), "lift": lift(), "workers": RayWorkers(block_rows=10)}
    for source, message in (
        (rows(40, (25,)), "row 25: text 625 broken: broken"),
        ({**rows(40), "id": [str(i % 39) for i in range(40)]}, "more than once in the rows: 0"),
        (pa.table({"id": pa.array([], pa.string())}), "there are no rows"),
    ):
        with pytest.raises(BankError, match=message):
            ray_cluster.build_bank(tmp_path / "bank", source, **make)
        with pytest.raises(BankError):
            AnchorBank.open(tmp_path / "bank")
    with pytest.raises(BankError, match="need a lift"):
        ray_cluster.build_bank(tmp_path / "bank", {"id": ["a"]})
    bank = ray_cluster.build_bank(tmp_path / "bank", rows(40), **make)
    assert len(bank) == 40
    assert json.loads((tmp_path / "bank" / "bank.json").read_text())["embedder"] == "letters"


# --- searching: last, because shards keep the processors that builds need --------------------------------------------


@pytest.fixture(scope="module")
def sharded(single: AnchorBank, tmp_path_factory: pytest.TempPathFactory) -> ray_cluster.ShardedBank:
    folder = tmp_path_factory.mktemp("cluster") / "bank"
    bank = ray_cluster.build_bank(
        folder,
        rows(200, (7, 120)),
        embedder=embedder(),
        lift=lift(),
        workers=RayWorkers(block_rows=30),
        on_failure=print,
    )
    bank.delete(["00000031", "00000199"])
    return ray_cluster.ShardedBank(bank, 2)


def check(sharded: ray_cluster.ShardedBank) -> None:
    """The best of all scores by the definition, in float64."""
    points = torch.cat(sharded.bank.vectors()).double()
    query = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)) * 2
    c, q = sharded.bank.meta.c, query.double()
    p0, q0 = ((1 + c * x.square().sum(1)).sqrt() for x in (points, q))
    d = torch.acosh(q0[:, None] * p0 - c * q @ points.T)
    for weight in (0.0, 0.4):
        hits = sharded.search(query, 50, depth_weight=weight)  # more than a fragment has
        want = (weight * torch.acosh(p0) - d).sort(dim=1, descending=True, stable=True).indices[:, :50]
        assert torch.equal(hits.rows, want)
        torch.testing.assert_close(hits.dist, (d / c**0.5).gather(1, want).float(), rtol=1e-5, atol=1e-5)


def test_same_neighbours(sharded: ray_cluster.ShardedBank) -> None:
    assert len(sharded.shards) == 2
    check(sharded)
    assert len(ray_cluster.ShardedBank(sharded.bank, 50).shards) == len(sharded.bank.dataset.get_fragments())


def test_a_dead_shard_comes_back(sharded: ray_cluster.ShardedBank) -> None:
    check(sharded)
    for shard in sharded.shards:
        process = ray.get(shard.__ray_call__.remote(lambda self: os.getpid()))
        os.kill(process, signal.SIGKILL)
        check(sharded)
        assert ray.get(shard.__ray_call__.remote(lambda self: os.getpid())) != process
