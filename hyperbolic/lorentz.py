"""The Lorentz (hyperboloid) model of hyperbolic space with sectional curvature ``-c``.

A point *is* its space components ``x``, a tensor (..., D); the time component ``x0 = sqrt(1/c + |x|^2)`` is
derived and never stored, because with a rounded time component no formula can be exact. A tangent vector ``v``
at ``x`` is its space components too, and any vector is one: ``v0 = x.v/x0``. Radius means ``r = sqrt(c) d(0,
x)``.

Every function takes tensors of any floating point type, broadcasts batch shapes, and takes the curvature
parameter ``c`` as a positive number or as a tensor that broadcasts against the batch shape; where an element of a
tensor is not positive and finite, results are NaN. All are differentiable in every tensor, ``c`` included, to any
order. Arithmetic inside has at least twice the digits of the arguments and the result is rounded once;
half-precision points give half-precision points and float32 scalars.

Raises, in every function: ``TypeError`` for an argument that is no floating point tensor; ``ValueError`` for
shapes that do not fit, devices that differ, or a number ``c`` that is not positive and finite. Values are checked
within ``hyperbolic.checks()``. Error bounds are those of ``docs/numerics.md``: scalars in units in the last place
(ULP), points by hyperbolic displacement and tangents in the Riemannian norm, in units of the type's epsilon.
"""

from __future__ import annotations

import math

from torch import Tensor

from hyperbolic import validation
from hyperbolic.distributions import WrappedNormal
from hyperbolic.limits import LARGEST_COORDINATE, LARGEST_RADIUS
from hyperbolic.ops.all_pairs import AllPairs
from hyperbolic.ops.dispatch import Op, Scalar, operator
from hyperbolic.reference import lorentz as formulas
from hyperbolic.reference import lorentz_distance as distance


