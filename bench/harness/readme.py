"""The README's table of speed, from the rows of the CSV alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.report import lines
from harness.table import Row

_PEERS = ("hyperbolic", "torch.cdist", "matmul+acosh", "torch.mm + topk", "faiss IndexFlatIP", "geoopt")
_SHOWN = (
    ("pairwise_dist", "lorentz", "spread", "4096 x 4096 x 512"),
    ("pairwise_dist", "poincare", "spread", "4096 x 4096 x 512"),
    ("pairwise_dist", "lorentz", "spread", "4096 x 4096 x 64"),
    ("pairwise_dist", "lorentz", "spread", "512 x 512 x 512"),
    ("nearest", "lorentz", "", "64 x 1000000 x 256, k=16"),
)


def speed(rows: Sequence[Row], command: str) -> Iterable[str]:
    """Times over that of the bare matrix product, forward, of our functions and their peers."""
    return "", *lines(("", "shape", *_PEERS), _speed(rows)), "", f"Made by `{command}`.", ""


def _speed(rows: Sequence[Row]) -> Iterable[list[str]]:
    found = {
        (row["op"], row["model"], row["case"], row["shape"], row["implementation"]): row
        for row in rows
        if row["pass"] == "forward"
    }
    for op, model, case, shape in _SHOWN:
        ratios = [found.get((op, model, case, shape, name)) for name in _PEERS]
        told = ["" if row is None else f"{float(row['ratio']):.3g}" for row in ratios]
        yield [f"`{op}`, {model}", shape, *told]
