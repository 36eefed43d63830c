"""All pairs at once: distance matrices, exact nearest neighbours and the contrastive loss.

Points are rows, (..., N, D) and (..., M, D); ``model`` is "lorentz" or "poincare". The arguments, types,
curvature and errors are those of :mod:`hyperbolic.lorentz`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hyperbolic import lorentz, poincare, validation
from hyperbolic.distributed import gather
from hyperbolic.ops.all_pairs import AllPairs
from hyperbolic.ops.contrast import check_labels
from hyperbolic.ops.dispatch import Scalar, is_abstract
from hyperbolic.ops.nearest import arguments as nearest_arguments

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

PAIRS = {"lorentz": lorentz.PAIRS, "poincare": poincare.PAIRS}


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
    return _pairs("pairwise_dist", model).dist(x, y, c)


class Neighbors(NamedTuple):
    """Distances and indices of the nearest rows, (..., N, k), best first."""

    dist: Tensor
    indices: Tensor


def nearest(
    query: Tensor, bank: Tensor, k: int, model: str = "lorentz", c: Scalar = 1.0, depth_weight: float = 0.0
) -> Neighbors:
    """For each row of ``query`` the ``k`` rows of ``bank`` with the largest ``-d + depth_weight d0``, exactly.

    ``query`` is (N, D) and ``bank`` (M, D); d is the distance and d0 the distance of the bank's row to the
    origin. Ties go to the lower index; rows that are at no distance, being NaN or outside the ball, come last. The
    distances are differentiable in ``query``, ``bank`` and ``c``. The N x M matrix is never formed. ``ValueError``
    unless 1 <= k <= M and ``depth_weight`` is finite.

    >>> nearest(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0], [2.0, 0.0]]), k=2)
    Neighbors(dist=tensor([[0.8814, 1.4436]]), indices=tensor([[1, 2]]))
    """
    pairs = _pairs("nearest", model)
    query, bank, c = nearest_arguments("pairwise.nearest", query, bank, c, k, depth_weight)
    _values("nearest", model, ("query", "bank"), c=c, query=query, bank=bank)
    index: Tensor = pairs.nearest.operator(query.detach(), bank.detach(), c.detach(), k, float(depth_weight))
    return Neighbors(pairs.row_dist.operator(query[:, None, :], bank[index], c), index)


def contrastive_loss(
    x: Tensor,
    y: Tensor,
    temperature: Scalar,
    model: str = "lorentz",
    c: Scalar = 1.0,
    labels: Tensor | None = None,
    symmetric: bool = False,
    group: ProcessGroup | None = None,
) -> Tensor:
    """InfoNCE over ``-d/temperature``: ``-mean_i log softmax_j(-d(x_i, y_j)/temperature)[labels_i]``, a scalar.

    ``x`` is (N, D) and ``y`` (M, D); ``labels`` (N,), of int64, names the positive row of ``y`` for each row of
    ``x`` and defaults to the diagonal, for which N must equal M. Differentiable in the points, ``temperature`` and
    ``c``, positive numbers or tensors of one element. The matrix of distances is never formed: memory is that of the
    arguments and their gradients.

    ``symmetric`` takes the mean with the loss of ``y`` against ``x``, as CLIP does; the positives must be the
    diagonal. With a ``group`` of processes (``torch.distributed.group.WORLD`` under DDP) the rows of ``y``, and of
    ``x`` if symmetric, come from all of them, gathered with their gradient; each must bring as many, and labels
    count those of the own process. The mean over processes, which DDP takes of the gradients, is the loss of the
    whole batch.

    Chen et al., 2020 (SimCLR), equation 1, on a geodesic distance (Desai et al., 2023). ``ValueError`` for no rows, a
    number ``temperature`` that is not positive and finite, labels of another shape or type, or none where rows do not
    pair up. Labels out of range raise ``IndexError``.

    >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    >>> contrastive_loss(x, x, temperature=1.0)
    tensor(0.0944)
    """
    contrast = _pairs("contrastive_loss", model).contrast.operator
    x, y, temperature, c = validation.matrices(
        "pairwise.contrastive_loss",
        ("x", "y", "temperature", "c"),
        (("N", "D"), ("M", "D"), (), ()),
        (x, y, temperature, c),
    )
    _values("contrastive_loss", model, ("x", "y"), c=c, x=x, y=y, temperature=temperature)
    n, m = x.shape[0], y.shape[0]
    if n == 0:
        raise ValueError(f"pairwise.contrastive_loss: x must have at least one row, got {tuple(x.shape)}")
    if labels is None or symmetric:
        if n != m:
            raise ValueError(f"pairwise.contrastive_loss: x and y must pair up here, got {n} and {m} rows")
        if labels is not None:
            raise ValueError("pairwise.contrastive_loss: symmetric takes the diagonal as positives, got labels too")
        labels = torch.arange(n, device=x.device)
    else:
        check_labels("pairwise.contrastive_loss", labels, x)
        known = not torch.compiler.is_compiling() and not is_abstract(labels)
        if known and bool(((labels < 0) | (labels >= m)).any()):
            raise IndexError(f"pairwise.contrastive_loss: labels must be from 0 to {m - 1}, rows of y")
    total, positive = contrast(x, y if group is None else gather(y, group), labels, c, temperature)
    if symmetric:
        other, _ = contrast(y, x if group is None else gather(x, group), labels, c, temperature)
        total = (total + other) / 2
    loss: Tensor = (total + positive / temperature.to(positive.dtype)).mean()
    return loss


def _values(function: str, model: str, points: tuple[str, str], **args: Tensor) -> None:
    if validation.checking():
        ranks = [("N", "D") if name in points else () for name in args]
        inside, space = (points, ()) if model == "poincare" else ((), points)
        validation.values(f"pairwise.{function}", tuple(args), ranks, inside, space, tuple(args.values()))


def _pairs(function: str, model: str) -> AllPairs:
    if model not in PAIRS:
        raise ValueError(f"pairwise.{function}: model must be 'lorentz' or 'poincare', got {model!r}")
    return PAIRS[model]
