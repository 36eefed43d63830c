"""The wrapped normal distribution, for either model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from hyperbolic import validation
from hyperbolic.ops.dispatch import Op, Scalar


class WrappedNormal(Distribution):
    """Made by ``lorentz.wrapped_normal`` and ``poincare.wrapped_normal``, which document it."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        rsample: Callable[[Tensor, Tensor, Scalar], Tensor],
        log_prob: Op,
        title: str,
        mean: Tensor,
        scale: Scalar,
        c: Scalar,
    ):
        ranks = (("D",), ("D",) if isinstance(scale, Tensor) and scale.dim() > 0 else (), ())
        mean, scale, c = validation.arguments(title, ("mean", "scale", "c"), ranks, (mean, scale, c))
        batch = torch.broadcast_shapes(mean.shape[:-1], scale.shape[:-1], c.shape)
        super().__init__(batch, mean.shape[-1:], validate_args=False)
        self.mean_point, self.scale, self.c = mean, scale, c
        self._rsample, self._log_prob = rsample, log_prob

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Points (*sample_shape, ..., D)."""
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        noise = torch.randn(shape, dtype=self.mean_point.dtype, device=self.mean_point.device)
        return self._rsample(self.mean_point, noise * self.scale.to(noise.dtype), self.c)

    def _row_scale(self) -> Tensor:
        return self.scale.expand(torch.broadcast_shapes(self.scale.shape, self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of ``value`` (..., D) with respect to the Riemannian volume, shape (...)."""
        return self._log_prob(value, self.mean_point, self._row_scale(), self.c)
