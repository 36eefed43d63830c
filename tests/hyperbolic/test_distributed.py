"""The contrastive loss over the rows of two processes is that of one process with all rows, gradients too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from hyperbolic import lorentz, pairwise

WORLD, ROWS = 2, 6


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(5, 3, dtype=torch.float64)
        self.temperature = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.c = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, a: Any, b: Any, symmetric: bool, group: Any) -> Any:
        x, y = (lorentz.expmap0(self.encoder(t), c=self.c) for t in (a, b))
        return pairwise.contrastive_loss(x, y, self.temperature, c=self.c, symmetric=symmetric, group=group)


def data() -> tuple[Any, Any]:
    torch.manual_seed(1)
    return torch.randn(WORLD * ROWS, 5, dtype=torch.float64), torch.randn(WORLD * ROWS, 5, dtype=torch.float64)


def model() -> Model:
    torch.manual_seed(0)
    return Model()


def work(rank: int, folder: str, symmetric: bool) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    a, b = (t[rank * ROWS : (rank + 1) * ROWS] for t in data())
    parallel = DistributedDataParallel(model())
    loss = parallel(a, b, symmetric, distributed.group.WORLD)
    loss.backward()
    torch.save([loss.detach(), *(p.grad for p in parallel.parameters())], f"{folder}/{rank}.pt")
    try:
        pairwise.contrastive_loss(a[: 3 + rank], b[: 3 + rank], 1.0, group=distributed.group.WORLD)
    except ValueError as error:
        Path(folder, f"{rank}.error").write_text(str(error))
    distributed.destroy_process_group()


@pytest.mark.parametrize("symmetric", [False, True])
def test_two_processes(tmp_path: Path, symmetric: bool) -> None:
    multiprocessing.spawn(work, (str(tmp_path), symmetric), nprocs=WORLD)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]
    alone = model()
    loss = alone(*data(), symmetric, None)
    loss.backward()
    torch.testing.assert_close(sum(r[0] for r in results) / WORLD, loss.detach())
    for result in results:
        for got, p in zip(result[1:], alone.parameters(), strict=True):
            torch.testing.assert_close(got, p.grad)
    for rank in range(WORLD):
        assert "rows of one shape, got [(3, 5), (4, 5)]" in (tmp_path / f"{rank}.error").read_text()
