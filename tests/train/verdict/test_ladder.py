"""The law of a ladder and the gain that follows from it, against laws that are known."""

import numpy as np
import pytest

from benchmarks.ladder import SHAPES, coverage
from train.verdict.ladder import LEAST_FIT, fit, gain

FLOPS = 1e12 * 4.0 ** np.arange(5)


def losses(factor=1.0, *, exponent=0.3, noise=1e-4, seed=0, floor=1.5):
    """[5 sizes, 4 seeds] of floor + 1.2 (factor C / 1e12)^-exponent."""
    law_R = floor + 1.2 * (factor * FLOPS / 1e12) ** -exponent
    return law_R[:, None] + noise * np.random.default_rng(seed).normal(size=(5, 4))


def test_a_law_is_found_again():
    law = fit(FLOPS, losses())
    assert law.floor.low < 1.5 < law.floor.high and law.floor.high - law.floor.low < 0.05
    assert law.exponent.low <= 0.3 <= law.exponent.high and law.exponent.high / law.exponent.low < 1.2
    at_one_R = law.floor.value + law.amplitude * FLOPS**-law.exponent.value
    assert at_one_R == pytest.approx(losses().mean(axis=1), abs=1e-3)
    assert law.p > LEAST_FIT


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.13, 3.0])
def test_a_gain_is_how_much_more_compute_the_other_arm_needs(factor):
    found = gain((FLOPS, losses()), (FLOPS, losses(factor, seed=1)))
    assert found.factor.low < factor < found.factor.high
    assert found.factor.high / found.factor.low < 1.01 and found.p > LEAST_FIT


def test_a_gain_of_sizes_that_are_not_matched_is_by_compute_and_not_by_rung():
    """The same law at one and a half times the compute is the same arm."""
    law_R = 1.5 + 1.2 * (1.5 * FLOPS / 1e12) ** -0.3
    second = law_R[:, None] + 1e-4 * np.random.default_rng(1).normal(size=(5, 4))
    assert gain((FLOPS, losses()), (1.5 * FLOPS, second)).factor.value == pytest.approx(1.0, abs=0.01)


def test_the_other_way_round_is_the_inverse():
    a, b = (FLOPS, losses(noise=3e-3)), (FLOPS, losses(1.3, noise=3e-3, seed=1))
    there, back = gain(a, b).factor, gain(b, a).factor
    assert there.value == pytest.approx(1 / back.value, rel=1e-3)
    assert (there.low, there.high) == pytest.approx((1 / back.high, 1 / back.low), rel=1e-2)


def test_arms_with_exponents_of_their_own_lie_on_no_common_law():
    assert gain((FLOPS, losses(noise=1e-3)), (FLOPS, losses(exponent=0.4, noise=1e-3, seed=1))).p < LEAST_FIT


def test_losses_that_do_not_fall_bound_no_gain():
    flat, other = (2.0 + 0.02 * np.random.default_rng(seed).normal(size=(5, 4)) for seed in (0, 1))
    found = gain((FLOPS, flat), (FLOPS, other))
    assert found.factor.low == 0 and found.factor.high == np.inf


def test_several_gains_at_once_have_wider_intervals():
    a, b = (FLOPS, losses(noise=3e-3)), (FLOPS, losses(1.3, noise=3e-3, seed=1))
    one, of_ten = gain(a, b).factor, gain(a, b, level=0.005).factor
    assert of_ten.low < one.low < one.value < one.high < of_ten.high


@pytest.mark.parametrize(
    ("rungs", "seeds", "sentence"),
    [(3, 4, "a law has 3 numbers, and there are 3 sizes; use 4 or more"),
     (5, 1, "the noise between seeds needs 2 of them or more, there is 1")],
)  # fmt: skip
def test_too_few_sizes_or_seeds_are_a_sentence(rungs, seeds, sentence):
    few = losses()[:rungs, :seeds]
    with pytest.raises(ValueError, match=sentence):
        fit(FLOPS[:rungs], few)
    with pytest.raises(ValueError, match=sentence):
        gain((FLOPS[:rungs], few), (FLOPS[:rungs], few))


def test_intervals_hold_the_truth_as_often_as_they_say():
    """80 laws with chosen rates, of the shape with least data; python -m benchmarks.ladder tries 1,000 of each."""
    row = coverage(next(iter(SHAPES)), 80)
    assert row.held >= 0.88 and row.withheld <= 0.05 and row.unbounded <= 0.05
