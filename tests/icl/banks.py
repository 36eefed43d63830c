"""Banks whose rows are known, and the scores of their rows by the definition, for tests of banks and of selection."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from icl.bank.selection.queries import Queries
from icl.common.choices import Strategy

N, C = 50, 0.6
SCORED: list[Strategy] = ["rices", "topk_clip", "hyperbolic"]


def numbered_rows(first: int = 0, count: int = 12) -> dict[str, Any]:
    """At the depths asinh(0), asinh(1), and so on."""
    numbers = range(first, first + count)
    points = torch.stack([torch.tensor([float(i), 0.0]) for i in numbers])
    return {"id": [f"r{i}" for i in numbers], "text": [f"text {i}" for i in numbers], "point": points}


def clustered_rows() -> dict[str, Any]:
    """Fifty rows in three clusters, of which 7 and 31 say the same, and 20 and 21 have the same vectors."""
    generator = torch.Generator().manual_seed(0)
    clusters = torch.randint(3, (N,), generator=generator)

    def around(width: int, spread: float) -> Tensor:
        return torch.randn(3, width, generator=generator)[clusters] + spread * torch.randn(
            N, width, generator=generator
        )

    vectors = {"point": around(4, 0.4), "image_embedding": around(6, 0.5), "text_embedding": around(5, 0.5)}
    for column in vectors.values():
        column[21] = column[20]
    texts = [f"text {i}" for i in range(N)]
    texts[31] = texts[7]
    return {"id": [f"it's {i}" for i in range(N)], "text": texts, **vectors}


def score_rows(queries: Queries, strategy: str, depth_weight: float = 0.0) -> tuple[Tensor, Tensor]:
    """By the definition: of every row for every query, and of every row with every row."""
    table = clustered_rows()

    def cosines(x: Tensor, name: str) -> Tensor:
        return normalize(x.double(), dim=1) @ normalize(table[name].double(), dim=1).T

    def negative_distances(x: Tensor, y: Tensor) -> Tensor:
        x0, y0 = ((1 / C + v.square().sum(1)).sqrt() for v in (x.double(), y.double()))
        distance: Tensor = torch.acosh((C * (x0[:, None] * y0 - x.double() @ y.double().T)).clamp_min(1)) / C**0.5
        return -distance

    if strategy == "hyperbolic":
        points = table["point"]
        assert queries.points is not None
        depth = -negative_distances(torch.zeros(1, 4), points)
        return negative_distances(queries.points, points) + depth_weight * depth, negative_distances(points, points)
    names = ["image_embedding"] if strategy == "rices" else ["image_embedding", "text_embedding"]
    embeddings = {"image_embedding": queries.image_embeddings, "text_embedding": queries.text_embeddings}
    of_queries = torch.stack([cosines(x, name) for name in names if (x := embeddings[name]) is not None]).mean(0)
    return of_queries, torch.stack([cosines(table[name], name) for name in names]).mean(0)


def best_rows(score: Tensor, k: int) -> list[int]:
    return sorted(range(len(score)), key=lambda i: (-round(score[i].item(), 9), i))[:k]
