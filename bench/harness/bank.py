"""The points of a bank of demonstrations: concepts of a hierarchy, each with demonstrations round it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.points import generator
from hyperbolic import lorentz

# Concepts lie at radius 1, 2, ... 6, as many at each, SIDEWAYS away from the ray of the one they belong to, which is
# one level up. A demonstration is about SCATTER sqrt(dim) from its concept.
LEVELS, SIDEWAYS, SCATTER = 6, 1.5, 0.05
ROWS_PER_CONCEPT = 100
_ROWS = 1 << 14


def concepts(count: int, dim: int, seed: int = 0) -> Tensor:
    """Return directions of concepts in a tree, (count, dim)."""
    g = generator(seed)
    directions, levels = torch.zeros(1, dim), []
    for level in range(1, LEVELS + 1):
        parents = directions[torch.randint(len(directions), (-(-count // LEVELS),), generator=g)]
        aside = torch.randn(parents.shape, generator=g)
        aside -= (aside * parents).sum(1, keepdim=True) * parents
        aside /= aside.norm(dim=1, keepdim=True)
        # the angle at which two points of this radius are SIDEWAYS apart; at first, any
        half = torch.asin(torch.tensor(SIDEWAYS / 2).sinh() / torch.tensor(float(level)).sinh())
        directions = aside if level == 1 else (2 * half).cos() * parents + (2 * half).sin() * aside
        levels.append(directions * torch.tensor(float(level)).sinh())
    return torch.cat(levels)


def demonstrations(rows: int, dim: int, seed: int = 0) -> Iterator[Tensor]:
    """In pieces, in random order, the same on every run, for c = 1."""
    centres, g = concepts(max(LEVELS, rows // ROWS_PER_CONCEPT), dim, seed), generator(seed + 1)
    for start in range(0, rows, _ROWS):
        count = min(_ROWS, rows - start)
        centre = centres[torch.randint(len(centres), (count,), generator=g)]
        step = SCATTER * torch.randn(count, dim, generator=g)
        yield lorentz.expmap(centre, lorentz.transport0(centre, step))
