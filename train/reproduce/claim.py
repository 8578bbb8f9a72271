"""A claim: what a paper says, as a range that a number should lie in; what was measured, as an interval; the answer.

The answer follows from the two by one rule, `answer_of`, and from nothing else.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

REPRODUCED, UNDECIDED, CONTRADICTED = "reproduced", "not at this size", "contradicted"
LEVEL = 0.95  # of every interval


class Interval(NamedTuple):
    """A measured number, and the ends of its 95 % interval; infinite where one measurement says nothing of others."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Expected:
    """What a source lets expect: in words, and as the closed range that the measured number should lie in."""

    words: str
    low: float = -math.inf
    high: float = math.inf


SMALLEST = 0.02  # nats: a smaller difference does not matter
ABOVE_0 = Expected("more than 0", low=0.0)
NO_WORSE = Expected(f"worse by less than {SMALLEST} nats", high=SMALLEST)


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence of a paper held against a measurement. text: the sentence. source: where it stands."""

    text: str
    source: str
    expected: Expected
    measured: Interval

    @property
    def answer(self) -> str:
        """By `answer_of`."""
        return answer_of(self.expected, self.measured)

    @property
    def sentence(self) -> str:
        """Claim, source, what was expected, measured and answered, in one line."""
        value, low, high = (f"{number:.3g}" for number in self.measured)
        return (
            f"{self.text} ({self.source}): expected {self.expected.words}, measured {value} [{low}, {high}]: "
            f"{self.answer}"
        )


def answer_of(expected: Expected, measured: Interval) -> str:
    """ "reproduced" where the whole interval lies in the expected range, "contradicted" where none of it does, and
    "not at this size" where it holds numbers of both kinds: then these runs do not decide."""
    if expected.low <= measured.low and measured.high <= expected.high:
        return REPRODUCED
    if measured.high < expected.low or expected.high < measured.low:
        return CONTRADICTED
    return UNDECIDED


def of_mean(values: ArrayLike) -> Interval:
    """The mean of independent numbers, one a seed, with its interval by Student's t; infinite for a single one."""
    numbers = np.asarray(values, float)
    mean = float(np.mean(numbers))
    if len(numbers) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = stats.t.ppf((1 + LEVEL) / 2, len(numbers) - 1) * np.std(numbers, ddof=1) / math.sqrt(len(numbers))
    return Interval(mean, mean - float(half), mean + float(half))


def of_share(count: int, of: int) -> Interval:
    """A share of runs, with Wilson's interval. Wilson 1927."""
    low, high = stats.binomtest(count, of).proportion_ci(LEVEL, method="wilson")
    return Interval(count / of, float(low), float(high))


def of_shares(first: tuple[int, int], second: tuple[int, int]) -> Interval:
    """The difference of two shares, (count, of) each, with the interval of their Wilson intervals.

    Newcombe 1998, method 10.
    """
    a, b = of_share(*first), of_share(*second)
    difference = a.value - b.value
    below = math.hypot(a.value - a.low, b.high - b.value)
    above = math.hypot(a.high - a.value, b.value - b.low)
    return Interval(difference, difference - below, difference + above)


def exactly(value: float) -> Interval:
    """A number that is computed rather than sampled: the interval is the number."""
    return Interval(value, value, value)
