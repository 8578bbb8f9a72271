"""Contrasts against other paths to the same numbers, and how often their intervals hold what is true."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from train.verdict.estimate import Estimate, contrast, pooled


def test_one_cell_is_students_paired_t(rng=np.random.default_rng(0)):
    a, b = rng.normal(size=(2, 7))
    e = contrast((a - b)[None], [1.0])
    reference = stats.ttest_rel(a, b)
    assert e.value == pytest.approx(np.mean(a - b))
    assert e.dof == pytest.approx(6)
    assert e.p == pytest.approx(reference.pvalue, rel=1e-6)
    assert e.interval() == pytest.approx(tuple(reference.confidence_interval(0.95)))


def test_cells_with_seeds_of_their_own_add_their_variances(rng=np.random.default_rng(1)):
    d_CN = rng.normal(size=(4, 5)) * np.array([[1], [2], [3], [0.5]])
    seeds_CN = np.arange(20).reshape(4, 5)
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    e = contrast(d_CN, weights, seeds_CN=seeds_CN)
    parts = weights**2 * d_CN.var(axis=1, ddof=1) / 5
    assert e.error == pytest.approx(np.sqrt(parts.sum()))
    assert e.dof == pytest.approx(parts.sum() ** 2 / np.sum(parts**2 / 4))  # Welch and Satterthwaite
    assert e.fair == pytest.approx(parts.sum() ** 2 / np.sum(parts**2 / 6) - 2)  # Welch 1947


def test_the_fair_degrees_of_freedom_are_those_of_equal_cells_on_average(rng=np.random.default_rng(6)):
    """8 cells of 3 seeds have 16; Satterthwaite's are fewer."""
    drawn = [contrast(rng.normal(size=(8, 3)), pooled(8), seeds_CN=np.arange(24).reshape(8, 3)) for _ in range(300)]
    shares = np.mean([[16 / e.fair, 16 / e.dof] for e in drawn], axis=0)
    assert 0.9 < shares[0] < 1.25 < 1.5 < shares[1]
    (one,) = (contrast(rng.normal(size=(1, 5)), [1.0]),)
    assert one.fair == pytest.approx(one.dof) == pytest.approx(4)


def test_cells_that_share_their_seeds_are_the_t_of_the_seeds_means(rng=np.random.default_rng(2)):
    d_CN = rng.normal(size=(4, 6)) + rng.normal(size=6)
    e = contrast(d_CN, pooled(4))
    reference = stats.ttest_1samp(d_CN.mean(axis=0), 0)
    assert e.error == pytest.approx(d_CN.mean(axis=0).std(ddof=1) / np.sqrt(6))
    assert e.value / e.error == pytest.approx(reference.statistic)
    assert 4 < e.dof <= 5 + 1e-9


def test_a_missing_block_leaves_its_cell_a_mean_of_the_others():
    e = contrast(np.array([[1.0, 2.0, np.nan], [4.0, 5.0, 6.0]]), pooled(2), seeds_CN=np.arange(6).reshape(2, 3))
    assert e.value == pytest.approx((1.5 + 5) / 2)


def test_a_cell_with_one_difference_is_refused():
    with pytest.raises(ValueError, match="a cell needs 2 differences or more, one has 1"):
        contrast(np.array([[1.0, np.nan]]), [1.0])


def test_rounding_to_a_rung_is_an_error_though_all_seeds_agree():
    e = contrast(np.full((1, 4), 2.0), [1.0], resolution=0.5)
    assert e.error == pytest.approx(0.25)
    assert e.dof == pytest.approx(3)


def test_the_text_adds_the_variance_of_windows_that_all_seeds_share(rng=np.random.default_rng(3)):
    """Two-way analysis of variance by hand: seeds and windows crossed, one cell."""
    n, w = 5, 40
    d_NW = 0.3 * rng.normal(size=(n, 1)) + 0.5 * rng.normal(size=(1, w)) + 0.2 * rng.normal(size=(n, w))
    e = contrast(d_NW.mean(axis=1)[None], [1.0], windows_CNW=d_NW[None])
    residual = d_NW - d_NW.mean(axis=1, keepdims=True) - d_NW.mean(axis=0) + d_NW.mean()
    interaction = np.sum(residual**2) / ((n - 1) * (w - 1))
    expected = d_NW.mean(axis=0).var(ddof=1) / w - interaction / (n * w)
    assert e.text == pytest.approx(expected, rel=1e-6)
    assert e.error == pytest.approx(d_NW.mean(axis=1).std(ddof=1) / np.sqrt(n))


