"""Where the best rate is, and whether it moves: on planted curves whose best rates are known."""

import math

import numpy as np
import pytest

from train.verdict.transfer import MOVES, OPEN, STAYS, place_of, step_of, transfers

RATES = [1e-3 * 2**step for step in range(7)]


def curve(best, random, seeds=3, noise=0.0, steps=7):
    """Losses [rates, seeds] of a parabola in steps of the grid; seeds differ by a level and by noise."""
    x_R1 = np.arange(steps)[:, None]
    return (x_R1 - best) ** 2 + random.normal(size=seeds) + noise * random.normal(size=(steps, seeds))


def records(best_by_width, noise=0.01, seeds=3, **args):
    random = np.random.default_rng(0)
    return [
        {"args": {**args, "width": width, "lr": lr, "seed": seed}, "val_loss": loss, "initial_loss": None}
        for width, best in best_by_width.items()
        for lr, row in zip(RATES, curve(best, random, seeds, noise), strict=True)
        for seed, loss in enumerate(row.tolist())
    ]


@pytest.mark.parametrize(("noise", "seeds"), [(0.1, 3), (1.0, 3), (0.1, 5), (0.6, 5), (2.0, 5)])
def test_intervals_hold_the_planted_place_as_often_as_they_say(noise, seeds):
    """Also where noise is as large as the curve's bend, so that the lowest mean is often at another rate."""
    random, tries, held = np.random.default_rng(1), 400, 0
    for best in random.uniform(1.5, 4.5, tries):
        place = place_of(curve(best, random, seeds, noise))
        held += place.low <= best <= place.high
    assert held / tries > 0.92  # 95 % within three standard errors


def test_a_place_is_exact_without_noise_and_a_seed_s_level_does_not_matter():
    place = place_of(curve(2.3, np.random.default_rng(0)))
    assert (place.steps, place.low, place.high) == pytest.approx((2.3, 2.3, 2.3))


@pytest.mark.parametrize(("best", "low", "high"), [(-1.0, -math.inf, 1.0), (7.0, 5.0, math.inf)])
def test_the_edge_of_the_grid_only_bounds(best, low, high):
    assert place_of(curve(best, np.random.default_rng(0)))[1:] == (low, high)


def test_one_seed_says_no_interval():
    place = place_of(curve(3.2, np.random.default_rng(0), seeds=1))
    assert (place.low, place.high) == (-math.inf, math.inf)


def test_what_moves_stays_or_is_open_is_told_for_each_arm():
    falls = records({32: 4.1, 64: 3.2, 128: 2.0, 256: 1.2}, parametrization="standard")
    holds = records({32: 3.0, 64: 3.1, 128: 2.8, 256: 3.2}, parametrization="mup")
    noisy = records({32: 3.0, 256: 3.0}, noise=5.0, parametrization="lost")
    told = {each.arm["parametrization"]: each for each in transfers([*falls, *holds, *noisy], "width")}
    assert {name: each.answer for name, each in told.items()} == {"standard": MOVES, "mup": STAYS, "lost": OPEN}
    standard = told["standard"]
    assert standard.shift.steps == pytest.approx(-2.9, abs=0.05)
    assert [each.size for each in standard.best] == [32, 64, 128, 256]
    assert standard.best[0].rate == pytest.approx(1e-3 * 2**4.1, rel=0.02)


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        (records({32: 3.0}), "width=32 is the only one of an arm; give two or more"),
        ([r for r in records({32: 3.0, 64: 3.0}) if r["args"]["lr"] < 3e-3], "the grid has 2 rates; give 3 or more"),
        ([r for r in records({32: 3.0, 64: 3.0}) if r["args"]["lr"] != RATES[2]], "rates are 2 to 4 times the ones be"),
        (records({32: 3.0, 64: 3.0})[1:], "the 7 rates of one size have unequal seeds; give each rate the same ones"),
    ],
)
def test_a_grid_that_cannot_say_is_refused(runs, sentence):
    with pytest.raises(ValueError, match=sentence):
        transfers(runs, "width")


def test_a_step_is_the_factor_between_rates():
    assert step_of(records({32: 3.0})) == pytest.approx(2.0)
