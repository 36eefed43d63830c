"""Intervals: Wilson's solves its equation, Student's covers the mean as often as it says."""

import math

import numpy as np
import pytest
from scipy import stats

from icl.evaluation.metrics.intervals import mean_interval, wilson_interval


def test_wilson_solves_its_equation() -> None:
    for right, total in ((0, 1), (0, 30), (7, 30), (30, 30), (354, 360)):
        low, high = wilson_interval(right, total)
        p = right / total
        assert 0 <= low <= p <= high <= 1
        for bound in (low, high):
            deviation = (p - bound) ** 2 - 1.959963985**2 * bound * (1 - bound) / total
            assert deviation == pytest.approx(0, abs=1e-9)


def test_interval_of_a_mean() -> None:
    values = [3.0, 5.0, 10.0, 2.0]
    want = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((want.low, want.high), rel=1e-12)
    # by hand: mean 2, deviation sqrt(2), t of one degree of freedom 12.706
    assert mean_interval([1.0, 3.0]) == pytest.approx((2 - 12.7062047, 2 + 12.7062047), rel=1e-8)
    assert mean_interval([0.25] * 5) == (0.25, 0.25)
    assert mean_interval([1.0]) == (-math.inf, math.inf)


@pytest.mark.parametrize("count", [3, 40])
def test_interval_covers_the_mean_in_95_of_100(count: int) -> None:
    samples = np.random.default_rng(0).normal(7.0, 3.0, size=(2000, count))
    covered = [low <= 7.0 <= high for low, high in map(mean_interval, samples.tolist())]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_arguments() -> None:
    with pytest.raises(ValueError, match="values must not be empty"):
        mean_interval([])
    for right, total in ((0, 0), (4, 3), (-1, 3)):
        with pytest.raises(ValueError, match=f"got {right} of {total}"):
            wilson_interval(right, total)
