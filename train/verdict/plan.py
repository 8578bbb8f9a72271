"""How many seeds it takes: the chance to see a difference, from the spread that was seen and how sure that is."""

import bisect
import math
from typing import NamedTuple

from scipy.special import chdtri, ncfdtr, stdtrit

from train.verdict.estimate import LEVEL, Estimate

POWER = 0.8  # the chance to see the difference
SURE = 0.8  # the chance that the spread lies where the range of seeds was taken from
MOST_SEEDS = 1000


class Needed(NamedTuple):
    """Seeds for each cell: if the spread is small, as it was seen, and if it is large; None is MOST_SEEDS or more."""

    few: int | None
    likely: int | None
    many: int | None

    def __str__(self) -> str:
        if self.few is None:
            return f"{MOST_SEEDS} seeds or more"
        many = f"more than {MOST_SEEDS}" if self.many is None else f"{self.many}"
        return f"{self.few} seeds" if self.few == self.many else f"{self.few} to {many} seeds"


def power(effect: float, error: float, dof: float, level: float = LEVEL) -> float:
    """The chance that a two-sided t test at `level` finds `effect`: t^2 is a noncentral F. Cohen 1988."""
    critical = float(stdtrit(dof, 1 - level / 2))
    missed = float(ncfdtr(1, dof, (effect / error) ** 2, critical**2))
    return 1 - missed if math.isfinite(missed) else float(abs(effect / error) > critical)  # beyond what it computes


def seeds_needed(estimate: Estimate, seeds: float, effect: float, level: float = LEVEL) -> Needed:
    """Seeds for each cell at which `effect` is found with POWER, if the error of `estimate` came of `seeds` seeds.

    The part of the error that comes of seeds falls as one over their root, that of the text stays; degrees of freedom
    grow with the seeds. The range is that of the spread's own uncertainty: its SURE interval by chi-square.
    """
    own = estimate.error**2 * seeds
    few, many = (estimate.dof / float(chdtri(estimate.dof, tail)) for tail in ((1 - SURE) / 2, (1 + SURE) / 2))

    def least(spread: float) -> int | None:
        def enough(n: int) -> bool:
            error = math.sqrt(spread / n + estimate.text)
            return error == 0 or power(effect, error, estimate.dof * (n - 1) / (seeds - 1), level) >= POWER

        sizes = range(2, MOST_SEEDS)
        found = bisect.bisect_left(sizes, True, key=enough)
        return sizes[found] if found < len(sizes) else None

    return Needed(least(own * few), least(own), least(own * many))
