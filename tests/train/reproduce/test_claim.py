"""One rule answers every claim, and its intervals are those of their sources."""

import math

import numpy as np
import pytest

from train.reproduce.claim import Claim, Expected, Interval, answer_of, exactly, of_mean, of_share, of_shares


@pytest.mark.parametrize(
    ("expected", "measured", "answer"),
    [
        ((-0.6, -0.4), (-0.5, -0.55, -0.45), "reproduced"),
        ((-0.6, -0.4), (-0.5, -0.65, -0.35), "not at this size"),
        ((-0.6, -0.4), (-0.36, -0.39, -0.33), "contradicted"),
        ((0, math.inf), (0.1, 0.01, 0.2), "reproduced"),
        ((0, math.inf), (0.1, -0.01, 0.2), "not at this size"),
        ((0, math.inf), (-0.1, -0.2, -0.01), "contradicted"),
        ((0, math.inf), (0.5, -math.inf, math.inf), "not at this size"),  # a single seed decides nothing
        ((0, 0), (0, 0, 0), "reproduced"),
        ((0, 0), (1e-9, 1e-9, 1e-9), "contradicted"),
    ],
)
def test_the_answer_follows_from_the_range_and_the_interval(expected, measured, answer):
    low, high = expected
    claim = Claim("a law holds", "Somebody 2020", Expected("so much", low=low, high=high), Interval(*measured))
    assert claim.answer == answer_of(claim.expected, claim.measured) == answer
    assert claim.sentence.startswith("a law holds (Somebody 2020): expected so much, measured")
    assert claim.sentence.endswith(f": {answer}")


def test_a_mean_has_students_interval():
    """Ten numbers of mean 2 and standard deviation 0.5: t of 9 degrees of freedom at 0.975 is 2.2622."""
    values = 2 + 0.5 * np.array([-1, 1] * 5) * math.sqrt(9 / 10)
    half = 2.262157 * 0.5 / math.sqrt(10)
    assert of_mean(values) == pytest.approx((2, 2 - half, 2 + half), abs=1e-6)
    assert of_mean([3.0]) == (3, -math.inf, math.inf)
    assert exactly(3.0) == (3, 3, 3)


@pytest.mark.parametrize(
    ("first", "second", "interval"),
    [  # Newcombe 1998, table II, method 10
        ((56, 70), (48, 80), (0.2, 0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.6, 0.1705, 0.8090)),
        ((5, 56), (0, 29), (0.0893, -0.0381, 0.1926)),
        ((10, 10), (0, 10), (1.0, 0.6075, 1.0)),
    ],
)
def test_a_difference_of_shares_has_newcombes_interval(first, second, interval):
    assert of_shares(first, second) == pytest.approx(interval, abs=1e-4)


def test_a_share_has_wilsons_interval():
    """Newcombe 1998 (single proportions), table I, method 3: 81 of 263, and none of 20."""
    assert of_share(81, 263) == pytest.approx((0.3080, 0.2553, 0.3662), abs=1e-4)
    assert of_share(0, 20) == pytest.approx((0, 0, 0.1611), abs=1e-4)
