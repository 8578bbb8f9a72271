"""Looking after each seed: evidence is 1 on average, intervals hold the truth at all times, and agree with p."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from train.verdict.counts import Count, Shares
from train.verdict.estimate import Estimate, contrast
from train.verdict.sequential import PRIOR, Anytime, Spent


def e_value(x) -> float:
    return Anytime(contrast(np.asarray(x, float)[None], [1.0])).e_value


def test_the_e_value_is_the_likelihood_ratio_of_t_averaged_over_the_prior():
    """By numerical integration over the effect size, of noncentral against central t. Lai 1976."""
    x = np.array([0.3, -0.1, 0.8, 0.5, 0.2])
    n, t = len(x), float(np.mean(x) / np.std(x, ddof=1) * math.sqrt(len(x)))

    def weighted(effect: float) -> float:
        return float(stats.nct.pdf(t, n - 1, effect * math.sqrt(n)) * stats.norm.pdf(effect, scale=math.sqrt(PRIOR)))

    average, _ = integrate.quad(weighted, -12, 12, limit=400)
    assert e_value(x) == pytest.approx(average / stats.t.pdf(t, n - 1), rel=1e-5)


def test_evidence_does_not_depend_on_the_unit():
    x = [0.1, 0.2, 0.15]
    assert e_value(x) == pytest.approx(e_value([1000 * each for each in x]))


@pytest.mark.parametrize("tails", [3, 100])
def test_races_between_equals_end_with_a_claim_in_5_of_100_at_most(tails):
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(1000):
        x = rng.standard_t(tails, 40)
        ended += any(e_value(x[:n]) >= 20 for n in range(2, 41))
    assert ended <= 50


@pytest.mark.parametrize("level", [0.05, 0.005])
def test_p_and_the_confidence_sequence_agree(level):
    for seeds in (3, 5, 20):
        for value in np.linspace(-12, 12, 49):
            for text in (0.0, 0.5):
                evidence = Anytime(Estimate(float(value), 1.0, seeds - 1, text))
                low, high = evidence.interval(level)
                assert (evidence.p < level) == (not low <= 0 <= high)


def test_a_confidence_sequence_is_wider_than_one_look_and_narrows():
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    widths = []
    for n in (6, 15, 60):
        estimate = contrast(x[None, :n], [1.0])
        low, high = Anytime(estimate).interval()
        assert high - low > estimate.interval()[1] - estimate.interval()[0]
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_the_text_is_missed_once_or_never_however_often_one_looks():
    """Every seed is judged on the same windows, which favour one arm by chance: no number of seeds tells."""
    rng, missed = np.random.default_rng(2), 0
    for _ in range(400):
        x = rng.normal(0.5 * rng.normal(), 1, 60)
        looks = [Estimate(x[:n].mean(), x[:n].std(ddof=1) / math.sqrt(n), n - 1, text=0.5**2) for n in range(3, 61, 3)]
        missed += any(not low <= 0 <= high for low, high in (Anytime(each).interval() for each in looks))
    assert missed / 400 <= 0.05


def test_looks_at_shares_spend_the_level_and_no_more():
    shares = Shares((Count(5, 5, 0, 5),))
    assert sum(1 / ((k + 1) * (k + 2)) for k in range(100_000)) < 1
    assert Spent(shares, 1).p == pytest.approx(6 * shares.p)
    assert Spent(shares, 3).interval(0.05) == shares.interval(0.05 / 20)
