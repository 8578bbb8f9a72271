"""How often something happens to two arms: exact tests, and intervals of the difference of two shares."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from train.verdict.estimate import LEVEL


class Count(NamedTuple):
    """In one cell: how many of how many runs of the first arm, and of the second."""

    first: int
    of_first: int
    second: int
    of_second: int


class Shares(NamedTuple):
    """The difference of two shares over cells, as an estimate: `value`, `interval`, `p`."""

    counts: tuple[Count, ...]

    @property
    def value(self) -> float:
        """Mean over cells of the first share less the second."""
        return float(np.mean([c.first / c.of_first - c.second / c.of_second for c in self.counts]))

    @property
    def totals(self) -> Count:
        """Runs of all cells."""
        return Count(*(int(sum(column)) for column in zip(*self.counts, strict=True)))

    @property
    def p(self) -> float:
        """Fisher's exact test, stratified by cell: twice the smaller tail of the first arm's count, given in each cell
        how many runs of both did it."""
        low, high = self._tails()
        return min(1.0, 2 * min(low, high))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Of the difference of shares, wrong with chance `level` at most. It agrees with p: it has zero within or not.

        One success and one failure are added to each arm (Agresti & Caffo 2000); cells are pooled, which makes it
        wider where they differ. Where p does not exclude zero the interval does not either.
        """
        a, m, b, n = self.totals
        first, second = (a + 1) / (m + 2), (b + 1) / (n + 2)
        half = float(stats.norm.ppf(1 - level / 2))
        half *= math.sqrt(first * (1 - first) / (m + 2) + second * (1 - second) / (n + 2))
        low, high = max(-1.0, first - second - half), min(1.0, first - second + half)
        if self.p >= level:
            low, high = min(low, 0.0), max(high, 0.0)
        return low, high

    def _tails(self) -> tuple[float, float]:
        distribution = np.ones(1)
        offset = 0
        for a, m, b, n in self.counts:
            least, most = max(0, a + b - n), min(m, a + b)
            support = np.arange(least, most + 1)
            distribution = np.convolve(distribution, stats.hypergeom.pmf(support, m + n, m, a + b))
            offset += least
        seen = self.totals.first - offset
        return float(distribution[: seen + 1].sum()), float(distribution[seen:].sum())
