"""The Poincare ball of radius ``1/sqrt(c)`` in wide numbers.

Vectors are (..., D), scalars (..., 1). Everything near the rim hangs on ``alpha = 1 - c|x|^2``, which is
accumulated wide, and handed on where a formula knows it better than a subtraction could. What has a
well-conditioned form in space components goes through the hyperboloid.
"""

from __future__ import annotations

import math

import torch

from hyperbolic.reference import lorentz, lorentz_distance, wide
from hyperbolic.reference.autodiff import Variable, atan2, dot, full_like, log, log1p, matvec, scale, sqrt, where
from hyperbolic.reference.special import asinhc, gram, norm, stumpff, tanhc

# Below this, 1 - c|x|^2 is found in double-double for float32 data too.
_NEAR_RIM = 2.0**-23


def rim(x: Variable, c: Variable) -> Variable:
    """``alpha = 1 - c|x|^2``, to the last digit of the data however little is left.

    NaN on the rim, outside and for what is not finite, with a derivative of NaN: then so is all that is made of it.
    """
    alpha = 1.0 - c * dot(x, x)
    if not isinstance(alpha.value, wide.DoubleDouble):
        near = ~(alpha.head > _NEAR_RIM)
        if near.device.type == "cpu" and not bool(near.any()):
            return alpha
        exact = torch.where(near, wide.rim(x.value, c.value).hi, alpha.value)
        alpha = Variable(exact, [(alpha, lambda g: g)])
    return _where_positive(alpha, alpha)


def inside(x: Variable, c: Variable) -> Variable:
    """``x`` where it is a point of the ball, else NaN: for formulas that have no use for its ``rim``."""
    return _where_positive(x, rim(x, c))


def _where_positive(x: Variable, sign: Variable) -> Variable:
    return scale(x, torch.where(sign.head > 0, 1.0, math.nan).to(torch.float64))


def conformal_factor(x: Variable, c: Variable) -> Variable:
    return 2.0 / rim(x, c)


def to_lorentz(x: Variable, c: Variable) -> Variable:
    return x * 2.0 / rim(x, c)


def from_lorentz(x: Variable, c: Variable) -> Variable:
    return x / (lorentz_distance.coshr(x, c) + 1.0)


def quarter(x: Variable, y: Variable, c: Variable) -> Variable:
    """``q = c|x-y|^2/(alpha beta) = sinh^2(D/2)``."""
    difference = x - y
    return c * dot(difference, difference) / (rim(x, c) * rim(y, c))


# --- distances ---------------------------------------------------------------------------------------------------


def dist(x: Variable, y: Variable, c: Variable) -> Variable:
    """``2 asinh(sqrt q)/sqrt c``."""
    denominator = rim(x, c) * rim(y, c)
    length = norm(x - y)
    return length * asinhc(c * length * length / denominator) * 2.0 / sqrt(denominator)


def dist0(x: Variable, c: Variable) -> Variable:
    """``2 artanh(sqrt(c)|x|)/sqrt(c)``."""
    return norm(x) * _artanh_ratio(x, c) * 2.0


def _artanh_ratio(x: Variable, c: Variable) -> Variable:
    # artanh(t)/t = asinh(t/sqrt(1 - t^2))/t
    alpha = rim(x, c)
    return asinhc(c * dot(x, x) / alpha) / sqrt(alpha)


def dist_exp0(u: Variable, v: Variable, c: Variable) -> Variable:
    """As on the hyperboloid: the metric of the ball at the origin is 4 times the Euclidean one."""
    return lorentz_distance.dist_exp0(u * 2.0, v * 2.0, c)


# --- maps at the origin ------------------------------------------------------------------------------------------


# tanh of this is 1 to more digits than any format has, and its square and hyperbolic functions are in range.
_SATURATED = 300.0


def expmap0(v: Variable, c: Variable) -> Variable:
    """``tanh(t)/t v``, t = sqrt(c)|v|."""
    v = lorentz.shorten(v, c, full_like(c, _SATURATED))
    return v * tanhc(c * dot(v, v))


def logmap0(x: Variable, c: Variable) -> Variable:
    return x * _artanh_ratio(x, c)


def transport0(y: Variable, v: Variable, c: Variable) -> Variable:
    return v * rim(y, c)


def mobius_scalar_mul(t: Variable, x: Variable, c: Variable) -> Variable:
    return expmap0(t * logmap0(x, c), c)


def mobius_matvec(m: Variable, x: Variable, c: Variable) -> Variable:
    return expmap0(matvec(m, logmap0(x, c)), c)


# --- translation -------------------------------------------------------------------------------------------------


def _add(x: Variable, y: Variable, alpha: Variable, beta: Variable, c: Variable) -> Variable:
    s = x + y
    square = c * dot(s, s)
    return (square * x + alpha * s) / (square + alpha * beta)


