"""Identities that tie the functions to one another, on points drawn by hypothesis over the whole domain."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hyperbolic import lorentz, models, poincare
from hyperbolic.testing import assert_isometric, strategies
from hyperbolic.testing.samples import Sampler

EPS = torch.finfo(torch.float64).eps
MODULES = {"lorentz": lorentz, "poincare": poincare}
model = st.sampled_from(sorted(MODULES))


def slack(c: float, *radii: Tensor) -> float:
    """What storing points at these radii may move a distance by."""
    return 64 * EPS * sum(1 + float(torch.sinh(math.sqrt(c) * r)) for r in radii) / math.sqrt(c)


@given(st.data(), model, strategies.curvatures())
def test_log_inverts_exp(data: st.DataObject, name: str, c: float) -> None:
    m = MODULES[name]
    x, y = data.draw(strategies.pairs(name, torch.float64, 3, c, max_radius=10.0))
    back = m.expmap(x, m.logmap(x, y, c=c), c=c)
    assert m.dist(back, y, c=c) <= slack(c, m.dist0(x, c=c), m.dist(x, y, c=c), m.dist0(y, c=c))
    assert torch.isclose(m.norm(x, m.logmap(x, y, c=c), c=c), m.dist(x, y, c=c), rtol=1e-10)
    back0 = m.expmap0(m.logmap0(y, c=c), c=c)
    assert m.dist(back0, y, c=c) <= slack(c, m.dist0(y, c=c))


@given(st.data(), model, strategies.curvatures())
def test_metric(data: st.DataObject, name: str, c: float) -> None:
    m = MODULES[name]
    x, y = data.draw(strategies.pairs(name, torch.float64, 3, c))
    z = data.draw(strategies.points(name, torch.float64, 3, c))
    d = m.dist(x, y, c=c)
    assert d >= 0
    assert (d == 0) == torch.equal(x, y)
    assert torch.equal(d, m.dist(y, x, c=c))
    assert d <= (m.dist(x, z, c=c) + m.dist(z, y, c=c)) * (1 + 16 * EPS)


@given(st.data(), strategies.curvatures())
def test_boost_is_an_isometry(data: st.DataObject, c: float) -> None:
    x, y = data.draw(strategies.pairs("lorentz", torch.float64, 3, c, max_radius=8.0))
    a = data.draw(strategies.points("lorentz", torch.float64, 3, c, max_radius=4.0))
    moved = lorentz.boost(torch.stack([x, y]), a, c=c)
    d = lorentz.dist(x, y, c=c)
    assert (lorentz.dist(moved[0], moved[1], c=c) - d).abs() <= slack(c, *lorentz.dist0(moved, c=c))
    back = lorentz.boost(moved, -a, c=c)
    assert lorentz.dist(back[0], x, c=c) <= slack(c, *lorentz.dist0(moved, c=c), lorentz.dist0(x, c=c))
    # the ball's translation is the same map
    p, q, b = models.lorentz_to_poincare(torch.stack([x, y, a]), c=c)
    ball = poincare.dist(poincare.mobius_add(b, p, c=c), poincare.mobius_add(b, q, c=c), c=c)
    assert (ball - d).abs() <= slack(c, *lorentz.dist0(moved, c=c)) + slack(
        c, *lorentz.dist0(torch.stack([x, y, a]), c=c)
    )


@given(st.data(), model, strategies.curvatures())
def test_transport(data: st.DataObject, name: str, c: float) -> None:
    """Keeps inner products, carries the geodesic's own direction along, and is undone by the way back."""
    m = MODULES[name]
    x, y = data.draw(strategies.pairs(name, torch.float64, 3, c, max_radius=5.0))
    v = data.draw(strategies.tangents(name, x, c, largest=3.0))
    w = m.transport(x, y, v, c=c)
    tolerance = 1e-8 * (1 + m.norm(x, v, c=c))
    assert (m.norm(y, w, c=c) - m.norm(x, v, c=c)).abs() <= tolerance
    assert m.norm(x, m.transport(y, x, w, c=c) - v, c=c) <= tolerance
    along = m.transport(x, y, m.logmap(x, y, c=c), c=c)
    assert m.norm(y, along + m.logmap(y, x, c=c), c=c) <= 1e-8 * (1 + m.dist(x, y, c=c))


