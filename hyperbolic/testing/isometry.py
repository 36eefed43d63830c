"""A check for maps that keep distances."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def assert_isometric(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    dist: Callable[[Tensor, Tensor], Tensor],
    target_dist: Callable[[Tensor, Tensor], Tensor] | None = None,
    tolerance: float | None = None,
) -> None:
    """Raises ``AssertionError`` unless ``f`` keeps the distances between all pairs of rows of ``x`` (N, D).

    ``dist`` measures before and ``target_dist``, by default the same, after the map. Distances may differ by
    ``tolerance`` times ``1 + d``, by default 1e-5 for float32 and 1e-12 for float64 rows. The message names the
    worst pair.

    >>> import torch
    >>> from hyperbolic import lorentz
    >>> x, a = torch.randn(4, 3), torch.randn(3)
    >>> assert_isometric(lambda p: lorentz.boost(p, a), x, lorentz.dist)
    >>> assert_isometric(lambda p: 2 * p, x, lorentz.dist)
    Traceback (most recent call last):
    ...
    AssertionError: rows ...
    """
    if tolerance is None:
        tolerance = 1e-12 if x.dtype == torch.float64 else 1e-5
    y = f(x)
    before = dist(x[:, None], x[None, :])
    after = (target_dist or dist)(y[:, None], y[None, :])
    excess = (after - before).abs() / (1 + before)
    excess = torch.where(excess.isnan(), torch.inf, excess)
    worst = int(excess.argmax())
    i, j = divmod(worst, x.shape[0])
    if not bool(excess.flatten()[worst] <= tolerance):
        raise AssertionError(
            f"rows {i} and {j} are {before[i, j].item():.9g} apart before the map and {after[i, j].item():.9g} after"
        )
