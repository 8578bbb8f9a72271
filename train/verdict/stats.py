"""Intervals of a mean, and exponents."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats as scipy_stats


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval by Student's t; of one value all three are the value."""
    n, mean = len(values), float(np.mean(values))
    half = scipy_stats.t.ppf(0.975, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    return mean, mean - half, mean + half


class Slope(NamedTuple):
    """A straight line in log-log, and the standard error of its slope."""

    slope: float
    error: float
    intercept: float


def loglog_slope(x: Sequence[float], y: Sequence[float]) -> Slope:
    """The exponent of y ~ x^slope by least squares on logarithms. Raises ValueError for fewer than 3 points."""
    if len(x) < 3:
        raise ValueError(f"a slope with an error needs 3 points or more, there are {len(x)}")
    fit = scipy_stats.linregress(np.log(x), np.log(y))
    return Slope(float(fit.slope), float(fit.stderr), float(fit.intercept))