@operator(formulas.time, "x:D, c:1 -> 1", space=("x",))
def time(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """The time component ``sqrt(1/c + |x|^2)``, shape (...).

    ``x`` is (..., D), any finite value. Error at most 1 ULP. Smooth everywhere.

    >>> time(torch.tensor([3.0, 4.0]), c=1.0)
    tensor(5.0990)
    """
    return time.op(x, c)


@operator(distance.inner, "x:D, y:D, c:1 -> 1", space=("x", "y"))
def inner(x: Tensor, y: Tensor, c: Scalar = 1.0) -> Tensor:
    """The Lorentz inner product ``<x,y>_L = x.y - x0 y0`` of two points, shape (...); at most ``-1/c``.

    ``x`` and ``y`` are (..., D), radius up to 28 in float32 and 40 in float64. Error at most 1 ULP: computed as
    ``-1/c - h^2/2`` from the chord ``h`` (see :func:`dist`), where the definition cancels. Smooth everywhere.

    >>> inner(torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor(-5.0990)
    """
    return inner.op(x, y, c)


_tangent_to_ambient = Op(
    "lorentz.tangent_to_ambient", formulas.tangent_to_ambient, "x:D, v:D, c:1 -> D+1", space=("x",)
)


@operator(formulas.to_ambient, "x:D, c:1 -> D+1", space=("x",))
def to_ambient(x: Tensor, v: Tensor | None = None, c: Scalar = 1.0) -> Tensor:
    """Ambient coordinates (..., D + 1), time first: of the point ``x``, or of the tangent ``v`` at ``x`` if given.

    >>> to_ambient(torch.tensor([3.0, 4.0]))
    tensor([5.0990, 3.0000, 4.0000])
    >>> to_ambient(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0]))
    tensor([0.5883, 1.0000, 0.0000])
    """
    return to_ambient.op(x, c) if v is None else _tangent_to_ambient(x, v, c)


def from_ambient(p: Tensor, v: Tensor | None = None, c: Scalar = 1.0) -> Tensor:
    """Space components (..., D) of the ambient point ``p``, or of the ambient tangent ``v`` at ``p`` if given.

    The time components, first along the last dimension, are dropped. Within ``hyperbolic.checks()`` raises
    ``ValueError`` for a ``p`` off the hyperboloid or a ``v`` off the tangent space by more than rounding explains.

    >>> from_ambient(torch.tensor([5.0990, 3.0, 4.0]))
    tensor([3., 4.])
    """
    names, args = (("p",), (p,)) if v is None else (("p", "v"), (p, v))
    dims = tuple(("D+1",) for _ in names)
    p, *rest, c = validation.arguments("lorentz.from_ambient", (*names, "c"), (*dims, ()), (*args, c))
    if validation.checking():
        validation.ambient("lorentz.from_ambient", p, rest[0] if rest else None, c)
    return (rest[0] if rest else p)[..., 1:]


@operator(formulas.expmap0, "v:D, c:1, largest:1 -> D", point="lorentz")
def expmap0(v: Tensor, c: Scalar = 1.0) -> Tensor:
    """The exponential map at the origin, ``sinh(t)/t v`` with ``t = sqrt(c)|v|``, shape (..., D).

    ``v`` is (..., D). Error at most 2 ULP. A tangent so long that a coordinate would overflow is shortened to
    the longest that fits (``limits.LARGEST_COORDINATE``; radius 88 in float32, 700 in float64); nothing below
    is clamped. Smooth everywhere; the Jacobian at 0 is the identity. MERU saturates at radius 11.

    >>> expmap0(torch.tensor([3.0, 4.0]))
    tensor([44.5219, 59.3626])
    """
    return expmap0.op(v, c, _largest(v))


@operator(formulas.logmap0, "x:D, c:1 -> D", space=("x",))
def logmap0(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """The logarithm at the origin, ``asinh(s)/s x`` with ``s = sqrt(c)|x|``, shape (..., D).

    ``x`` is (..., D), any finite value. Error at most 1 ULP in float32, 3 in float64. Smooth everywhere.

    >>> logmap0(torch.tensor([44.5219, 59.3626]))
    tensor([3.0000, 4.0000])
    """
    return logmap0.op(x, c)


@operator(formulas.expmap, "x:D, v:D, c:1 -> D", point="lorentz", space=("x",))
def expmap(x: Tensor, v: Tensor, c: Scalar = 1.0) -> Tensor:
    """The point reached from ``x`` along ``v``, ``cosh(n) x + sinh(n)/n v`` with ``n = sqrt(c)|v|_L``; (..., D).

    ``x`` and ``v`` are (..., D). Displacement at most ``4 eps (1 + r + n + sinh r_out)``; overflow as in
    :func:`expmap0`. Inward tangents make the textbook form cancel: the tangent is carried to the origin and the
    result translated back with the radial coordinate as a product. Smooth everywhere.

    >>> expmap(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
    tensor([3.7622, 3.6269])
    """
    return expmap.op(x, v, c)


@operator(formulas.logmap, "x:D, y:D, c:1 -> D", space=("x", "y"))
def logmap(x: Tensor, y: Tensor, c: Scalar = 1.0) -> Tensor:
    """The tangent at ``x`` that points to ``y``, ``(D/sinh D)(y - cosh(D) x)`` with ``D = sqrt(c) d``; (..., D).

    ``x`` and ``y`` are (..., D). Error at most 2 Riemannian eps, radius up to 20 in float32 and 40 in float64.
    Exactly 0 at coincident points; smooth everywhere.

    >>> logmap(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 2.0]))
    tensor([-0.1749,  1.4416])
    """
    return logmap.op(x, y, c)


@operator(distance.dist, "x:D, y:D, c:1 -> 1", space=("x", "y"))
def dist(x: Tensor, y: Tensor, c: Scalar = 1.0) -> Tensor:
    """The geodesic distance ``d = 2 asinh(sqrt(c) h/2)/sqrt(c)``, h the ambient chord; shape (...).

    ``x`` and ``y`` are (..., D). Error at most 1 ULP in float32 (radius up to 28), 5 ULP in float64 (up to 40),
    however close the points; exactly 0 where they coincide. The gradient, of Riemannian norm 1, is exact to 2
    eps; at coincident points, where it is undefined, it is 0. MERU and geoopt compute ``acosh(-c<x,y>)``, which
    loses half the digits. ``h`` follows from the Gram determinant of ``x - y`` and the shorter of the two
    (docs/numerics.md).

    >>> dist(torch.tensor([1.0, 0.0]), torch.tensor([1.001, 0.0]))
    tensor(0.0007)
    """
    return dist.op(x, y, c)


@operator(distance.dist0, "x:D, c:1 -> 1", space=("x",))
def dist0(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """The distance to the origin, ``asinh(sqrt(c)|x|)/sqrt(c)``, shape (...).

    ``x`` is (..., D), any finite value. Error at most 1 ULP in float32, 3 in float64. The gradient at 0 is 0.

    >>> dist0(torch.tensor([3.0, 4.0]))
    tensor(2.3124)
    """
    return dist0.op(x, c)


@operator(distance.dist_exp0, "u:D, v:D, c:1 -> 1")
def dist_exp0(u: Tensor, v: Tensor, c: Scalar = 1.0) -> Tensor:
    """The distance of ``expmap0(u)`` and ``expmap0(v)`` straight from the tangents, shape (...).

    ``u`` and ``v`` are (..., D), radius ``sqrt(c)|u|`` up to 1e4, where coordinates overflowed long ago. Error
    at most 4 ULP. At coincident points it is exactly 0 and so is its gradient. From ``sinh^2(D/2) =
    sinh^2((a-b)/2) + sinh(a) sinh(b) |u/|u| - v/|v||^2/4``, in the log domain once a + b > 30.

    >>> dist_exp0(torch.tensor([300.0, 0.0]), torch.tensor([0.0, 400.0]))
    tensor(699.3068)
    """
    return dist_exp0.op(u, v, c)


@operator(formulas.transport, "x:D, y:D, v:D, c:1 -> D", space=("x", "y"))
def transport(x: Tensor, y: Tensor, v: Tensor, c: Scalar = 1.0) -> Tensor:
    """Parallel transport of the tangent ``v`` along the geodesic from ``x`` to ``y``, shape (..., D).

    All arguments are (..., D). Error at most 2 Riemannian eps, radius up to 20 in float32 and 40 in float64.
    Smooth everywhere. The tangent goes to the origin, is turned by the holonomy of the triangle (0, x, y) and
    goes on to ``y`` (Ungar's gyration), which keeps norms where ``v + c<y,v>/(1 - c<x,y>)(x + y)`` loses them.

    >>> transport(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    tensor([0.3333, 1.3333])
    """
    return transport.op(x, y, v, c)


@operator(formulas.transport0, "y:D, v:D, c:1 -> D", space=("y",))
def transport0(y: Tensor, v: Tensor, c: Scalar = 1.0) -> Tensor:
    """Parallel transport of ``v`` from the origin to ``y``, ``v + c (y.v)/(1 + sqrt(c) y0) y``, shape (..., D).

    Error at most 2 Riemannian eps. Smooth everywhere.

    >>> transport0(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))
    tensor([1.4142, 1.0000])
    """
    return transport0.op(y, v, c)


@operator(formulas.geodesic, "x:D, y:D, t:1, c:1 -> D", point="lorentz", space=("x", "y"))
def geodesic(x: Tensor, y: Tensor, t: Scalar, c: Scalar = 1.0) -> Tensor:
    """The point at fraction ``t`` of the way from ``x`` to ``y``, shape (..., D).

    ``t`` is a number or a tensor that broadcasts against the batch shape; 0 gives ``x``, 1 gives ``y``, other
    values prolong the geodesic. Displacement at most ``4 eps (1 + r + d + sinh r_out)`` for t in [0, 1]. Smooth
    everywhere.

    >>> geodesic(torch.tensor([0.0, 0.0]), torch.tensor([3.0, 4.0]), 0.5)
    tensor([0.8590, 1.1453])
    """
    return geodesic.op(x, y, t, c)


@operator(formulas.midpoint, "x:D, y:D, c:1 -> D", point="lorentz", space=("x", "y"))
def midpoint(x: Tensor, y: Tensor, c: Scalar = 1.0) -> Tensor:
    """The point halfway from ``x`` to ``y``, ``(x + y)/(2 cosh(D/2))``, shape (..., D).

    Displacement at most ``4 eps (1 + r + d + sinh r_out)``. Smooth everywhere.

    >>> midpoint(torch.tensor([0.0, 0.0]), torch.tensor([3.0, 4.0]))
    tensor([0.8590, 1.1453])
    """
    return midpoint.op(x, y, c)


@operator(formulas.centroid, "x:K*D, weights:K, c:1 -> D", point="lorentz", space=("x",))
def centroid(x: Tensor, weights: Tensor | None = None, c: Scalar = 1.0) -> Tensor:
    """The Lorentz centroid of K points, the weighted ambient mean scaled back to the hyperboloid; (..., D).

    ``x`` is (..., K, D); ``weights`` (..., K) are non-negative with a positive sum and default to equal ones.
    Law et al., 2019, equation 11. Displacement at most ``4 eps (1 + r + sinh r_out)``. Smooth everywhere.

    >>> centroid(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([0.8590, 1.1453])
    """
    return centroid.op(x, validation.equal_weights("lorentz.centroid", x) if weights is None else weights, c)


@operator(formulas.norm_at, "x:D, v:D, c:1 -> 1", space=("x",))
def norm(x: Tensor, v: Tensor, c: Scalar = 1.0) -> Tensor:
    """The Riemannian norm ``sqrt(|v|^2 - v0^2)`` of the tangent ``v`` at ``x``, shape (...).

    Error at most 1 ULP, radius up to 20 in float32 and 40 in float64. The gradient at ``v = 0`` is 0.

    >>> norm(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0]))
    tensor(0.9806)
    """
    return norm.op(x, v, c)


@operator(formulas.egrad2rgrad, "x:D, g:D, c:1 -> D", space=("x",))
def egrad2rgrad(x: Tensor, g: Tensor, c: Scalar = 1.0) -> Tensor:
    """The Riemannian gradient at ``x``, ``g + c (x.g) x``, of a Euclidean gradient ``g``; shape (..., D).

    ``g`` is what autograd returns for the space components. Error at most 2 Riemannian eps.

    >>> egrad2rgrad(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0]))
    tensor([10., 12.])
    """
    return egrad2rgrad.op(x, g, c)


@operator(formulas.half_aperture, "x:D, c:1, min_radius:1 -> 1", space=("x",))
def half_aperture(x: Tensor, min_radius: Scalar = 0.1, c: Scalar = 1.0) -> Tensor:
    """The half-aperture of the entailment cone at ``x``, ``asin(2 min_radius/(sqrt(c)|x|))``, shape (...).

    Ganea et al., 2018; Desai et al., 2023 (MERU), equation 8. ``pi/2``, with gradient 0, where ``sqrt(c)|x| <= 2
    min_radius``. Error at most 2 ULP in float32, 4 in float64. Geoopt's has sqrt(k) where sqrt(1/k) is meant.

    >>> half_aperture(torch.tensor([3.0, 4.0]))
    tensor(0.0400)
    """
    return half_aperture.op(x, c, min_radius)


@operator(formulas.exterior_angle, "x:D, y:D, c:1 -> 1", space=("x", "y"))
def exterior_angle(x: Tensor, y: Tensor, c: Scalar = 1.0) -> Tensor:
    """The angle at ``x`` between the prolonged ray from the origin and the geodesic to ``y``, shape (...).

    It is from 0 to pi as the type rounds it. ``y`` lies in the entailment cone of ``x`` where this is at most
    ``half_aperture(x)``. Error at most 2 ULP in float32, 4 ULP + 1e-30 in float64. Where it is undefined, ``x`` at
    the origin or at ``y``, it is 0 with gradient 0, so the entailment loss of Ganea et al. vanishes there; on the ray
    itself, where it has a kink, the gradient is 0 too.

    >>> exterior_angle(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))
    tensor(1.8785)
    """
    return exterior_angle.op(x, y, c)


@operator(formulas.busemann, "x:D, direction:D, c:1 -> 1", space=("x",))
def busemann(x: Tensor, direction: Tensor, c: Scalar = 1.0) -> Tensor:
    """The Busemann function ``log(sqrt(c)(x0 - x.w))/sqrt(c)`` of ``w = direction/|direction|``, shape (...).

    The signed distance to the horosphere of the ideal point ``w`` through the origin, negative towards ``w``.
    ``direction`` is (..., D), not 0. Error at most 2 eps of ``max(1, |value|)``: the function changes sign. Smooth
    everywhere.

    >>> busemann(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0]))
    tensor(-2.3124)
    """
    return busemann.op(x, direction, c)


@operator(formulas.boost, "x:D, a:D, c:1 -> D", point="lorentz", space=("x", "a"))
def boost(x: Tensor, a: Tensor, c: Scalar = 1.0) -> Tensor:
    """The isometry that moves the origin to ``a`` along a geodesic, applied to ``x``; shape (..., D).

    Its inverse is the boost by ``-a``. Displacement at most ``4 eps (1 + r + r_a + sinh r_out)``. Smooth
    everywhere.

    >>> boost(torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor([3., 4.])
    """
    return boost.op(x, a, c)


@operator(formulas.shorten, "x:D, c:1, largest:1, target:1 -> D", point="lorentz", space=("x",))
def project(x: Tensor, c: Scalar = 1.0) -> Tensor:
    """``x`` if its radius is at most the largest of its type, else the point on its ray 1/64 short of that; (..., D).

    ``limits.LARGEST_RADIUS`` gives the largest radius. For points that an optimiser has moved, which farther out lose
    the digits of their distances and in the end overflow. The gradient beyond is that of the radial projection.

    >>> project(torch.tensor([3.0, 4.0])), dist0(project(torch.tensor([0.0, 1e30])))
    (tensor([3., 4.]), tensor(19.9844))
    """
    radius = LARGEST_RADIUS.get(x.dtype, 1.0) if isinstance(x, Tensor) else 1.0
    return project.op(x, c, math.sinh(radius), math.sinh(radius - 1 / 64))


_log_prob = Op(
    "lorentz.wrapped_normal_log_prob",
    formulas.wrapped_normal_log_prob,
    "x:D, mean:D, scale:D~, c:1 -> 1",
    space=("x", "mean"),
)


def wrapped_normal(mean: Tensor, scale: Scalar = 1.0, c: Scalar = 1.0) -> WrappedNormal:
    """The wrapped normal distribution around ``mean``: a ``torch.distributions.Distribution``.

    A normal vector with standard deviations ``scale`` (a number, or (..., D)) in the tangent space of the
    origin is transported to ``mean`` and mapped down (Nagano et al., 2019). ``rsample`` is differentiable in
    ``mean``, ``scale`` and ``c``; ``log_prob`` is the density with respect to the Riemannian volume.

    >>> _ = torch.manual_seed(0)
    >>> wrapped_normal(torch.tensor([3.0, 4.0]), 0.1).rsample((2,)).shape
    torch.Size([2, 2])
    >>> wrapped_normal(torch.zeros(2), 1.0).log_prob(torch.zeros(2))
    tensor(-1.8379)
    """
    return WrappedNormal(_rsample, _log_prob, "lorentz.wrapped_normal", mean, scale, c)


def _largest(x: Tensor) -> float:
    return LARGEST_COORDINATE.get(x.dtype, 1.0) if isinstance(x, Tensor) else 1.0  # other types are refused later


def _rsample(mean: Tensor, w: Tensor, c: Scalar) -> Tensor:
    return expmap(mean, transport0(mean, w, c), c)


# What pairwise.py makes of the distance.
PAIRS = AllPairs(dist.op)


def pairwise_dist(x: Tensor, y: Tensor, c: Scalar = 1.0) -> Tensor:
    """All distances between the rows of ``x`` (..., N, D) and of ``y`` (..., M, D): (..., N, M).

    See :func:`hyperbolic.pairwise.pairwise_dist`.

    >>> pairwise_dist(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[0.0000, 2.3124]])
    """
    return PAIRS.dist(x, y, c)
