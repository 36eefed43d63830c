"""The sizes that the targets name, and small ones in the same places that only show that everything runs."""

from __future__ import annotations

from typing import NamedTuple


class Sizes(NamedTuple):
    """Shapes of every benchmark, and how long each may take."""

    name: str
    pairs: int  # N = M of the distance matrix
    broadcast: int  # N = M where peers hold N x M x D numbers several times over
    wide: int  # D of the distance matrix and the loss
    narrow: int
    sweep: tuple[int, ...]  # N = M of the plots
    bank: tuple[int, int]
    queries: int
    neighbors: int
    loss: int  # N of the contrastive loss
    eager_loss: int  # N where the matrices of the eager formula fit as well
    rows: tuple[int, int]  # of the row-wise maps
    tangents: tuple[int, int, int]  # of dist_exp0
    small: tuple[int, int]  # where only the cost of a call counts
    calls: int  # that are timed together there
    budget: float  # seconds that one implementation may take in a group, but for the fewest rounds


FULL = Sizes(
    name="full",
    pairs=4096,
    broadcast=512,
    wide=512,
    narrow=64,
    sweep=(256, 512, 1024, 2048, 4096, 8192),
    bank=(1_000_000, 256),
    queries=64,
    neighbors=16,
    loss=16384,
    eager_loss=4096,
    rows=(1_000_000, 64),
    tangents=(8, 512, 4096),
    small=(4, 8),
    calls=100,
    budget=1.2,
)
QUICK = Sizes(
    name="quick",
    pairs=64,
    broadcast=16,
    wide=32,
    narrow=8,
    sweep=(16, 64, 128),
    bank=(1000, 16),
    queries=4,
    neighbors=4,
    loss=128,
    eager_loss=64,
    rows=(16, 4),
    tangents=(2, 4, 16),
    small=(4, 8),
    calls=3,
    budget=0.0,
)


def shape(*sizes: int) -> str:
    """Return sizes as text."""
    return " x ".join(map(str, sizes))
