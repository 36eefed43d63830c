"""95 % confidence intervals: of a rate, and of a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from scipy.special import stdtrit

_TAIL = 0.975  # of 95 %, two-sided
_NORMAL = NormalDist().inv_cdf(_TAIL)


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Bounds of a rate of which ``right`` of ``total`` were seen (Wilson, 1927).

    Of answers that are right or wrong, where a mean's interval would be empty once all are right.

    >>> low, high = wilson_interval(10, 10)
    >>> f"{low:.3f} to {high:.3f}"
    '0.722 to 1.000'
    """
    if not 0 <= right <= total or total == 0:
        raise ValueError(
            f"wilson_interval: right must be from 0 to total, and total at least 1, got {right} of {total}"
        )
    p, z2 = right / total, _NORMAL**2
    middle = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = _NORMAL / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total * total))
    # where p is 0 or 1 it is a bound, but for rounding
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Bounds of the mean of which ``values`` are a sample: of seeds, or of rows (Student, 1908).

    Student's t and not the bootstrap, because tables here have three seeds: of three normal values the percentile
    bootstrap covers the mean in 67 %. Of many rows both are the same. One value says nothing
    of its spread: the bounds are infinite.

    >>> low, high = mean_interval([0.5, 0.6, 0.7])
    >>> f"{low:.3f} to {high:.3f}"
    '0.352 to 0.848'
    """
    if not values:
        raise ValueError("mean_interval: values must not be empty")
    if len(values) == 1:
        return -math.inf, math.inf
    mean = fmean(values)
    half = float(stdtrit(len(values) - 1, _TAIL)) * stdev(values, mean) / math.sqrt(len(values))
    return mean - half, mean + half