def mobius_add(x: Variable, y: Variable, c: Variable) -> Variable:
    """``(c|s|^2 x + alpha s)/(c|s|^2 + alpha beta)``, s = x + y."""
    return _add(x, y, rim(x, c), rim(y, c), c)


def gyration(x: Variable, y: Variable, v: Variable, c: Variable) -> Variable:
    """``gyr[x,y] v``, the rotation in ``x (+) (y (+) v) = (x (+) y) (+) gyr[x,y] v``."""
    return lorentz.gyrate(-y, x, -(x + y), v, rim(y, c), rim(x, c), c)


# --- maps at a point ---------------------------------------------------------------------------------------------


def norm_at(x: Variable, v: Variable, c: Variable) -> Variable:
    return norm(v) * conformal_factor(x, c)


def egrad2rgrad(x: Variable, g: Variable, c: Variable) -> Variable:
    alpha = rim(x, c)
    return g * (alpha * alpha * 0.25)


def expmap(x: Variable, v: Variable, c: Variable) -> Variable:
    """``x (+) tanh(t)/t w``, w = v/alpha, t = sqrt(c)|w|."""
    alpha = rim(x, c)
    w = lorentz.shorten(v / alpha, c, full_like(c, _SATURATED))
    square = c * dot(w, w)
    # The denominator of the step is sech^2 t. As 1 - tanh^2 t it would be lost from t = 18 on.
    cosh = stumpff(0, square)
    return _add(x, w * tanhc(square), alpha, 1.0 / (cosh * cosh), c)


def logmap(x: Variable, y: Variable, c: Variable) -> Variable:
    """``-(D/sinh D)(c|x-y|^2 x + alpha (x-y))/beta``."""
    difference = x - y
    alpha, beta = rim(x, c), rim(y, c)
    square = c * dot(difference, difference)
    q = square / (alpha * beta)
    return -(square * x + alpha * difference) * (asinhc(q) / (beta * sqrt(q + 1.0)))


def transport(x: Variable, y: Variable, v: Variable, c: Variable) -> Variable:
    """``(beta/alpha) gyr[y,-x] v``."""
    alpha, beta = rim(x, c), rim(y, c)
    return lorentz.gyrate(x, y, x - y, v, alpha, beta, c) * (beta / alpha)


def geodesic(x: Variable, y: Variable, t: Variable, c: Variable) -> Variable:
    return from_lorentz(lorentz.geodesic(to_lorentz(x, c), to_lorentz(y, c), t, c), c)


def midpoint(x: Variable, y: Variable, c: Variable) -> Variable:
    return from_lorentz(lorentz.midpoint(to_lorentz(x, c), to_lorentz(y, c), c), c)


def centroid(points: Variable, weights: Variable, c: Variable) -> Variable:
    """The gyromidpoint, which is the centroid of the hyperboloid."""
    return from_lorentz(lorentz.centroid(to_lorentz(points, c[..., None]), weights, c), c)


def project(x: Variable, c: Variable, margin: Variable) -> Variable:
    """``x`` where ``sqrt(c)|x| <= 1 - margin``, else the point at ``1 - 1.5 margin`` on its ray."""
    return lorentz.shorten(x, c, 1.0 - margin, 1.0 - margin * 1.5)


# --- angles and horospheres --------------------------------------------------------------------------------------


def half_aperture(x: Variable, c: Variable, min_radius: Variable) -> Variable:
    return lorentz.half_aperture(to_lorentz(x, c), c, min_radius)


def exterior_angle(x: Variable, y: Variable, c: Variable) -> Variable:
    """From the components of ``log_x y`` across and along ``x``, both times |x|."""
    y, alpha = inside(y, c), rim(x, c)
    difference = x - y
    square = c * dot(difference, difference)
    along = square * dot(x, x) + alpha * dot(difference, x)
    return atan2(alpha * sqrt(gram(y, x)), 0.0 - along)


def busemann(x: Variable, direction: Variable, c: Variable) -> Variable:
    """``log(|w - sqrt(c) x|^2/(1 - c|x|^2))/sqrt(c)`` for the unit vector w along ``direction``."""
    root, alpha = sqrt(c), rim(x, c)
    w = direction / norm(direction)
    # The logarithm of 1 + t, which is the quotient itself where x is close to w and t close to -1.
    t = root * (root * dot(x, x) - dot(x, w)) * 2.0 / alpha
    near = t.head > -0.5
    gap = w - root * x
    quotient = where(near, 1.0, dot(gap, gap) / alpha)
    return where(near, log1p(where(near, t, 0.0)), log(quotient)) / root


def wrapped_normal_log_prob(x: Variable, mean: Variable, scale: Variable, c: Variable) -> Variable:
    return lorentz.wrapped_normal_log_prob(to_lorentz(x, c), to_lorentz(mean, c), scale, c)
