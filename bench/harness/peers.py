"""What else computes the same: the formulas in use, geoopt, hypll and FAISS, all with curvature -1."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec

import geoopt
import torch
from torch import Tensor

from harness.measure import Implementation, as_given
from harness.points import ambient, ambient_tangent
from harness.rows import ARGUMENTS

try:
    from hypll.manifolds.poincare_ball.math import diffgeom as hypll
except ImportError:
    hypll = None
# Imported where it is used: it brings a second OpenMP and a BLAS, which no other op should have beside it.
HAS_FAISS = find_spec("faiss") is not None
MISSING = [name for name, found in (("hypll", hypll), ("faiss", HAS_FAISS)) if not found]

Function = Callable[..., Tensor]
C = torch.tensor(1.0)
# What its module of functions has.
HYPLL = ("expmap0", "logmap0", "expmap", "logmap", "dist", "mobius_add")


def to_geoopt(model: str, kinds: Iterable[str], *args: Tensor) -> list[Tensor]:
    """Arguments of the given kinds as geoopt takes them; those of no kind are cotangents."""
    if model == "poincare":
        return list(args)
    kinds = [*kinds, *[""] * len(args)]
    of_kind = {
        "point": lambda a: ambient(a),
        "tangent0": lambda a: ambient_tangent(a),
        "tangent": lambda a: ambient_tangent(a, args[0]),
        "": lambda a: ambient_tangent(a) if a.shape == args[0].shape else a,
    }
    return [of_kind[kind](a) for kind, a in zip(kinds, args)]


def geoopt_function(model: str, name: str) -> Function:
    """Return a function of geoopt, whose Lorentz points carry their time component."""
    manifold = geoopt.Lorentz() if model == "lorentz" else geoopt.PoincareBall()
    if name == "dist_exp0":
        return lambda u, v: manifold.dist(manifold.expmap0(u), manifold.expmap0(v))
    function: Function = getattr(manifold, name)
    return function


def row_wise(model: str, name: str, way: Callable[[Function], Callable[..., object]]) -> dict[str, Implementation]:
    """Who has the function; ``way`` is one of ``measure.WAYS``."""
    prepare = partial(to_geoopt, model, ARGUMENTS[name])
    found = {"geoopt": Implementation(way(geoopt_function(model, name)), prepare)}
    if hypll and model == "poincare" and name in HYPLL:
        found["hypll"] = Implementation(way(partial(getattr(hypll, name), c=C)))
    return found


def matmul_acosh(model: str) -> Function:
    """All pairs by a matrix product and arcosh: for Lorentz, that of Desai et al., 2023, and for the ball its like.

    Wrong for close pairs, as bench/accuracy.py shows; they meet the clamp.
    """
    return _matmul_lorentz if model == "lorentz" else _matmul_ball


def _matmul_lorentz(x: Tensor, y: Tensor) -> Tensor:
    x0, y0 = ((1 + p.square().sum(-1)).sqrt() for p in (x, y))
    return torch.acosh((torch.outer(x0, y0) - x @ y.T).clamp_min(1 + 1e-8))


def _matmul_ball(x: Tensor, y: Tensor) -> Tensor:
    xx, yy = (p.square().sum(-1) for p in (x, y))
    square = xx[:, None] + yy - 2 * (x @ y.T)
    return torch.acosh((1 + 2 * square / torch.outer(1 - xx, 1 - yy)).clamp_min(1 + 1e-8))


def broadcast(model: str) -> Function:
    """All pairs from the difference of each, N x M x D."""
    return _broadcast_lorentz if model == "lorentz" else _broadcast_ball


def _broadcast_lorentz(x: Tensor, y: Tensor) -> Tensor:
    x0, y0 = ((1 + p.square().sum(-1)).sqrt() for p in (x, y))
    square = (x[:, None] - y).square().sum(-1) - (x0[:, None] - y0).square()
    return 2 * torch.asinh(square.clamp_min(1e-8).sqrt() / 2)


def _broadcast_ball(x: Tensor, y: Tensor) -> Tensor:
    xx, yy = (p.square().sum(-1) for p in (x, y))
    square = (x[:, None] - y).square().sum(-1)
    return torch.acosh((1 + 2 * square / torch.outer(1 - xx, 1 - yy)).clamp_min(1 + 1e-8))


def all_pairs(model: str, way: Callable[[Function], Callable[..., object]]) -> dict[str, Implementation]:
    """The libraries' distances between all pairs. They hold N x M x D numbers several times over."""
    dist = geoopt_function(model, "dist")
    prepare = _ambient_pairs if model == "lorentz" else as_given
    found = {"geoopt": Implementation(way(lambda x, y: dist(x[:, None], y)), prepare)}
    if hypll and model == "poincare":
        found["hypll"] = Implementation(way(lambda x, y: hypll.cdist(x[None], y[None], C)[0]))
    return found


def _ambient_pairs(x: Tensor, y: Tensor, *cotangent: Tensor) -> list[Tensor]:
    return [ambient(x), ambient(y), *cotangent]


def flat_index(query: Tensor, bank: Tensor, *_: Tensor) -> list[object]:
    """FAISS by inner product: with the query's time component negated, minus the Lorentz product of the points."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(bank.shape[1] + 1)
    index.add(ambient(bank).numpy())
    query = ambient(query)
    query[:, 0].neg_()
    return [query.numpy(), index]
