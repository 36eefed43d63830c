"""The Poincaré ball model of hyperbolic space with sectional curvature ``-c``.

A point has ``c|x|^2 < 1``; the ball's radius is ``1/sqrt(c)``. Points and tangents are tensors (..., D). Types,
broadcasting, curvature, differentiability, error measures and the errors raised are those of
:mod:`hyperbolic.lorentz`. A function that returns a point returns one strictly inside the ball: what would round to
the rim is rounded towards the origin in its last bits. Nothing is clamped but by :func:`project`, whose margin is in
``hyperbolic.limits``. ``alpha = 1 - c|x|^2`` below; bounds hold for points up to ``1 - sqrt(c)|x| = 1e-7`` in float32
and 1e-15 in float64.

A point that is not inside, because ``c|x|^2 >= 1`` exactly or because a coordinate is not finite, gives NaN in all of
its row, and so do the gradients there; ``hyperbolic.checks()`` names it.
"""

from __future__ import annotations

from torch import Tensor

from hyperbolic import validation
from hyperbolic.distributions import WrappedNormal
from hyperbolic.limits import RIM_MARGIN
from hyperbolic.ops.all_pairs import AllPairs
from hyperbolic.ops.dispatch import Op, Scalar, operator
from hyperbolic.reference import poincare as formulas


@operator(formulas.expmap0, "v:D, c:1 -> D", point="ball")
def expmap0(v: Tensor, c: Scalar = 1.0) -> Tensor:
    """The exponential map at the origin, ``tanh(t)/t v`` with ``t = sqrt(c)|v|``, shape (..., D), strictly inside.

    ``v`` is (..., D), any finite value. Error at most 2 ULP. Smooth everywhere; the Jacobian at 0 is the
    identity. Geoopt and hypll clip the result to radius 6.2 in float32.

    >>> expmap0(torch.tensor([0.3, 0.4]))
    tensor([0.2773, 0.3697])
    """
    return expmap0.op(v, c)