@given(st.data(), model, strategies.curvatures(), st.floats(0, 1))
def test_geodesic(data: st.DataObject, name: str, c: float, t: float) -> None:
    m = MODULES[name]
    x, y = data.draw(strategies.pairs(name, torch.float64, 3, c, max_radius=8.0))
    g = m.geodesic(x, y, t, c=c)
    d = m.dist(x, y, c=c)
    tolerance = slack(c, m.dist0(x, c=c), m.dist0(y, c=c), m.dist0(g, c=c))
    assert (m.dist(x, g, c=c) - t * d).abs() <= tolerance
    assert (m.dist(g, y, c=c) - (1 - t) * d).abs() <= tolerance
    half = m.midpoint(x, y, c=c)
    assert m.dist(half, m.geodesic(x, y, 0.5, c=c), c=c) <= tolerance
    assert m.dist(half, m.centroid(torch.stack([x, y]), c=c), c=c) <= tolerance


@given(st.data(), strategies.curvatures())
def test_models_agree(data: st.DataObject, c: float) -> None:
    """The maps between the models keep distances, angles and horospheres."""
    x, y = data.draw(strategies.pairs("lorentz", torch.float64, 3, c, max_radius=6.0))
    p, q = models.lorentz_to_poincare(x, c=c), models.lorentz_to_poincare(y, c=c)
    tolerance = slack(c, lorentz.dist0(x, c=c), lorentz.dist0(y, c=c))
    assert (poincare.dist(p, q, c=c) - lorentz.dist(x, y, c=c)).abs() <= tolerance
    assert lorentz.dist(models.poincare_to_lorentz(p, c=c), x, c=c) <= tolerance
    k = models.lorentz_to_klein(x, c=c)
    assert lorentz.dist(models.klein_to_lorentz(k, c=c), x, c=c) <= tolerance * math.cosh(6.0) * 4
    assert torch.allclose(models.klein_to_poincare(models.poincare_to_klein(p, c=c), c=c), p, rtol=1e-9, atol=1e-300)
    w = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)
    assert (poincare.busemann(p, w, c=c) - lorentz.busemann(x, w, c=c)).abs() <= tolerance
    far = lorentz.dist0(x, c=c) * math.sqrt(c) > 1e-3 and lorentz.dist(x, y, c=c) * math.sqrt(c) > 1e-3
    if far:
        assert torch.isclose(poincare.exterior_angle(p, q, c=c), lorentz.exterior_angle(x, y, c=c), atol=1e-6)
    assert torch.isclose(poincare.half_aperture(p, c=c), lorentz.half_aperture(x, c=c), rtol=1e-9)


@given(st.data(), strategies.curvatures())
def test_dist_exp0_agrees(data: st.DataObject, c: float) -> None:
    """With the distance of the points, where these can be written down."""
    x, y = data.draw(strategies.pairs("lorentz", torch.float64, 3, c, max_radius=15.0))
    u, v = lorentz.logmap0(x, c=c), lorentz.logmap0(y, c=c)
    tolerance = slack(c, lorentz.dist0(x, c=c), lorentz.dist0(y, c=c))
    assert (lorentz.dist_exp0(u, v, c=c) - lorentz.dist(x, y, c=c)).abs() <= tolerance


@given(st.data(), strategies.curvatures())
def test_gyration(data: st.DataObject, c: float) -> None:
    """The gyrogroup's associative law, and that a gyration is a rotation."""
    x, y = data.draw(strategies.pairs("poincare", torch.float64, 3, c, max_radius=3.0))
    z = data.draw(strategies.points("poincare", torch.float64, 3, c, max_radius=3.0))
    left = poincare.mobius_add(x, poincare.mobius_add(y, z, c=c), c=c)
    right = poincare.mobius_add(poincare.mobius_add(x, y, c=c), poincare.gyration(x, y, z, c=c), c=c)
    assert poincare.dist(left, right, c=c) <= 1e-9
    assert torch.isclose(poincare.gyration(x, y, z, c=c).norm(), z.norm(), rtol=1e-14)


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_assert_isometric(c: float) -> None:
    """The public check passes for isometries, also between models, and fails for what is almost one."""
    x = Sampler("lorentz", torch.float64, 3, c, 0, 30, max_radius=4.0).point()

    def ball_dist(p: Tensor, q: Tensor) -> Tensor:
        return poincare.dist(p, q, c=c)

    def dist(p: Tensor, q: Tensor) -> Tensor:
        return lorentz.dist(p, q, c=c)

    assert_isometric(lambda p: lorentz.boost(p, x[3], c=c), x, dist, tolerance=1e-9)
    assert_isometric(lambda p: models.lorentz_to_poincare(p, c=c), x, dist, ball_dist, tolerance=1e-9)
    with pytest.raises(AssertionError, match="apart before the map"):
        assert_isometric(lambda p: lorentz.boost(p, x[3], c=c) * (1 + 1e-6), x, dist)
    with pytest.raises(AssertionError, match="nan after"):
        assert_isometric(lambda p: p * torch.nan, x, dist)
