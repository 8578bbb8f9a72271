"""Outcomes of simulated runs whose fate is known, and how rarely noise alone is taken for an event."""

import numpy as np
import pytest

from train.verdict.outcome import classify

LOG_V, UNIGRAM = 5.545, 3.33
STEPS = np.arange(200)


def descent(floor: float, rate: float = 25.0) -> np.ndarray:
    """A noiseless run from log V to `floor`, exponential in the step."""
    return floor + (LOG_V - floor) * np.exp(-STEPS / rate)


def noise(seed: int, scale: float = 0.05) -> np.ndarray:
    """Mini-batch noise with heavy tails: Student's t of 5 degrees of freedom."""
    return scale * np.random.default_rng(seed).standard_t(5, STEPS.size)


def ended(losses: np.ndarray) -> tuple[str, int]:
    return tuple(classify(losses, initial_loss=LOG_V, unigram_entropy=UNIGRAM))


def test_a_run_below_the_unigram_entropy_worked_when_it_got_there():
    """2.4 + 3.145 exp(-t / 25) crosses 3.23 at t = 33.3, so the 35th update is the first below."""
    name, step = ended(descent(2.4) + noise(0, 0.01))
    assert name == "worked"
    assert abs(step - 35) <= 3


@pytest.mark.parametrize("floor", [UNIGRAM, UNIGRAM - 0.05, UNIGRAM + 0.6])
def test_a_run_not_below_the_unigram_entropy_by_the_margin_is_stuck(floor):
    assert ended(descent(floor) + noise(1, 0.02))[0] == "stuck"


def test_the_margin_decides_between_stuck_and_worked():
    losses = descent(UNIGRAM - 0.2, rate=15) + noise(2, 0.02)
    for margin, name in ((0.1, "worked"), (0.3, "stuck")):
        assert classify(losses, initial_loss=LOG_V, unigram_entropy=UNIGRAM, margin=margin).name == name


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_number_that_is_none_is_where_a_run_diverged(bad):
    losses = descent(2.4)
    losses[120:] = bad
    assert ended(losses) == ("diverged", 121)


def test_one_number_that_is_none_is_divergence_even_when_later_ones_are_fine():
    losses = descent(2.4)
    losses[60] = np.nan
    assert ended(losses) == ("diverged", 61)


def test_a_run_that_stays_above_its_initial_loss_diverged_when_it_rose():
    losses = descent(2.4)
    losses[130:] = 9.0
    assert ended(losses + noise(3)) == ("diverged", 131)


def test_a_run_that_never_was_below_its_initial_loss_diverged_at_once():
    assert ended(np.full(50, LOG_V + 1.0)) == ("diverged", 1)


def test_a_run_that_comes_back_below_its_initial_loss_did_not_diverge():
    losses = descent(2.4)
    losses[130:175] = 9.0
    assert ended(losses + noise(4, 0.02))[0] == "spiked"


@pytest.mark.parametrize("at", [40, 100, 160])
def test_a_rise_that_recovers_is_a_spike_where_it_began(at):
    losses = descent(2.4) + noise(5, 0.03)
    losses[at:] += 1.5 * np.exp(-np.arange(STEPS.size - at) / 8)
    assert ended(losses) == ("spiked", at + 1)


def test_one_bad_batch_is_no_spike():
    losses = descent(2.4) + noise(6, 0.03)
    losses[100] += 3.0
    assert ended(losses)[0] == "worked"


def test_heavy_tailed_noise_is_taken_for_a_spike_in_less_than_one_run_of_a_hundred():
    names = [ended(descent(2.4, rate) + noise(seed, 0.1))[0] for seed in range(400) for rate in (10.0, 40.0)]
    assert names.count("spiked") <= 8
    assert names.count("spiked") + names.count("worked") == 800


def test_what_a_run_ended_as_says_more_than_what_it_went_through():
    """A spike and then the unigram entropy is stuck; a spike and then nan is diverged."""
    losses = descent(UNIGRAM) + noise(7, 0.02)
    losses[80:120] += 2.0
    assert ended(losses)[0] == "stuck"
    losses[190:] = np.nan
    assert ended(losses) == ("diverged", 191)


@pytest.mark.parametrize("count", [1, 2, 9, 29])
def test_short_runs_have_an_outcome(count):
    assert ended(np.full(count, 2.0)) == ("worked", 1)
    assert ended(np.full(count, 3.4))[0] == "stuck"
    assert ended(np.full(count, 6.0)) == ("diverged", 1)
