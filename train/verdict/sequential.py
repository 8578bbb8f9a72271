"""Looking again and again: evidence that stays valid whenever one looks and however one decides to go on.

The differences of the seeds x_1, x_2, … come one after another. Their effect size (mean over standard deviation) is
given a normal prior of variance PRIOR, their scale none at all (the right Haar measure); the likelihood ratio of the t
statistic against mean zero is then a nonnegative martingale of mean 1 where the mean is zero, whatever the scale. It
exceeds 1 / level at any time with chance `level` at most (Ville 1939). Lai 1976; Wang & Ramdas 2023, "Anytime-valid
t-tests and confidence sequences for Gaussian means with unknown variance", section 4.
"""

import itertools
import math
from typing import NamedTuple

from scipy.special import ndtri

from train.verdict.counts import Shares
from train.verdict.estimate import LEVEL, SMALLEST, Estimate, level_at

FIRST, LATER = 0.9, 0.1  # shares of a level: for the first look, and kept for all that may come after it
PRIOR = 4.0  # variance of the effect size before anything is seen: effects that matter are a few spreads large here


def log_e(t2: float, pairs: float, dof: float, *, prior: float = PRIOR) -> float:
    """Logarithm of the e-value of a squared t statistic: evidence against mean zero, of mean 1 where it is zero.

    pairs: differences that the mean is of. dof: of the spread. prior: variance of the effect size.
    """
    ratio = 1 + pairs * prior
    return (dof + 1) / 2 * (math.log1p(t2 / dof) - math.log1p(t2 / (dof * ratio))) - math.log(ratio) / 2


def critical(dof: float, level: float) -> float:
    """Half of the interval of a confidence sequence, in standard errors; infinite while seeds, dof + 1, are too few."""
    n = _seeds(dof)
    ratio = 1 + n * PRIOR
    bound = (math.sqrt(ratio) / level) ** (2 / n)
    return math.inf if bound >= ratio else math.sqrt((n - 1) * (bound - 1) / (1 - bound / ratio))


def fewest(level: float) -> int:
    """The fewest seeds whose interval is finite."""
    return next(n for n in itertools.count(2) if math.isfinite(critical(n - 1, level)))


def _seeds(dof: float) -> int:
    return max(2, int(dof + 1 + 1e-9))


class Anytime(NamedTuple):
    """An estimate that may be looked at after each seed: its interval is a confidence sequence.

    All intervals together, one after each seed, miss the true number with chance `level` at most, and p falls below
    `level` with that chance where the true number is zero. Seeds are dof + 1: what the error is as good as. The text is
    the same at every look: what it adds is missed once or never, and an interval never becomes shorter than that.
    """

    estimate: Estimate

    @property
    def value(self) -> float:
        return self.estimate.value

    @property
    def seeds(self) -> int:
        return _seeds(self.estimate.dof)

    @property
    def e_value(self) -> float:
        """Evidence of the seeds against zero: 20 is a claim at 5 % where the text adds nothing."""
        if self.estimate.error == 0:
            return 1.0 if self.value == 0 else math.inf
        return math.exp(min(log_e((self.value / self.estimate.error) ** 2, self.seeds, self.seeds - 1), 700.0))

    @property
    def p(self) -> float:
        """The level whose interval just reaches zero; 1 / e-value, at most 1, where the text adds nothing."""
        if self.estimate.text == 0:
            return min(1.0, 1 / self.e_value)
        finite = (1 + self.seeds * PRIOR) ** ((1 - self.seeds) / 2)  # half of the level from which on the interval is
        return level_at(self._half, self.value, least=max(SMALLEST, 2.000001 * finite))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """All numbers whose e-value is below 1 / level, and what the text adds; infinite while seeds are too few."""
        half = self._half(level)
        return self.value - half, self.value + half

    def _half(self, level: float) -> float:
        """Seeds and text have half of the level each where both say something; their lengths add as squares do."""
        estimate = self.estimate
        own = level / 2 if estimate.text else level
        by_seed = critical(estimate.dof, own) * estimate.error if estimate.error else 0.0
        return math.hypot(by_seed, float(ndtri(1 - own / 2)) * math.sqrt(estimate.text))


class Spent(NamedTuple):
    """Shares that were looked at before: the k-th look is at level / (k (k + 1)), which sums to `level` over all k."""

    shares: Shares
    looks: int

    @property
    def value(self) -> float:
        return self.shares.value

    @property
    def p(self) -> float:
        return min(1.0, self.shares.p * self._times)

    @property
    def _times(self) -> int:
        return (self.looks + 1) * (self.looks + 2)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        return self.shares.interval(level / self._times)