def test_errors_that_are_not_the_differences_by_hand():
    """One cell of 3 blocks: variance 7 of one error, covariance 2 of two. Var of the mean (7 + 2 x 2) / 3."""
    e = contrast(np.array([[1.0, 2.0, 6.0]]), [1.0], away_CN=np.array([[-2.0, -1.0, 3.0]]), mutual_C=[2.0])
    assert e.value == 3
    assert e.error == pytest.approx(math.sqrt((7 + 2 * 2) / 3))
    assert e.dof == pytest.approx(2)


def test_what_seeds_owe_each_other_counts_in_the_degrees_of_freedom(rng=np.random.default_rng(4)):
    """A cell whose seeds hang together makes most of the error, and has few blocks."""
    away_CN, seeds_CN = rng.normal(size=(3, 5)), np.arange(15).reshape(3, 5)
    bare, owing = (contrast(away_CN, pooled(3), seeds_CN=seeds_CN, mutual_C=c) for c in ([0, 0, 0], [9, 0, 0]))
    spread_C = away_CN.var(axis=1, ddof=1) + np.array([36, 0, 0])
    assert owing.error == pytest.approx(math.sqrt(spread_C.sum() / 5 / 9))
    assert owing.dof == pytest.approx(spread_C.sum() ** 2 / np.sum(spread_C**2 / 4))
    assert owing.dof < bare.dof


def test_cells_of_the_same_seeds_share_what_these_owe_each_other():
    """The same cell twice is that cell."""
    d_CN = np.array([[1.0, 2.0, 6.0]])
    once, twice = (contrast(np.tile(d_CN, (n, 1)), pooled(n), mutual_C=[2.0] * n) for n in (1, 2))
    assert twice.error == pytest.approx(once.error)


@pytest.mark.parametrize("level", [0.2, 0.05, 0.001])
def test_p_and_interval_agree(level):
    for value in np.linspace(-5, 5, 41):
        e = Estimate(float(value), 0.8, 4.3, 0.1)
        low, high = e.interval(level)
        assert (e.p < level) == (not low <= 0 <= high)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("spread", [[1], [1] * 4, [1] * 8, [4, 1, 1, 1] * 2], ids=str)
@pytest.mark.parametrize("text", [0.0, 0.02, 0.1, 0.4])
def test_intervals_hold_the_truth_in_94_to_96_of_100(seeds, spread, text):
    """Normal differences, cells with seeds of their own; text: its share of the variance. Half of an interval does not
    depend on the mean, so the chance to hold the truth is known for each that is drawn."""
    rng, cells = np.random.default_rng(0), len(spread)
    unit = np.sqrt((1 - text) * seeds * cells**2 / np.sum(np.square(spread)))  # the variance of the mean: 1 - text
    seeds_CN = np.arange(cells * seeds).reshape(cells, seeds)
    held = []
    for _ in range(1000):
        d_CN = unit * np.array(spread)[:, None] * rng.normal(size=(cells, seeds))
        low, high = contrast(d_CN, pooled(cells), seeds_CN=seeds_CN)._replace(text=text).interval()
        held.append(1 - 2 * ndtr((low - high) / 2))
    assert 0.94 <= np.mean(held) <= 0.9625


def test_text_makes_no_interval_shorter():
    halves = [np.diff(Estimate(0.0, 1.0, 2.0, text, 2.5).interval()) for text in np.linspace(0, 4, 50)]
    assert (np.diff(halves, axis=0) >= 0).all()


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("tails", [3, 100])
def test_intervals_hold_the_truth_in_95_of_100(seeds, shared, tails):
    """Cells of unequal spread, with seeds of their own or one set for all, normal or with heavy tails."""
    rng = np.random.default_rng(seeds)
    spread = np.array([1, 1, 1, 4.0])[:, None]
    held = []
    for _ in range(600):
        d_CN = spread * (rng.standard_t(tails, (4, seeds)) + shared * rng.standard_t(tails, seeds))
        seeds_CN = None if shared else np.arange(4 * seeds).reshape(4, seeds)
        low, high = contrast(d_CN, pooled(4), seeds_CN=seeds_CN).interval()
        held.append(low <= 0 <= high)
    assert stats.binomtest(sum(held), len(held), 0.95).pvalue > 0.001 or np.mean(held) > 0.95
