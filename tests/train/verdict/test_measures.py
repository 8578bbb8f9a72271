"""Measures by hand: which rate is chosen, and what is read at it."""

import math

import pytest

from tests.train.verdict.simulated import RATES, run
from train.verdict.choice import Choice
from train.verdict.measures import FUNCTIONS, Side, choosers
from train.verdict.question import MEASURES

TUNE = ("lr",)


def readings(name, runs, rivals=None):
    """At the rate that all seeds choose."""
    best = Choice(*choosers(name, runs, TUNE)).rates
    return FUNCTIONS[name](Side(runs, runs if rivals is None else rivals, TUNE), best)


def read(name, runs, rivals=None):
    return {seed: reading.value for seed, reading in readings(name, runs, rivals).items()}


def grid(outcomes: dict[float, str], seed: int = 0, **args) -> list[dict]:
    """One run a rate; what works is best at 0.01."""
    losses = {"worked": 2.5, "slow": 3.6, "stuck": 3.3, "spiked": 2.6, "diverged": None}
    return [
        run(losses[o] and losses[o] + abs(math.log10(lr / 0.01)) / 10, o, lr=lr, seed=seed, **args)
        for lr, o in outcomes.items()
    ]


def test_every_measure_that_may_be_asked_for_is_read():
    assert FUNCTIONS.keys() == MEASURES.keys()


def test_where_nothing_works_the_smallest_rate_is_looked_at():
    """Which of several stuck runs has the least loss is luck, and that a run fails at the calmest rate says most."""
    runs = [run(loss, "stuck", lr=lr) for lr, loss in ((0.01, 3.4), (0.03, 3.3))]
    assert Choice(runs, TUNE).rates == (0.01,)
    assert read("loss", runs) == {}
    assert read("failure", runs) == {0: 1.0}


def test_a_seed_that_did_not_run_at_the_rate_is_left_out():
    runs = [run(2.4, lr=0.01, seed=s) for s in range(2)] + [run(2.9, lr=0.03, seed=s) for s in range(3)]
    assert read("loss", runs).keys() == {0, 1}


def test_a_seed_that_a_race_sent_elsewhere_says_nothing_of_the_range_around_the_best_rate():
    runs = [run(2.4, lr=lr, seed=s) for s in range(3) for lr in (0.01, 0.03)]
    runs += [run(2.9, lr=0.003, seed=s) for s in range(4)]
    assert read("largest rate", runs).keys() == read("usable range", runs).keys() == {0, 1, 2}


def test_slow_runs_say_nothing_of_failing_and_their_loss_counts():
    runs = [run(3.6, "slow", seed=0), run(2.5, seed=1)]
    assert read("failure", runs) == {1: 0.0}
    assert read("loss", runs) == {0: 3.6, 1: 2.5}


@pytest.mark.parametrize(
    ("outcomes", "largest", "octaves", "bound"),
    [
        (("slow", "worked", "worked", "worked", "stuck"), 0.03, math.log2(30 / 3), False),
        (("worked", "worked", "worked", "stuck", "worked"), 0.01, math.log2(10), True),
        (("slow", "worked", "worked", "spiked", "worked"), 0.1, math.log2(100 / 3), True),
        (("slow", "worked", "stuck", "stuck", "diverged"), 0.003, 0.0, False),
    ],
)
def test_the_usable_range_goes_from_what_is_not_slow_to_what_works(outcomes, largest, octaves, bound):
    runs = grid(dict(zip(RATES, outcomes, strict=True)))
    assert read("largest rate", runs)[0] == pytest.approx(math.log2(largest))
    assert read("usable range", runs)[0] == pytest.approx(octaves)
    assert readings("usable range", runs)[0].bound == bound


def test_where_no_rate_works_the_largest_is_one_rung_below_the_grid_and_a_bound():
    runs = grid(dict.fromkeys(RATES, "stuck"))
    reading = readings("largest rate", runs)[0]
    assert reading.value == pytest.approx(math.log2(0.001 / 3))
    assert reading.bound


def test_sensitivity_is_the_mean_over_rates_at_which_both_work_less_the_best():
    """Rates 0.003 and 0.01 and 0.1: of the others one arm fails somewhere. Dead runs are no forgiving ones."""
    mine = {0.001: 2.9, 0.003: 2.7, 0.01: 2.5, 0.03: 2.6, 0.1: 3.0}
    a = [run(loss + s / 100, lr=lr, seed=s) for lr, loss in mine.items() for s in range(2)]
    b = [run(2.6, "stuck" if (lr, s) in ((0.03, 1), (0.001, 0)) else "worked", lr=lr, seed=s) for lr in RATES
         for s in range(2)]  # fmt: skip
    assert read("lr sensitivity", a, b)[0] == pytest.approx((2.7 + 2.5 + 3.0) / 3 - 2.5)
    assert read("lr sensitivity", a, [run(3.3, "stuck", lr=lr, seed=s) for lr in RATES for s in range(2)]) == {}


def test_depth_reach_is_judged_at_the_best_rate_of_the_shallowest():
    works = {2: RATES, 4: RATES, 8: (0.001, 0.003), 16: (0.001,)}
    runs: list[dict] = []
    for depth, rates in works.items():
        runs += grid({lr: "worked" if lr in rates else "stuck" for lr in RATES}, depth=depth)
    assert read("depth reach", runs) == {0: 2.0}


def test_growth_is_the_exponent_of_the_stream_over_blocks():
    rms = [1.5 * block**0.7 for block in range(1, 9)]
    runs = [{**run(seed=s), "stats_final": {"residual_rms": rms}} for s in range(2)]
    assert read("growth", runs) == pytest.approx({0: 0.7, 1: 0.7})


def test_seconds_and_bytes_are_told_in_octaves():
    runs = [{**run(seed=s), "seconds_a_step": 0.25 * (1 + (s == 2)), "cache_bytes": 64} for s in range(3)]
    assert read("seconds", runs) == {0: -2.0, 2: -1.0}  # the first two trained together, and were timed once
    assert read("bytes", runs) == {0: 6.0, 1: 6.0, 2: 6.0}
    assert read("bytes", [run()]) == {}
