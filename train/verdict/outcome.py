"""How a run ended: a name and the step at which it happened, by one table of rules.

diverged  a loss is no number; or the run ends above the loss at initialisation
spiked    it works, after a rise of more than 5 robust standard deviations over the trend before it
worked    it knows more than how frequent bytes are: its held-out loss lies below theirs
slow      it is above that, never left its course and is still on its way down: undertrained, which says nothing of
          stability
stuck     none of these: flat, at what the frequency of bytes gives, or thrown back to it

The first rule that holds decides. All of them compare a loss with what a model would lose *on the same text* that knows
nothing but how frequent bytes are, the unigram loss: most of the noise of a batch, or of a window, is that some text is
harder, and is the same in both. Thresholds are in units of what noise is left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import median_abs_deviation

FAILED = ("diverged", "stuck")
OUTCOMES = ("diverged", "stuck", "spiked", "slow", "worked")  # slow is neither: it says nothing about stability
WORKED = ("worked", "spiked")  # outcomes of runs that learned from context
SURE = 5.0  # standard errors by which the held-out loss lies below the unigram loss, or above the one at initialisation
SPIKE = 5.0  # robust standard deviations of the loss about its trend
TREND = 15  # steps that a running median is taken over
SUSTAINED = 2  # steps that a spike lasts at least: one bad batch is none
FALL = 0.2  # of the spread of batches: by so much the last quarter of a run lies below any before where it still falls


class Outcome(NamedTuple):
    """name: one of OUTCOMES. step: the update, counted from 1, at which the run left or reached its course."""

    name: str
    step: int


@dataclass(frozen=True)
class Course:
    """A run as the rules see it: losses in nats per token.

    losses_S: of the training batches. unigram_S: of the same batches, by the frequency of bytes. windows_W, unigram_W:
    of held-out windows after training. initial_V: of a few held-out windows before it.
    """

    losses_S: np.ndarray
    unigram_S: np.ndarray
    windows_W: np.ndarray
    unigram_W: np.ndarray
    initial_V: np.ndarray

    @cached_property
    def excess_S(self) -> np.ndarray:
        """What each batch was lost above its unigram loss."""
        return self.losses_S - self.unigram_S

    @cached_property
    def trend_S(self) -> np.ndarray:
        """The median excess of the steps before each, at most TREND of them; of the first step its own."""
        before = [self.excess_S[max(0, step - TREND) : max(1, step)] for step in range(len(self.excess_S))]
        return np.array([np.median(each) for each in before])

    @property
    def spread(self) -> float:
        """How much harder one batch is than another; where one number stands for all of them, from the losses."""
        known = float(median_abs_deviation(self.unigram_S, scale="normal"))
        return known or float(median_abs_deviation(self.losses_S - self.trend_S, scale="normal"))

    @property
    def works(self) -> bool:
        """Is the held-out loss below the unigram loss, window by window?"""
        return _standardised(self.unigram_W - self.windows_W) > SURE

    @cached_property
    def spike(self) -> int | None:
        """The first step of a rise over the trend that is too large and too long for noise."""
        if len(self.excess_S) <= 2 * SUSTAINED:
            return None
        rise_S = self.excess_S - self.trend_S
        calm = median_abs_deviation(rise_S[len(rise_S) // 2 :], scale="normal")
        high_S = rise_S > SPIKE * max(calm, 1e-6)
        runs = np.lib.stride_tricks.sliding_window_view(high_S, SUSTAINED).all(axis=1)
        return int(np.argmax(runs)) + 1 if runs.any() else None


def classify(
    losses: ArrayLike,
    *,
    windows: ArrayLike,
    unigram: ArrayLike,
    unigram_windows: ArrayLike,
    initial: ArrayLike,
) -> Outcome:
    """The outcome of a run, in nats per token.

    losses: of each training batch. unigram: of each of these batches, or one number for all. windows, unigram_windows:
    of held-out windows after training. initial: of held-out windows at initialisation, as many as there are.
    """
    losses_S, windows_W = np.atleast_1d(np.asarray(losses, float)), np.atleast_1d(np.asarray(windows, float))
    course = Course(
        losses_S=losses_S,
        unigram_S=np.broadcast_to(np.asarray(unigram, float), losses_S.shape),
        windows_W=windows_W,
        unigram_W=np.broadcast_to(np.asarray(unigram_windows, float), windows_W.shape),
        initial_V=np.atleast_1d(np.asarray(initial, float)),
    )
    for name, rule in RULES:
        step = rule(course)
        if step is not None:
            return Outcome(name, step)
    raise AssertionError("the last rule holds for every run")


def no_number(course: Course) -> int | None:
    """The first step whose loss is no number, the last one where only the held-out loss is none."""
    broken = np.flatnonzero(~np.isfinite(course.losses_S))
    if broken.size:
        return int(broken[0]) + 1
    return None if np.isfinite(course.windows_W).all() else len(course.losses_S)


def above_the_start(course: Course) -> int | None:
    """The step after which the loss stays above the one at initialisation, where it does for the last tenth."""
    losses_S, start = course.losses_S, float(np.mean(course.initial_V))
    tail = losses_S[-max(1, len(losses_S) // 10) :]
    error = np.hypot(_error(course.windows_W), _error(course.initial_V))
    if not (np.median(tail) > start and np.mean(course.windows_W) - start > SURE * error):
        return None
    below = np.flatnonzero(losses_S <= start)
    return min(int(below[-1]) + 2, len(losses_S)) if below.size else 1


def spiked(course: Course) -> int | None:
    """The step at which a spike began from which the run recovered."""
    return course.spike if course.works else None


def worked(course: Course) -> int | None:
    """The first step whose trend is below the unigram loss; the last one where only the held-out loss is."""
    below = course.trend_S < 0
    return (int(np.argmax(below)) + 1 if below.any() else len(below)) if course.works else None


def slow(course: Course) -> int | None:
    """The last step, where the run never left its course, was never as low before, and has still to go.

    One that was thrown back and falls again is none, nor one that ends where the frequency of bytes does.
    """
    count = len(course.excess_S) // 4
    if count == 0 or course.spike is not None:
        return None
    enough = FALL * course.spread
    quarters_S = np.lib.stride_tricks.sliding_window_view(course.excess_S, count).mean(axis=1)
    falls = quarters_S[: len(quarters_S) - count].min() - quarters_S[-1] > enough
    above = np.mean(course.windows_W - course.unigram_W) > enough
    return len(course.losses_S) if falls and above else None


def stuck(course: Course) -> int:
    """The step at which the trend was lowest."""
    return int(np.argmin(course.trend_S)) + 1


RULES: tuple[tuple[str, Callable[[Course], int | None]], ...] = (
    ("diverged", no_number),
    ("diverged", above_the_start),
    ("spiked", spiked),
    ("worked", worked),
    ("slow", slow),
    ("stuck", stuck),
)


def _standardised(differences: np.ndarray) -> float:
    """The mean in standard errors; of one difference, or of equal ones, it is infinite or 0."""
    mean, error = float(np.mean(differences)), _error(differences)
    return mean / error if error > 0 else float(np.sign(mean)) * np.inf if mean else 0.0


def _error(values: np.ndarray) -> float:
    """The standard error of the mean; 0 for one value."""
    return float(np.std(values, ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else 0.0
