"""How a run ended, from its losses: a name and the step at which it happened.

diverged   the loss is not a number, or stays above the loss at initialisation for the last tenth of the run
stuck      finite, but not below the unigram entropy by a margin: it learned byte frequencies and nothing from context
spiked     a rise of more than 5 robust standard deviations over the trend before it, recovered
worked  none of these

The first that applies in this order is the outcome: what a run failed at says more than what it went through.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import median_filter
from scipy.stats import median_abs_deviation

FAILED = ("diverged", "stuck")
OUTCOMES = ("diverged", "stuck", "spiked", "slow", "worked")
WORKED = ("worked", "spiked")  # outcomes of runs that learned from context
SPIKE = 5.0  # robust standard deviations
TREND = 15  # steps that a running median is taken over
SUSTAINED = 3  # steps that a spike lasts at least: one bad batch is none


class Outcome(NamedTuple):
    """name: one of the above. step: the update, counted from 1, at which the run left or reached its course."""

    name: str
    step: int


def classify(losses: np.ndarray, *, initial_loss: float, unigram_entropy: float, margin: float = 0.1) -> Outcome:
    """The outcome of a run from its training losses, one a step, in nats per token.

    initial_loss and unigram_entropy are of the training text too: a held-out text may be harder by more than a margin.
    """
    losses = np.asarray(losses, float)
    broken = np.flatnonzero(~np.isfinite(losses))
    if broken.size:
        return Outcome("diverged", int(broken[0]) + 1)
    tail = losses[-max(1, len(losses) // 10) :]
    if tail.min() > initial_loss:
        return Outcome("diverged", _last_at_or_below(losses, initial_loss))
    trend = median_filter(losses, size=min(TREND, len(losses)), mode="nearest")
    target = unigram_entropy - margin
    if np.median(tail) > target:
        return Outcome("stuck", int(np.argmin(trend)) + 1)
    spike = _spike(losses)
    if spike is not None:
        return Outcome("spiked", spike)
    return Outcome("worked", int(np.argmax(trend <= target)) + 1)


def _last_at_or_below(losses: np.ndarray, level: float) -> int:
    """The first step after which the loss stays above `level`."""
    below = np.flatnonzero(losses <= level)
    return int(below[-1]) + 2 if below.size else 1


def _spike(losses: np.ndarray) -> int | None:
    """The first step of a rise over the median of the steps before it that is too large and too long for noise."""
    if len(losses) < 2 * TREND:
        return None
    before = np.lib.stride_tricks.sliding_window_view(losses, TREND)[:-1]
    rise = losses[TREND:] - np.median(before, axis=1)
    scale = median_abs_deviation(rise, scale="normal")
    high = rise > SPIKE * max(scale, 1e-6)
    runs = np.lib.stride_tricks.sliding_window_view(high, SUSTAINED).all(axis=1)
    return int(np.argmax(runs)) + TREND + 1 if runs.any() else None