@operator(formulas.logmap0, "x:D, c:1 -> D", inside=("x",))
def logmap0(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """The logarithm at the origin, ``artanh(s)/s x`` with ``s = sqrt(c)|x|``, shape (..., D).

    Error at most 1 ULP in float32, 3 in float64. Smooth everywhere.

    >>> logmap0(torch.tensor([0.2773, 0.3697]))
    tensor([0.3000, 0.4000])
    """
    return logmap0.op(x, c)


@operator(formulas.expmap, "x:D, v:D, c:1 -> D", point="ball", inside=("x",))
def expmap(x: Tensor, v: Tensor, c: Scalar = 1.0) -> Tensor:
    """The point reached from ``x`` along ``v``, ``x (+) tanh(t)/t v/alpha`` with ``t = sqrt(c)|v|/alpha``; (..., D).

    ``x`` and ``v`` are (..., D), ``v`` any finite value. Displacement at most ``4 eps (1 + r + n + sinh
    r_out)``, n the length of ``v``; strictly inside. Smooth everywhere.

    >>> expmap(torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0.3]))
    tensor([0.5522, 0.2750])
    """
    return expmap.op(x, v, c)


@operator(formulas.logmap, "x:D, y:D, c:1 -> D", inside=("x", "y"))
def logmap(x: Tensor, y: Tensor, c: Scalar = 1.0) -> Tensor:
    """The tangent at ``x`` that points to ``y``, shape (..., D).

    ``-(D/sinh D)(c|x-y|^2 x + alpha (x-y))/beta``, which is ``artanh`` of the Mobius difference (Ganea et al.,
    2018) without its cancellation. Error at most 2 Riemannian eps. Exactly 0 at coincident points; smooth
    everywhere.

    >>> logmap(torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0.5]))
    tensor([-0.5404,  0.3243])
    """
    return logmap.op(x, y, c)


@operator(formulas.dist, "x:D, y:D, c:1 -> 1", inside=("x", "y"))
def dist(x: Tensor, y: Tensor, c: Scalar = 1.0) -> Tensor:
    """The geodesic distance ``2 asinh(sqrt(c)|x-y|/sqrt(alpha beta))/sqrt(c)``, shape (...).

    Error at most 1 ULP in float32, 4 in float64, however close the points; exactly 0 where they coincide. The
    gradient is exact to 2 eps in the dual Riemannian norm; at coincident points it is 0. Geoopt and hypll take
    ``artanh`` of the Mobius difference, which saturates at the rim and cancels at small distances.

    >>> dist(torch.tensor([0.5, 0.0]), torch.tensor([0.501, 0.0]))
    tensor(0.0027)
    """
    return dist.op(x, y, c)


@operator(formulas.dist0, "x:D, c:1 -> 1", inside=("x",))
def dist0(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """The distance to the origin, ``2 artanh(sqrt(c)|x|)/sqrt(c)``, shape (...).

    Error at most 1 ULP in float32, 3 in float64. The gradient at 0 is 0.

    >>> dist0(torch.tensor([0.3, 0.4]))
    tensor(1.0986)
    """
    return dist0.op(x, c)


@operator(formulas.dist_exp0, "u:D, v:D, c:1 -> 1")
def dist_exp0(u: Tensor, v: Tensor, c: Scalar = 1.0) -> Tensor:
    """The distance of ``expmap0(u)`` and ``expmap0(v)`` straight from the tangents, shape (...).

    As :func:`hyperbolic.lorentz.dist_exp0`; a tangent of the ball is half the one of the hyperboloid, the
    metric at the origin being 4 times the Euclidean one.

    >>> dist_exp0(torch.tensor([300.0, 0.0]), torch.tensor([0.0, 400.0]))
    tensor(1399.3069)
    """
    return dist_exp0.op(u, v, c)


@operator(formulas.transport, "x:D, y:D, v:D, c:1 -> D", inside=("x", "y"))
def transport(x: Tensor, y: Tensor, v: Tensor, c: Scalar = 1.0) -> Tensor:
    """Parallel transport of ``v`` along the geodesic from ``x`` to ``y``, ``(beta/alpha) gyr[y,-x] v``; (..., D).

    Error at most 2 Riemannian eps. Smooth everywhere.

    >>> transport(torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0.5]), torch.tensor([0.0, 1.0]))
    tensor([0.4706, 0.8824])
    """
    return transport.op(x, y, v, c)


@operator(formulas.transport0, "y:D, v:D, c:1 -> D", inside=("y",))
def transport0(y: Tensor, v: Tensor, c: Scalar = 1.0) -> Tensor:
    """Parallel transport of ``v`` from the origin to ``y``, ``(1 - c|y|^2) v``, shape (..., D).

    Error at most 1 ULP.

    >>> transport0(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 1.0]))
    tensor([0.7500, 0.7500])
    """
    return transport0.op(y, v, c)


@operator(formulas.geodesic, "x:D, y:D, t:1, c:1 -> D", point="ball", inside=("x", "y"))
def geodesic(x: Tensor, y: Tensor, t: Scalar, c: Scalar = 1.0) -> Tensor:
    """The point at fraction ``t`` of the way from ``x`` to ``y``, shape (..., D), strictly inside.

    See :func:`hyperbolic.lorentz.geodesic`.

    >>> geodesic(torch.tensor([0.0, 0.0]), torch.tensor([0.8, 0.0]), 0.5)
    tensor([0.5000, 0.0000])
    """
    return geodesic.op(x, y, t, c)


@operator(formulas.midpoint, "x:D, y:D, c:1 -> D", point="ball", inside=("x", "y"))
def midpoint(x: Tensor, y: Tensor, c: Scalar = 1.0) -> Tensor:
    """The point halfway from ``x`` to ``y``, shape (..., D), strictly inside.

    >>> midpoint(torch.tensor([0.0, 0.0]), torch.tensor([0.8, 0.0]))
    tensor([0.5000, 0.0000])
    """
    return midpoint.op(x, y, c)


@operator(formulas.centroid, "x:K*D, weights:K, c:1 -> D", point="ball", inside=("x",))
def centroid(x: Tensor, weights: Tensor | None = None, c: Scalar = 1.0) -> Tensor:
    """The gyromidpoint of K points (..., K, D), shape (..., D), strictly inside; Ungar, 2010.

    The image of :func:`hyperbolic.lorentz.centroid`. ``weights`` (..., K) are non-negative with a positive sum.

    >>> centroid(torch.tensor([[0.0, 0.0], [0.8, 0.0]]))
    tensor([0.5000, 0.0000])
    """
    return centroid.op(x, validation.equal_weights("poincare.centroid", x) if weights is None else weights, c)


@operator(formulas.norm_at, "x:D, v:D, c:1 -> 1", inside=("x",))
def norm(x: Tensor, v: Tensor, c: Scalar = 1.0) -> Tensor:
    """The Riemannian norm ``2|v|/(1 - c|x|^2)`` of the tangent ``v`` at ``x``, shape (...). Error at most 1 ULP.

    The gradient at ``v = 0`` is 0.

    >>> norm(torch.tensor([0.5, 0.0]), torch.tensor([0.3, 0.4]))
    tensor(1.3333)
    """
    return norm.op(x, v, c)


@operator(formulas.egrad2rgrad, "x:D, g:D, c:1 -> D", inside=("x",))
def egrad2rgrad(x: Tensor, g: Tensor, c: Scalar = 1.0) -> Tensor:
    """The Riemannian gradient at ``x``, ``(alpha/2)^2 g``, of a Euclidean gradient ``g``; (..., D). Error 1 ULP.

    >>> egrad2rgrad(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 0.0]))
    tensor([0.1406, 0.0000])
    """
    return egrad2rgrad.op(x, g, c)


@operator(formulas.half_aperture, "x:D, c:1, min_radius:1 -> 1", inside=("x",))
def half_aperture(x: Tensor, min_radius: Scalar = 0.1, c: Scalar = 1.0) -> Tensor:
    """The half-aperture of the entailment cone at ``x``, ``asin(min_radius alpha/(sqrt(c)|x|))``, shape (...).

    Ganea et al., 2018, equation 25; equal to that of the same point on the hyperboloid. ``pi/2``, with gradient
    0, close to the origin. Error at most 2 ULP in float32, 4 in float64.

    >>> half_aperture(torch.tensor([0.3, 0.4]))
    tensor(0.1506)
    """
    return half_aperture.op(x, c, min_radius)


@operator(formulas.exterior_angle, "x:D, y:D, c:1 -> 1", inside=("x", "y"))
def exterior_angle(x: Tensor, y: Tensor, c: Scalar = 1.0) -> Tensor:
    """The angle at ``x`` between the prolonged ray from the origin and the geodesic to ``y``, shape (...).

    It is from 0 to pi as the type rounds it. As :func:`hyperbolic.lorentz.exterior_angle`: 0, with gradient 0, where
    it is undefined.

    >>> exterior_angle(torch.tensor([0.5, 0.0]), torch.tensor([0.5, 0.5]))
    tensor(1.8925)
    """
    return exterior_angle.op(x, y, c)


@operator(formulas.busemann, "x:D, direction:D, c:1 -> 1", inside=("x",))
def busemann(x: Tensor, direction: Tensor, c: Scalar = 1.0) -> Tensor:
    """The Busemann function ``log(|w - sqrt(c) x|^2/alpha)/sqrt(c)``, ``w = direction/|direction|``; shape (...).

    As :func:`hyperbolic.lorentz.busemann`: 0 at the origin, negative towards ``w``.

    >>> busemann(torch.tensor([0.3, 0.4]), torch.tensor([3.0, 4.0]))
    tensor(-1.0986)
    """
    return busemann.op(x, direction, c)


@operator(formulas.mobius_add, "x:D, y:D, c:1 -> D", point="ball", inside=("x", "y"))
def mobius_add(x: Tensor, y: Tensor, c: Scalar = 1.0) -> Tensor:
    """The Mobius sum ``x (+) y``: the translation of the origin to ``x``, applied to ``y``; (..., D).

    Strictly inside. ``(c|s|^2 x + alpha s)/(c|s|^2 + alpha beta)`` with ``s = x + y``. Displacement at most ``4 eps
    (1 + r + r_y + sinh r_out)``. Smooth everywhere.

    >>> mobius_add(torch.tensor([0.5, 0.0]), torch.tensor([0.5, 0.0]))
    tensor([0.8000, 0.0000])
    """
    return mobius_add.op(x, y, c)


@operator(formulas.mobius_scalar_mul, "t:1, x:D, c:1 -> D", point="ball", inside=("x",))
def mobius_scalar_mul(t: Scalar, x: Tensor, c: Scalar = 1.0) -> Tensor:
    """``t`` times ``x`` along its geodesic from the origin, ``expmap0(t logmap0(x))``; (..., D), strictly inside.

    >>> mobius_scalar_mul(2.0, torch.tensor([0.5, 0.0]))
    tensor([0.8000, 0.0000])
    """
    return mobius_scalar_mul.op(t, x, c)


@operator(formulas.mobius_matvec, "m:O*D, x:D, c:1 -> O", point="ball", inside=("x",))
def mobius_matvec(m: Tensor, x: Tensor, c: Scalar = 1.0) -> Tensor:
    """The matrix ``m`` (..., O, D) applied in the tangent space of the origin; (..., O), strictly inside.

    ``expmap0(m logmap0(x))``; Ganea et al., 2018, equation 27. Smooth also where ``m x = 0``.

    >>> mobius_matvec(torch.tensor([[2.0, 0.0]]), torch.tensor([0.5, 0.3]))
    tensor([0.8158])
    """
    return mobius_matvec.op(m, x, c)


@operator(formulas.gyration, "x:D, y:D, v:D, c:1 -> D", inside=("x", "y"))
def gyration(x: Tensor, y: Tensor, v: Tensor, c: Scalar = 1.0) -> Tensor:
    """The rotation ``gyr[x,y] v``, by which ``x (+) (y (+) v) = (x (+) y) (+) gyr[x,y] v``; shape (..., D).

    Ungar, 2008. Keeps ``|v|`` to 2 eps.

    >>> gyration(torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0.5]), torch.tensor([0.0, 1.0]))
    tensor([0.4706, 0.8824])
    """
    return gyration.op(x, y, v, c)


@operator(formulas.conformal_factor, "x:D, c:1 -> 1", inside=("x",))
def conformal_factor(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """The factor ``2/(1 - c|x|^2)`` between Euclidean and Riemannian lengths at ``x``, shape (...). Error 1 ULP.

    >>> conformal_factor(torch.tensor([0.5, 0.0]))
    tensor(2.6667)
    """
    return conformal_factor.op(x, c)


@operator(formulas.project, "x:D, c:1, margin:1 -> D", point="ball")
def project(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """``x`` if ``sqrt(c)|x| <= 1 - margin``, else the point at ``1 - 1.5 margin`` on its ray; (..., D).

    Strictly inside. The only clamp of the ball, and an explicit one; for points that an optimiser has moved in the
    ambient space. ``limits.RIM_MARGIN`` gives the margin of each type. The gradient beyond is that of the radial
    projection.

    >>> project(torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])
    """
    return project.op(x, c, RIM_MARGIN.get(x.dtype, 0.0) if isinstance(x, Tensor) else 0.0)


_log_prob = Op(
    "poincare.wrapped_normal_log_prob",
    formulas.wrapped_normal_log_prob,
    "x:D, mean:D, scale:D~, c:1 -> 1",
    inside=("x", "mean"),
)


def wrapped_normal(mean: Tensor, scale: Scalar = 1.0, c: Scalar = 1.0) -> WrappedNormal:
    """The wrapped normal distribution around ``mean``: the image of :func:`hyperbolic.lorentz.wrapped_normal`.

    ``scale`` is in units of geodesic distance, as there.

    >>> _ = torch.manual_seed(0)
    >>> wrapped_normal(torch.tensor([0.3, 0.4]), 0.1).rsample((2,)).shape
    torch.Size([2, 2])
    """
    return WrappedNormal(_rsample, _log_prob, "poincare.wrapped_normal", mean, scale, c)


def _rsample(mean: Tensor, w: Tensor, c: Scalar) -> Tensor:
    return expmap(mean, transport0(mean, w * 0.5, c), c)


# What pairwise.py makes of the distance.
PAIRS = AllPairs(dist.op)


def pairwise_dist(x: Tensor, y: Tensor, c: Scalar = 1.0) -> Tensor:
    """All distances between the rows of ``x`` (..., N, D) and of ``y`` (..., M, D): (..., N, M).

    See :func:`hyperbolic.pairwise.pairwise_dist`.

    >>> pairwise_dist(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [0.3, 0.4]]))
    tensor([[0.0000, 1.0986]])
    """
    return PAIRS.dist(x, y, c)
