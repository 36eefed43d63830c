"""Adversarial arguments for the functions of the catalogue, from a seed.

Radii are 0, tiny, moderate, and at the limit of the type; directions are general, along an axis and along the
diagonal; second points are independent, coincident, close in a general or in the radial direction, collinear,
and opposite.
"""

from __future__ import annotations

import math
from typing import Any

import numpy
import torch
from torch import Tensor

Array = Any  # of float64, (n, dim) or (n, 1)

RADIUS = {
    ("lorentz", torch.float32): 28.0,
    ("lorentz", torch.float64): 40.0,
    # where 1 - sqrt(c)|x| is 1e-7 and 1e-15; half-way there for Klein, whose radius is tanh r and not tanh r/2
    ("poincare", torch.float32): math.log(2e7),
    ("poincare", torch.float64): math.log(2e15),
    ("klein", torch.float32): math.log(2e7) / 2,
    ("klein", torch.float64): math.log(2e15) / 2,
}
"""How far out, ``sqrt(c) d(0, x)``, points are drawn by default: the domain of the contract."""

RELATIONS = ("independent", "coincident", "close", "radially close", "collinear", "opposite")


class Sampler:
    """Draws batches of ``n`` rows. Everything is a float64 computation rounded to ``dtype``."""

    def __init__(
        self,
        model: str,
        dtype: torch.dtype,
        dim: int,
        c: float,
        seed: int,
        n: int = 1,
        max_radius: float | None = None,
    ):
        self.model, self.dtype, self.dim, self.c, self.n = model, dtype, dim, c, n
        self.rng = numpy.random.default_rng(seed)
        self.max_radius = RADIUS[model, dtype] if max_radius is None else min(max_radius, RADIUS[model, dtype])

    def _tensor(self, x: Array) -> Tensor:
        return torch.from_numpy(numpy.ascontiguousarray(x, dtype=numpy.float64)).to(self.dtype)

    def directions(self) -> Array:
        """Return unit vectors, some along axes and diagonals."""
        rng = self.rng
        u = rng.standard_normal((self.n, self.dim))
        axis = numpy.eye(self.dim)[rng.integers(self.dim, size=self.n)] * rng.choice([-1, 1], size=(self.n, 1))
        diagonal = rng.choice([-1.0, 1.0], size=(self.n, self.dim))
        kind = rng.random((self.n, 1))
        u = numpy.where(kind < 0.15, axis, numpy.where(kind < 0.25, diagonal, u))
        return u / numpy.linalg.norm(u, axis=-1, keepdims=True)

    def radii(self, largest: float) -> Array:
        """Return radii up to ``largest``, at every scale."""
        rng, n = self.rng, (self.n, 1)
        kind = rng.random(n)
        r = largest * rng.random(n)
        r = numpy.where(kind < 0.30, 10.0 ** rng.uniform(-3, 0, n), r)
        r = numpy.where(kind < 0.20, 10.0 ** rng.uniform(-30, -3, n), r)
        r = numpy.where(kind < 0.10, largest, r)
        return numpy.minimum(numpy.where(kind < 0.03, 0.0, r), largest)

    def _at(self, u: Array, r: Array) -> Array:
        profile = {"lorentz": numpy.sinh(r), "poincare": numpy.tanh(r / 2), "klein": numpy.tanh(r)}
        return u * profile[self.model] / math.sqrt(self.c)

    def store(self, x: Array) -> Tensor:
        """Rounds to the type, and in a ball back inside the domain of the contract."""
        if self.model == "lorentz":
            return self._tensor(x)
        profile = math.tanh(self.max_radius / 2 if self.model == "poincare" else self.max_radius)
        for _ in range(4):
            size = math.sqrt(self.c) * numpy.linalg.norm(x, axis=-1, keepdims=True)
            x = numpy.where(size > profile, x * (profile / numpy.maximum(size, profile)) * (1 - 2e-16), x)
            stored = self._tensor(x)
            x = stored.to(torch.float64).numpy()
        return stored

    def point(self) -> Tensor:
        """Return points up to the largest radius."""
        return self.store(self._at(self.directions(), self.radii(self.max_radius)))

    def partner(self, x: Tensor, relation: str | None = None) -> Tensor:
        """A second point for each row of ``x``, in a random or in the given relation to it."""
        rng, p = self.rng, x.to(torch.float64).numpy()
        n = (self.n, 1)
        length = numpy.linalg.norm(p, axis=-1, keepdims=True)
        # Euclidean length of a geodesic unit across the radius, and along it
        across = 1.0 if self.model == "lorentz" else numpy.maximum(1 - self.c * length**2, 0) / 2
        along = numpy.hypot(1.0, math.sqrt(self.c) * length) if self.model == "lorentz" else across
        step = 10.0 ** rng.uniform(-8, 0, n) / math.sqrt(self.c)
        options = {
            "independent": self._at(self.directions(), self.radii(self.max_radius)),
            "coincident": p,
            "close": p + self.directions() * step * across,
            "radially close": p * (1 + step * along / numpy.maximum(length, 1e-300)),
            "collinear": p * rng.choice([0.5, 0.25, 0.75, 0.999], size=n),
            "opposite": -p * rng.choice([1.0, 0.5, 0.9, 1 - 1e-6], size=n),
        }
        if relation is not None:
            return self.store(options[relation])
        which = rng.integers(len(RELATIONS), size=n)
        y = options["independent"]
        for i, name in enumerate(RELATIONS):
            y = numpy.where(which == i, options[name], y)
        stored = self.store(y)
        return torch.where(torch.from_numpy(which == RELATIONS.index("coincident")), x, stored)

    def tangent0(self, largest: float = 20.0) -> Tensor:
        """Return tangents at the origin of norm up to ``largest``."""
        scale = 1.0 if self.model == "lorentz" else 0.5
        return self._tensor(self.directions() * self.radii(largest) * scale / math.sqrt(self.c))

    def tangent(self, x: Tensor, largest: float = 20.0) -> Tensor:
        """Tangents at ``x`` of norm up to ``largest``.

        They are radial where the type can hold no other at that radius.
        """
        w = self.tangent0(largest).to(torch.float64).numpy()
        p = x.to(torch.float64).numpy()
        square = self.c * (p * p).sum(-1, keepdims=True)
        radial = p * self.rng.choice([-1.0, -0.5, 0.5, 1.0, -2.0], size=(self.n, 1))
        if self.model != "lorentz":
            return self._tensor(w * (1 - square))
        e = numpy.sqrt(1 + square)
        v = w + p * (self.c * (p * w).sum(-1, keepdims=True) / (1 + e))
        held = numpy.abs(v).max(-1, keepdims=True) * torch.finfo(self.dtype).eps < 1e-3
        return self._tensor(numpy.where(held, v, radial))

    def vector(self) -> Tensor:
        """Return standard normal vectors."""
        return self._tensor(self.rng.standard_normal((self.n, self.dim)))

    def arguments(self, kinds: tuple[str, ...]) -> list[Tensor]:
        """One batch for each kind of ``Case.arguments``."""
        out: list[Tensor] = []
        for kind in kinds:
            earlier = [a for a, k in zip(out, kinds) if k == "point"]
            if kind == "point":
                out.append(self.partner(earlier[0]) if earlier else self.point())
            elif kind == "tangent":
                out.append(self.tangent(earlier[0]))
            elif kind == "tangent0":
                other = out[-1] if kinds[: len(out)] == ("tangent0",) else None
                v = self.tangent0()
                if other is not None:
                    same, near = self.rng.random((2, self.n, 1)) < 0.2
                    v = torch.where(torch.from_numpy(near), other * (1 + 1e-4 * self.vector()), v)
                    v = torch.where(torch.from_numpy(same), other, v)
                out.append(v)
            elif kind in ("covector", "direction"):
                out.append(self.vector())
            elif kind == "scale":
                out.append(self._tensor(10.0 ** self.rng.uniform(-1, 1, (self.n, self.dim))))
            elif kind == "fraction":
                out.append(self._tensor(self.rng.choice([0.0, 0.25, 0.3, 0.9, 1.0], size=self.n)))
            elif kind == "min_radius":
                out.append(self._tensor(self.rng.uniform(0.05, 0.2, self.n)))
            elif kind == "points":
                first = self.point()
                out.append(torch.stack([first, *(self.partner(first) for _ in range(3))], dim=-2))
            elif kind == "weights":
                out.append(self._tensor(self.rng.uniform(0.1, 1.0, (self.n, 4))))
            elif kind == "matrix":
                out.append(self._tensor(self.rng.standard_normal((self.n, self.dim, self.dim)) / self.dim))
        return out
