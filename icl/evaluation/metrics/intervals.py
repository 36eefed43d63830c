"""95 % confidence intervals: Wilson's of a rate, and Student's of a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

_CONFIDENCE = 0.95


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Return the bounds of a rate, of which ``right`` of ``total`` were right (Wilson, 1927).

    This is the interval of answers that are right or wrong, where a mean's would be empty once all are right.

    >>> low, high = wilson_interval(10, 10)
    >>> f"{low:.3f} to {high:.3f}"
    '0.722 to 1.000'
    """
    from scipy.stats import binomtest  # loading it takes longer than much of what does without

    if not 0 <= right <= total or total == 0:
        raise ValueError(
            f"wilson_interval: right must be from 0 to total, and total at least 1, got {right} of {total}"
        )
    bounds = binomtest(right, total).proportion_ci(_CONFIDENCE, method="wilson")
    return float(bounds.low), float(bounds.high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the bounds of the mean of which ``values`` are a sample, of seeds or of rows (Student, 1908).

    Student's t and not the bootstrap, because tables here have three seeds: of three normal values the percentile
    bootstrap covers the mean in 67 %. Of many rows both are the same. One value says nothing of its spread: the bounds
    are infinite.

    >>> low, high = mean_interval([0.5, 0.6, 0.7])
    >>> f"{low:.3f} to {high:.3f}"
    '0.352 to 0.848'
    """
    from scipy.special import stdtrit

    if not values:
        raise ValueError("mean_interval: values must not be empty")
    if len(values) == 1:
        return -math.inf, math.inf
    mean = fmean(values)
    quantile = float(stdtrit(len(values) - 1, (1 + _CONFIDENCE) / 2))
    half = quantile * stdev(values, mean) / math.sqrt(len(values))
    return mean - half, mean + half
