"""States of a student and a teacher, and what losses between them should be."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from hyperbolic.testing import oracle
from icl.losses import (
    AnchorLoss,
    ContrastiveLoss,
    RelationalLoss,
    StateLoss,
    states,
)

CURVATURES = (0.01, 0.1, 1.0)
SETTINGS = [
    (kind, metric, scale)
    for kind, metric, scale in itertools.product(
        (AnchorLoss, RelationalLoss, ContrastiveLoss), states.METRICS, ("unit", "paper", "layer", "raw")
    )
    if not (metric == "l2" and scale == "paper")
    and not (metric == "geodesic" and kind is not AnchorLoss and scale in ("paper", "raw"))
]
each_setting = pytest.mark.parametrize(("kind", "metric", "scale"), SETTINGS)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def made(
    layers: int, *shape: int, noise: float = 0.3, dtype: torch.dtype = torch.float32, mean: float = 0.5
) -> tuple[list[Tensor], list[Tensor]]:
    """States of a student and a teacher whose tokens differ in length, as those of real models do."""
    teacher = [(mean + normal(*shape, seed=i)) * (1 + normal(*shape[:-1], 1, seed=50 + i).abs()) for i in range(layers)]
    student = [t + noise * normal(*shape, seed=100 + i) for i, t in enumerate(teacher)]
    return [s.to(dtype).requires_grad_() for s in student], [t.to(dtype) for t in teacher]


def layer_norm(h: Tensor, eps: float = 1e-5) -> list[mpmath.mpf]:
    values = oracle.exact(h)
    mean = mpmath.fsum(values) / len(values)
    deviation = mpmath.sqrt(mpmath.fsum((a - mean) ** 2 for a in values) / len(values) + mpmath.mpf(eps))
    return [(a - mean) / deviation for a in values]


def in_numpy(h: Tensor, t: Tensor, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Features of rows (N, D), in float64."""
    pair = []
    a, b = (x.detach().double().numpy() for x in (h, t))
    for x in (a, b):
        centred = x - x.mean(1, keepdims=True)
        if scale == "unit":
            pair.append(centred / np.sqrt(x.var(1, keepdims=True) + 1e-5) / math.sqrt(x.shape[1]))
        elif scale == "layer":
            pair.append(centred / np.sqrt((b.var(1) + 1e-5).mean()) / math.sqrt(x.shape[1]))
        else:
            pair.append(x / math.sqrt(x.shape[1]))
    return pair[0], pair[1]


def distances(x: np.ndarray, y: np.ndarray, metric: str, c: float) -> np.ndarray:
    """The hyperbolic law of cosines, or Pythagoras."""
    if metric == "l2":
        euclidean: np.ndarray = np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))
        return euclidean
    a, b = (math.sqrt(c) * np.linalg.norm(p, axis=1) for p in (x, y))
    cosine = (x @ y.T) * c / np.outer(a, b)
    cosh = np.outer(np.cosh(a), np.cosh(b)) - np.outer(np.sinh(a), np.sinh(b)) * cosine
    geodesic: np.ndarray = np.arccosh(np.maximum(1, cosh)) / math.sqrt(c)
    return geodesic


def learned(kind: type[StateLoss] = AnchorLoss, metric: str = "geodesic") -> StateLoss:
    torch.manual_seed(0)
    return kind(metric, feature_scale="lift", learn_curvature=metric == "geodesic", width=24, dim=6)
