"""All pairs at once: distance matrices, exact nearest neighbours and the contrastive loss.

Points are rows, (..., N, D) and (..., M, D); ``model`` is "lorentz" or "poincare". The arguments, types,
curvature and errors are those of :mod:`hyperbolic.lorentz`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hyperbolic import validation
from hyperbolic.ops.dispatch import Op, Scalar
from hyperbolic.reference import lorentz_distance, poincare

_SIGNATURE = "x:D, y:D, c:1 -> 1"
DIST = {
    "lorentz": Op("lorentz.dist", lorentz_distance.dist, _SIGNATURE),
    "poincare": Op("poincare.dist", poincare.dist, _SIGNATURE, inside=("x", "y")),
}

# Entries of the distance matrix in flight at a time in ``nearest``.
_BLOCK = 1 << 20


def pairwise_dist(x: Tensor, y: Tensor, model: str = "lorentz", c: Scalar = 1.0) -> Tensor:
    """The matrix of distances between the rows of ``x`` and of ``y``, shape (..., N, M).

    ``x`` is (..., N, D) and ``y`` (..., M, D). Every entry has the accuracy of ``dist``, the diagonal of
    ``pairwise_dist(x, x)`` is exactly 0, and gradients at coincident points are 0. Half-precision points give
    float32 distances.

    >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    >>> pairwise_dist(x, x)
    tensor([[0.0000, 2.3124],
            [2.3124, 0.0000]])
    """
    op = DIST[_model("pairwise_dist", model)]
    x, y, c = _arguments(f"{model}.pairwise_dist", ("x", "y"), x, y, c)
    return op(x[..., :, None, :], y[..., None, :, :], c[..., None, None])


def _arguments(title: str, names: tuple[str, str], x: Tensor, y: Tensor, c: Scalar) -> list[Tensor]:
    return validation.arguments(title, (*names, "c"), (("N", "D"), ("M", "D"), ()), (x, y, c))


class Neighbors(NamedTuple):
    """Distances and indices of the nearest rows, (..., N, k), best first."""

    dist: Tensor
    indices: Tensor


def nearest(
    query: Tensor,
    bank: Tensor,
    k: int,
    model: str = "lorentz",
    c: Scalar = 1.0,
    depth_weight: float = 0.0,
    return_dist: bool = True,
) -> Neighbors | Tensor:
    """For each row of ``query`` the ``k`` rows of ``bank`` with the largest ``-d + depth_weight d0``, exactly.

    ``query`` is (N, D) and ``bank`` (M, D); d is the distance and d0 the distance of the bank's row to the
    origin. Ties go to the lower index. Returns :class:`Neighbors`, or the indices alone unless ``return_dist``;
    the distances are differentiable in ``query``, ``bank`` and ``c``. The N x M matrix is never formed.
    ``ValueError`` unless 1 <= k <= M.

    >>> nearest(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0], [2.0, 0.0]]), k=2)
    Neighbors(dist=tensor([[0.8814, 1.4436]]), indices=tensor([[1, 2]]))
    """
    op = DIST[_model("nearest", model)]
    query, bank, c = _arguments("pairwise.nearest", ("query", "bank"), query, bank, c)
    for name, a in (("query", query), ("bank", bank)):
        if a.dim() != 2:
            raise ValueError(f"pairwise.nearest: {name} must have shape (rows, D), got {tuple(a.shape)}")
    if not 1 <= k <= bank.shape[0]:
        raise ValueError(f"pairwise.nearest: k must be from 1 to the {bank.shape[0]} rows of bank, got {k}")
    with torch.no_grad():
        index = _nearest(op, query.detach(), bank.detach(), k, c.detach(), depth_weight)
    if not return_dist:
        return index
    return Neighbors(op(query[:, None, :], bank[index], c), index)


def _nearest(op: Op, query: Tensor, bank: Tensor, k: int, c: Tensor, depth_weight: float) -> Tensor:
    # Scores are compared in float64, so that rounding to the points' type makes no ties.
    query = query.to(torch.float64)
    best = query.new_empty(query.shape[0], 0)
    index = torch.empty_like(best, dtype=torch.int64)
    rows = max(1, _BLOCK // max(1, query.shape[0]))
    for start in range(0, bank.shape[0], rows):
        block = bank[start : start + rows].to(torch.float64)
        score = -op(query[:, None, :], block, c)
        if depth_weight:
            score = score + depth_weight * op(torch.zeros_like(block[:1]), block, c)
        best = torch.cat([best, score], -1)
        new = torch.arange(start, start + block.shape[0], device=index.device)
        index = torch.cat([index, new.expand(query.shape[0], -1)], -1)
        # Earlier blocks stand first, so a stable sort leaves ties in the order of the bank.
        order = best.sort(dim=-1, descending=True, stable=True).indices[:, :k]
        best, index = best.gather(-1, order), index.gather(-1, order)
    return index


def contrastive_loss(
    x: Tensor,
    y: Tensor,
    temperature: Scalar,
    model: str = "lorentz",
    c: Scalar = 1.0,
    labels: Tensor | None = None,
) -> Tensor:
    """InfoNCE over ``-d/temperature``: ``-mean_i log softmax_j(-d(x_i, y_j)/temperature)[labels_i]``, a scalar.

    ``x`` is (N, D) and ``y`` (M, D); ``labels`` (N,), of int64, names the positive row of ``y`` for each row of
    ``x`` and defaults to the diagonal, for which N must equal M. Differentiable in the points, ``temperature``
    and ``c``.

    >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    >>> contrastive_loss(x, x, temperature=1.0)
    tensor(0.0944)
    """
    _model("contrastive_loss", model)
    x, y, temperature, c = validation.arguments(
        "pairwise.contrastive_loss",
        ("x", "y", "temperature", "c"),
        (("N", "D"), ("M", "D"), (), ()),
        (x, y, temperature, c),
    )
    n, m = x.shape[-2], y.shape[-2]
    if labels is None:
        if n != m:
            raise ValueError(f"pairwise.contrastive_loss: without labels x and y must pair up, got {n} and {m} rows")
        labels = torch.arange(n, device=x.device)
    elif labels.dtype != torch.int64 or labels.shape != (n,):
        raise ValueError(
            f"pairwise.contrastive_loss: labels must be int64 of shape ({n},), got {labels.dtype} {tuple(labels.shape)}"
        )
    d = pairwise_dist(x, y, model, c)
    return cross_entropy(-d / temperature.to(d.dtype), labels)


def _model(function: str, model: str) -> str:
    if model not in DIST:
        raise ValueError(f"pairwise.{function}: model must be 'lorentz' or 'poincare', got {model!r}")
    return model
