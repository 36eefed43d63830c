"""Entries of a matrix that become exact: the reference against the oracle, and the kernels against the reference."""

from __future__ import annotations

from functools import partial

import numpy
import pytest
import torch
from mpmath import mpf
from torch import Tensor

from hyperbolic import pairwise
from hyperbolic.testing import Sampler, oracle
from hyperbolic.testing.contract import GRADIENT_RADIUS
from hyperbolic.testing.errors import covector_norm
from tests.csrc.simt.device import Device, devices

REPAIR = {model: pairs.repair for model, pairs in pairwise.PAIRS.items()}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
MODELS = pytest.mark.parametrize("model", sorted(REPAIR))


def flawed(n: int, m: int, tile: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A matrix with NaN of which those of every third tile are not counted, and the counts."""
    torch.manual_seed(8)
    d = torch.rand(n, m, dtype=dtype)
    d[torch.rand(n, m) < 0.3] = torch.nan
    blocks = [[b.isnan().sum() for b in row.split(tile[1], 1)] for row in d.split(tile[0])]
    counts = torch.tensor(blocks, dtype=torch.int32)
    counts.view(-1)[1::3] = 0
    return d, counts


def counted(d: Tensor, counts: Tensor, tile: tuple[int, int]) -> list[tuple[int, int]]:
    entries = d.isnan().nonzero().tolist()
    return [(i, j) for i, j in entries if counts[i // tile[0], j // tile[1]] > 0]


def scene(model: str, n: int, m: int, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Points of one side, and of the other coincident ones, close ones and others, coordinates not adjacent."""
    x = Sampler(model, torch.float64, dim, 0.5, 4, n, 4.0).point()
    sampler = Sampler(model, torch.float64, dim, 0.5, 5, m, 4.0)
    y = sampler.partner(x[torch.arange(m) % n])
    return x.to(dtype), y.to(dtype).t().contiguous().t(), torch.tensor(0.5, dtype=torch.float64)


@devices
@MODELS
@DTYPES
def test_repair(model: str, dtype: torch.dtype, device: Device) -> None:
    """What is NaN in a counted tile becomes the exact distance, and nothing else changes."""
    for dim, (n, m), tile in ((3, (9, 7), (4, 4)), (64, (40, 5), (16, 64)), (600, (3, 35), (3, 35))):
        x, y, c = scene(model, n, m, dim, dtype)
        for result in {torch.float64, torch.promote_types(dtype, torch.float32)}:
            d, counts = flawed(n, m, tile, result)
            entries, before = counted(d, counts, tile), d.clone()
            assert entries
            by_reference = d.clone()
            REPAIR[model].operator(by_reference, x, y, c, counts, *tile)
            device(f"{model}_repair", d, x, y, c, counts, *tile)
            torch.testing.assert_close(d, by_reference, rtol=2 * torch.finfo(result).eps, atol=0, equal_nan=True)
            for i, j in entries:
                before[i, j] = d[i, j]
            assert torch.equal(d.nan_to_num(-1), before.nan_to_num(-1))
            assert not d[tuple(zip(*entries))].isnan().any()


def zeros(x: Tensor, y: Tensor) -> list[Tensor]:
    """What gradients are added to."""
    words = 2 if torch.float64 in (x.dtype, y.dtype) else 1
    return [torch.zeros(size, dtype=torch.float64) for size in ((*x.shape, words), (*y.shape, words), ())]


@devices
@MODELS
@DTYPES
def test_repair_backward(model: str, dtype: torch.dtype, device: Device) -> None:
    """The gradients of these pairs are added to what is there, through a view of g too."""
    for dim, (n, m), tile in ((3, (9, 7), (4, 4)), (64, (40, 5), (16, 64)), (600, (3, 35), (3, 35))):
        x, y, c = scene(model, n, m, dim, dtype)
        result = torch.promote_types(dtype, torch.float32)
        w, counts = flawed(n, m, tile, result)
        g = torch.randn(m, n, dtype=result).t()
        start = [torch.randn_like(a) for a in zeros(x, y)]
        for a in start[:2]:
            a[..., 1:] *= 2.0**-54  # what a first word leaves over
        got, want = [a.clone() for a in start], [a.clone() for a in start]
        device(f"{model}_repair_backward", w, g, x, y, c, *got, counts, *tile)
        REPAIR[model].backward(w, g, x, y, c, *want, counts, *tile)
        coordinate, number = {torch.float64: (1e-27, 1e-14)}.get(dtype, (1e-12, 1e-12))
        for a, b, before, bound in zip(got, want, start, (coordinate, coordinate, number)):
            assert not torch.equal(b, before)
            assert (a - b).sum(-1).abs().max() <= bound * (1 + (b - before).abs().max())


@devices
@MODELS
def test_far_out(model: str, device: Device) -> None:
    """In two words, not yet rounded to one, gradients hold the contract as far out as it reaches, also those that
    several calls add to.
    """
    sampler = Sampler(model, torch.float64, 3, 1.0, 5, 6, GRADIENT_RADIUS[torch.float64])
    x = sampler.store(sampler._at(sampler.directions(), numpy.full((6, 1), sampler.max_radius)))
    y, g, c = sampler.partner(x), torch.randn(6, 6, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    w, counts = torch.full_like(g, torch.nan), torch.ones(1, 1, dtype=torch.int32)
    for backward in (REPAIR[model].backward, partial(device, f"{model}_repair_backward")):
        gx, gy, gc = zeros(x, y)
        for part in (slice(4), slice(4, 6)):
            backward(w[:, part], g[:, part], x, y[part], c, gx, gy[part], gc, counts, 6, 6)
        with oracle.digits():
            points, weights = (oracle.exact(x), oracle.exact(y)), (oracle.exact(g), oracle.exact(g.T))
            for side, got in enumerate((gx, gy)):
                for i, p in enumerate(points[side]):
                    error, size = [mpf(hi) + mpf(lo) for hi, lo in got[i].tolist()], mpf(0)
                    for q, a in zip(points[1 - side], weights[side][i]):
                        if p != q:
                            slope = oracle.gradient_of_dist(model, p, q, mpf(1))
                            error, size = [e - a * b for e, b in zip(error, slope)], size + abs(a)
                    assert covector_norm(model, p, error, mpf(1)) <= 2e-14 * size


@MODELS
def test_repair_against_the_oracle(model: str) -> None:
    """The reference: distances and the gradients of their weighted sum."""
    x, y, c = scene(model, 4, 5, 3, torch.float64)
    d, counts = flawed(4, 5, (2, 2), torch.float64)
    entries, g = counted(d, counts, (2, 2)), torch.randn(4, 5, dtype=torch.float64)
    gx, gy, gc = zeros(x, y)
    REPAIR[model].backward(d, g, x, y, c, gx, gy, gc, counts, 2, 2)
    REPAIR[model].operator(d, x, y, c, counts, 2, 2)
    with oracle.digits():
        p, q, k = oracle.exact(x), oracle.exact(y), mpf(0.5)
        dist = getattr(oracle, model).dist
        want = [[mpf(0)] * 3 for _ in range(4)]
        by_c, step = mpf(0), mpf(10) ** -60
        for i, j in entries:
            exact = dist(p[i], q[j], k) if p[i] != q[j] else mpf(0)
            assert abs(d[i, j].item() - exact) <= 5 * torch.finfo(d.dtype).eps * exact
            if exact:
                gradient = oracle.gradient_of_dist(model, p[i], q[j], k)
                want[i] = [a + mpf(g[i, j].item()) * b for a, b in zip(want[i], gradient)]
                by_c += mpf(g[i, j].item()) * (dist(p[i], q[j], k + step) - dist(p[i], q[j], k - step)) / (2 * step)
        exact_gx = torch.tensor([[float(a) for a in row] for row in want], dtype=torch.float64)
    torch.testing.assert_close(gx[..., 0], exact_gx, rtol=1e-12, atol=1e-12)
    assert abs(gc.item() - float(by_c)) <= 1e-12 * (1 + abs(float(by_c)))


@MODELS
def test_repair_schema(model: str) -> None:
    x, y, c = scene(model, 4, 5, 3, torch.float32)
    d, counts = flawed(4, 5, (2, 2), torch.float32)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(REPAIR[model].operator, (d, x, y, c, counts, 2, 2), test_utils=checks)
    args = d, torch.ones_like(d), x, y, c, *zeros(x, y), counts, 2, 2
    torch.library.opcheck(REPAIR[model].backward, args, test_utils=checks)
