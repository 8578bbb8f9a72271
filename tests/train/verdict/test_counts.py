"""Counts against enumeration, and how often their intervals hold what is true."""

import itertools

import pytest
from scipy import stats

from train.verdict.counts import Count, Shares


@pytest.mark.parametrize("count", [Count(5, 5, 0, 5), Count(1, 3, 2, 4), Count(0, 3, 0, 3), Count(9, 10, 4, 10)])
def test_one_cell_is_fishers_exact_test(count):
    table = [[count.first, count.of_first - count.first], [count.second, count.of_second - count.second]]
    tails = [stats.fisher_exact(table, alternative=side).pvalue for side in ("less", "greater")]
    assert Shares((count,)).p == pytest.approx(min(1, 2 * min(tails)))


def test_several_cells_are_the_conditional_test_by_enumeration():
    counts = (Count(3, 4, 1, 4), Count(2, 3, 0, 3), Count(1, 5, 0, 4))
    seen, chances = sum(c.first for c in counts), {}
    for firsts in itertools.product(*(range(c.of_first + 1) for c in counts)):
        chance = 1.0
        for a, c in zip(firsts, counts, strict=True):
            total = c.first + c.second
            chance *= float(stats.hypergeom.pmf(a, c.of_first + c.of_second, total, c.of_first))
        chances[firsts] = chance
    low = sum(chance for firsts, chance in chances.items() if sum(firsts) <= seen)
    high = sum(chance for firsts, chance in chances.items() if sum(firsts) >= seen)
    assert Shares(counts).p == pytest.approx(min(1, 2 * min(low, high)))


def test_p_and_interval_agree_everywhere():
    for a, b in itertools.product(range(6), repeat=2):
        for level in (0.05, 0.01):
            shares = Shares((Count(a, 5, b, 5),))
            low, high = shares.interval(level)
            assert (shares.p < level) >= (not low <= 0 <= high)
            assert low <= shares.value <= high


@pytest.mark.parametrize("chances", [(0.1, 0.1), (0.3, 0.1), (0.5, 0.5), (0.9, 0.3)])
@pytest.mark.parametrize("runs", [3, 5, 10])
def test_intervals_of_a_difference_hold_the_truth_in_94_of_100_or_more(chances, runs):
    held = 0.0
    for a, b in itertools.product(range(runs + 1), repeat=2):
        low, high = Shares((Count(a, runs, b, runs),)).interval()
        chance = stats.binom.pmf(a, runs, chances[0]) * stats.binom.pmf(b, runs, chances[1])
        held += float(chance) * (low <= chances[0] - chances[1] <= high)
    assert held >= 0.94
