"""The geometry behind geoopt's ``Manifold`` interface, for its parameters and Riemannian optimisers.

Differences from geoopt's own: a Lorentz point has no time component, so a parameter (..., D) has no constraint to
drift from; ``c`` means sectional curvature -c in both models; and a curvature tensor given by the caller is copied,
never written to.
"""

from __future__ import annotations

from typing import Any

import geoopt
import torch
from torch import Tensor

from hyperbolic import lorentz, poincare
from hyperbolic.ops.dispatch import Scalar


class _Hyperbolic(geoopt.Manifold):
    ndim = 1
    reversible = True
    geometry: Any

    def __init__(self, c: Scalar = 1.0, learnable: bool = False):
        super().__init__()
        value = c.detach().clone() if isinstance(c, Tensor) else torch.tensor(float(c), dtype=torch.float64)
        if not bool((value > 0).all()):
            raise ValueError(f"{type(self).__name__}: c must be positive, got {c}")
        self.c = torch.nn.Parameter(value, requires_grad=learnable)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return _keep(self.geometry.dist(x, y, c=self.c), keepdim)

    def dist0(self, x: Tensor, *, keepdim: bool = False) -> Tensor:
        return _keep(self.geometry.dist0(x, c=self.c), keepdim)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self.geometry.expmap(x, u, c=self.c)

    retr = expmap

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

    def random(self, *size: Any, dtype: Any = None, device: Any = None, scale: float = 1.0) -> Tensor:
        """Samples of the wrapped normal distribution around the origin."""
        zero = torch.zeros(*size, dtype=dtype, device=device)
        points = self.geometry.wrapped_normal(zero, scale, c=self.c.detach()).sample()
        return geoopt.ManifoldTensor(points, manifold=self)

    def _check_vector_on_tangent(self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
        return bool(u.isfinite().all()), "the vector is not finite"


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
        """Every point is on the hyperboloid in these coordinates."""
        return x

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
        return bool(x.isfinite().all()), "the point is not finite"


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
        return poincare.project(x, c=self.c)

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> Any:
        inside = self.c.detach() * x.detach().square().sum(-1) < 1
        return bool(inside.all()), "the point is outside the ball"


def _keep(x: Tensor, keepdim: bool) -> Tensor:
    return x[..., None] if keepdim else x
