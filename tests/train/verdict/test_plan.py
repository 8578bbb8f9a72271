"""Seeds that are needed have the power they promise."""

import numpy as np
import pytest
from scipy import stats

from train.verdict.estimate import Estimate, contrast, pooled
from train.verdict.plan import POWER, TEXT_SHARE, plan, power, seeds_needed
from train.verdict.sequential import Anytime, critical


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


def planned_by(e: Estimate, seeds: int) -> int:
    """Seeds for an effect of 1 by the plan, where text costs nothing."""
    return plan(e, seeds, 1.0, windows=64, available=64).seeds


def as_seen(e: Estimate, seeds: int) -> int:
    """Seeds as if the spread of the pilot were the true one."""
    return seeds_needed(e, seeds, 1.0).likely


def share_found(seeds, cells, choose, pilots=400):
    """How often other seeds, as many as a pilot says, find an effect of 1; the spread is 2.5 effects."""
    rng, found = np.random.default_rng(seeds), 0
    for _ in range(pilots):
        pilot = contrast(
            rng.normal(1, 2.5, (cells, seeds)), pooled(cells), seeds_CN=np.arange(cells * seeds).reshape(cells, -1)
        )
        d_N = rng.normal(1, 2.5, (choose(pilot, seeds) or 1000, cells)).ravel()
        found += stats.ttest_1samp(d_N, 0).pvalue < 0.05
    return found / pilots


@pytest.mark.parametrize(("seeds", "cells"), [(3, 4), (5, 1), (10, 1)])
def test_what_a_pilot_plans_finds_the_effect_as_often_as_it_says(seeds, cells):
    assert share_found(seeds, cells, planned_by) == pytest.approx(POWER, abs=0.05)


def test_a_spread_that_few_seeds_show_is_not_planned_by_as_if_it_were_known():
    assert share_found(5, 1, as_seen) < POWER - 0.05


def test_windows_are_as_many_as_leave_a_tenth_of_the_variance_to_the_text():
    e = Estimate(0.0, 0.01, 8, text=0.01**2)
    seeds, _, windows = plan(e, 5, 0.02, windows=64, available=10_000)
    own, text = e.error**2 * 5 / seeds, e.text * 64 / windows
    assert text / (own + text) == pytest.approx(TEXT_SHARE, rel=0.01)
    short = plan(e, 5, 0.02, windows=64, available=160)
    assert short.windows == 160 and short.seeds > seeds
    assert plan(e, 5, 0.02, windows=64, available=100).seeds is None
    assert plan(e._replace(text=1e-9), 5, 0.02, windows=64, available=10_000).windows == 64


def test_who_looks_again_is_told_the_seeds_that_it_takes_so(rng=np.random.default_rng(0)):
    known = Estimate(0.0, 1 / np.sqrt(1000), 999)
    n = seeds_needed(known, 1000, 0.8, 0.005, critical=critical).likely
    assert n > 1.5 * seeds_needed(known, 1000, 0.8, 0.005).likely
    found = 0
    for _ in range(600):
        low, high = Anytime(contrast(rng.normal(0.8, 1, (1, n)), [1.0])).interval(0.005)
        found += not low <= 0 <= high
    assert found / 600 == pytest.approx(POWER, abs=0.05)
