"""Random Lorentz points in float64, and their distances by the definition, in numpy."""

import numpy as np
import torch

C = 0.6


def points(n: int, dim: int = 3, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distances(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    a, b = x.numpy(), y.numpy()
    product = np.sqrt(1 + C * (a**2).sum(1))[:, None] * np.sqrt(1 + C * (b**2).sum(1)) - C * a @ b.T
    geodesic: np.ndarray = np.arccosh(np.maximum(product, 1)) / C**0.5
    return geodesic
