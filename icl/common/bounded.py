"""Learned numbers that stay positive and inside bounds, such as curvatures and temperatures."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE_BOUNDS = (0.01, 1.0)
"""Of contrastive losses, as CLIP and MERU bound theirs from below."""


def bounded(raw: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Return a positive number inside ``bounds``, in float64: ``raw`` by a sigmoid between their logarithms."""
    low, high = map(math.log, bounds)
    return torch.exp(low + (high - low) * torch.sigmoid(raw.double()))


def unbounded(value: float, bounds: tuple[float, float]) -> Tensor:
    """Return the ``raw`` of :func:`bounded` that gives ``value``, which must lie strictly inside ``bounds``."""
    low, high = map(math.log, bounds)
    share = (math.log(value) - low) / (high - low)
    return torch.tensor(math.log(share / (1 - share)))
