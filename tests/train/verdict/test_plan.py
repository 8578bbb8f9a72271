"""Seeds that are needed have the power they promise."""

import numpy as np
import pytest
from scipy import stats

from train.verdict.estimate import Estimate
from train.verdict.plan import POWER, power, seeds_needed


@pytest.mark.parametrize(("effect", "published"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_they_are_those_of_the_power_tables(effect, published):
    """Paired t, two-sided 5 %, power 0.8. Cohen 1988, table 2.4.1, as G*Power has it."""
    estimate = Estimate(0.0, 1 / np.sqrt(10), 9)
    assert seeds_needed(estimate, 10, effect).likely == published


def test_power_is_that_of_simulated_tests():
    rng = np.random.default_rng(0)
    x = rng.normal(1.2, 1, (4000, 8))
    found = stats.ttest_1samp(x, 0, axis=1).pvalue < 0.05
    assert power(1.2, 1 / np.sqrt(8), 7) == pytest.approx(np.mean(found), abs=0.02)


def test_the_range_is_that_of_the_spread_and_shrinks_as_it_is_known_better():
    vague, sure = (seeds_needed(Estimate(0.0, 1 / np.sqrt(n), n - 1), n, 0.7) for n in (4, 40))
    for needed in (vague, sure):
        assert needed.few <= needed.likely <= needed.many
    assert vague.many - vague.few > 3 * (sure.many - sure.few)


def test_no_number_of_seeds_outweighs_a_text_that_is_too_short():
    needed = seeds_needed(Estimate(0.0, 0.01, 4, text=0.02**2), 5, 0.02)
    assert needed.likely is None
    assert str(needed) == "1000 seeds or more"


def test_a_spread_of_nothing_needs_two_seeds():
    assert seeds_needed(Estimate(0.0, 0.0, 4), 5, 0.02).likely == 2
    assert POWER == 0.8
