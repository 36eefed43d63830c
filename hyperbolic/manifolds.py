"""The geometry behind geoopt's ``Manifold`` interface, for its parameters and Riemannian optimisers.

Differences from geoopt's own: a Lorentz point has no time component, so a parameter (..., D) has no constraint to
drift from; ``c`` means sectional curvature -c in both models; a curvature tensor given by the caller is copied,
never written to; and points may have any dtype, whatever that of ``c``, which ``half()`` and the like leave as it is.
"""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable
from typing import Any

import geoopt
import torch
from geoopt.manifolds.base import ScalingInfo
from torch import Tensor

from hyperbolic import lorentz, poincare
from hyperbolic.ops.dispatch import Scalar
from hyperbolic.reference import wide
from hyperbolic.validation import DTYPES


class _Hyperbolic(geoopt.Manifold):
    """What both models share.

    Args:
        c: sectional curvature is -c; a positive number, or a tensor of them that broadcasts against the batch shape.
        learnable: whether ``c`` is learned, as ``c`` times a ``growth`` that starts at 1. ``growth`` is itself down to
            1/2 and ``1/(4 (1 - growth))`` below, so no step of an optimiser, however large, makes ``c`` negative.

    Raises:
        TypeError: if ``c`` is neither a real number nor a tensor of real numbers.
        ValueError: if ``c`` is not positive and finite.
    """

    ndim = 1
    reversible = True
    geometry: Any
    # What geoopt.Scaled scales, and with which power, besides the methods that every manifold has.
    __scaling__ = geoopt.Manifold.__scaling__.copy()
    __scaling__.update(
        dist0=ScalingInfo(1), logmap0=ScalingInfo(1), expmap0=ScalingInfo(u=-1), random=ScalingInfo(scale=-1)
    )
    initial_c: Tensor

    def __init__(self, c: Scalar = 1.0, learnable: bool = False):
        super().__init__()
        value = _curvature(type(self).__name__, c)
        self.register_buffer("initial_c", value)
        self.growth = torch.nn.Parameter(torch.ones_like(value)) if learnable else None

    @property
    def c(self) -> Tensor:
        """The curvature parameter, positive; differentiable if learnable."""
        if self.growth is None:
            return self.initial_c
        return self.initial_c * ((self.growth - 0.5).relu() + 0.25 / (1 - self.growth.clamp(max=0.5)))

    @property
    def dtype(self) -> None:
        """That of points: any."""
        return None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves the curvature to other devices and never rounds it."""

        def move(t: Tensor) -> Tensor:
            moved = fn(t)
            return moved if moved.dtype == t.dtype else t.to(moved.device)

        return super()._apply(move, recurse)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return _keep(self.geometry.dist(x, y, c=self.c), keepdim)

    def dist0(self, x: Tensor, *, keepdim: bool = False) -> Tensor:
        return _keep(self.geometry.dist0(x, c=self.c), keepdim)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self.geometry.expmap(x, u, c=self.c)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """``expmap``, kept to where the type can hold points well: the step of an optimiser."""
        return self.projx(self.expmap(x, u))

    def expmap0(self, u: Tensor) -> Tensor:
        return self.geometry.expmap0(u, c=self.c)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return self.geometry.logmap(x, y, c=self.c)

    def logmap0(self, x: Tensor) -> Tensor:
        return self.geometry.logmap0(x, c=self.c)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.geometry.transport(x, y, v, c=self.c)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return _keep(self.geometry.norm(x, u, c=self.c), keepdim)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        if v is None:
            return self.norm(x, u, keepdim=keepdim).square()
        x, u, v = (a.float() if a.dtype in (torch.float16, torch.bfloat16) else a for a in (x, u, v))
        # Both carried to the origin, where the metric is a multiple of the Euclidean one.
        origin = torch.zeros_like(x)
        product = (self.transp(x, origin, u) * self.transp(x, origin, v)).sum(-1, keepdim=keepdim)
        return product if self.geometry is lorentz else 4 * product

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.geometry.egrad2rgrad(x, u, c=self.c)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Every vector is tangent in these coordinates."""
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def origin(self, *size: Any, dtype: Any = None, device: Any = None, seed: int | None = None) -> Tensor:
        return geoopt.ManifoldTensor(torch.zeros(*size, dtype=dtype, device=device), manifold=self)

    def random(self, *size: Any, dtype: Any = None, device: Any = None, scale: Scalar = 1.0) -> Tensor:
        """Samples of a wrapped normal distribution around the origin.

        Its standard deviation is ``scale/sqrt(D)``, so that distances are about ``scale`` in any number of dimensions
        D.
        """
        zero = torch.zeros(*size, dtype=dtype, device=device)
        points = self.geometry.wrapped_normal(zero, scale / zero.shape[-1] ** 0.5, c=self.c.detach()).sample()
        return geoopt.ManifoldTensor(points, manifold=self)

    def _check_vector_on_tangent(self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
        return _verdict(u.isfinite().all(), "the vector is not finite")


class Lorentz(_Hyperbolic):
    """The hyperboloid in space components (..., D).

    >>> import geoopt
    >>> x = geoopt.ManifoldParameter(torch.tensor([[1.0, 0.0]]), manifold=Lorentz(c=0.5))
    >>> optimizer = geoopt.optim.RiemannianAdam([x], lr=0.1)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     x.manifold.dist(x, torch.tensor([[0.0, 2.0]])).square().sum().backward()
    ...     _ = optimizer.step()
    >>> x.detach().round(decimals=1).abs()
    tensor([[0., 2.]])
    """

    name = "Lorentz"
    geometry = lorentz

    def projx(self, x: Tensor) -> Tensor:
        """Every point is on the hyperboloid in these coordinates; see ``lorentz.project`` for those far out."""
        return lorentz.project(x, c=self.c)

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
        return _verdict(x.isfinite().all(), "the point is not finite")


class PoincareBall(_Hyperbolic):
    """The ball of radius ``1/sqrt(c)``.

    >>> import geoopt
    >>> ball = PoincareBall(c=1.0)
    >>> ball.dist0(ball.random(5, 2)).shape
    torch.Size([5])
    """

    name = "Poincare ball"
    geometry = poincare

    def projx(self, x: Tensor) -> Tensor:
        """Project onto the ball, as geoopt does after a step; see :func:`hyperbolic.poincare.project`."""
        return poincare.project(x, c=self.c)

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
        alpha = wide.rim(x.detach().to(torch.float64), self.c.detach().to(torch.float64)[..., None]).hi
        return _verdict((alpha > 0).all(), "the point is outside the ball")


def _curvature(title: str, c: Any) -> Tensor:
    """``c`` as a float64 tensor of its own, after all checks: fewer digits have no room for an optimiser's steps."""
    number = isinstance(c, numbers.Real) and not isinstance(c, bool)
    if isinstance(c, Tensor):
        # those of one byte have no arithmetic
        number = c.dtype in DTYPES or not (c.is_floating_point() or c.is_complex() or c.dtype == torch.bool)
        number = number and c.layout is torch.strided
    if not number:
        raise TypeError(f"{title}: c must be a number or a dense tensor of real numbers, got {c!r}")
    if isinstance(c, Tensor):
        good = c.is_meta or bool(((c > 0) & c.isfinite()).all())
        value = c.detach().to(torch.float64, copy=True)
    else:
        size = math.inf if isinstance(c, int) and abs(c) > sys.float_info.max else float(c)
        good, value = 0 < size < math.inf, torch.tensor(size, dtype=torch.float64)
    if not good:
        raise ValueError(f"{title}: c must be positive and finite, got {c}")
    return value


def _verdict(good: Tensor, reason: str) -> tuple[bool, str | None]:
    return (True, None) if bool(good) else (False, reason)


def _keep(x: Tensor, keepdim: bool) -> Tensor:
    return x[..., None] if keepdim else x
