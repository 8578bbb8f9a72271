"""Where the best learning rate goes as a model grows: its place on the grid of rates at each size, with an interval.

The place is counted in steps of the grid from its smallest rate. It is the lowest point of the parabola through the
lowest mean loss over seeds and its two neighbours, so within half a step of a rate that was tried. Its interval is the
union of those around every rate that is not worse than the best one by Student's paired t over seeds: there, too, by
Student's t over what each seed moves the parabola's point by, to first order. Where the edge of the grid is among these
rates, nothing bounds the place beyond it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from train.verdict.runs import Result, by, loss_of

SIZES = ("width", "depth")
LEVEL = 0.95  # of every interval
REACH = 1.5  # steps around a rate: a parabola through three of them says nothing beyond
STAYS, MOVES, OPEN = "stays within one step", "moves by more than one step", "not decided"


class Place(NamedTuple):
    """Where something is, in steps of a grid of rates, and its interval; an end is infinite where nothing bounds it."""

    steps: float
    low: float
    high: float


class Best(NamedTuple):
    """The best rate of the models of one size: itself, and its place."""

    size: int
    rate: float
    place: Place


class Transfer(NamedTuple):
    """Best rates of one arm by size. arm: its settings. shift: from the smallest size to the largest one, in steps."""

    arm: Mapping[str, Any]
    across: str
    best: tuple[Best, ...]
    shift: Place

    @property
    def answer(self) -> str:
        """STAYS or MOVES where the whole interval of the shift says so."""
        if self.shift.low >= -1 and self.shift.high <= 1:
            return STAYS
        return MOVES if self.shift.high < -1 or self.shift.low > 1 else OPEN


def transfers(results: Sequence[Result], across: str) -> list[Transfer]:
    """The best rates of every arm across sizes; an arm is what the other settings that vary say.

    Raises ValueError where an arm has one size only, or a size has no evenly spaced rates, each with the same seeds.
    """
    varied = [
        name for name in results[0]["args"]
        if name not in (across, "lr", "seed") and len({repr(r["args"].get(name)) for r in results}) > 1
    ]  # fmt: skip
    told = []
    for values, runs in by(results, *varied).items():
        sizes = sorted(by(runs, across).items())
        if len(sizes) < 2:
            raise ValueError(f"{across}={sizes[0][0][0]} is the only one of an arm; give two or more")
        ratio = math.log(step_of(runs))
        best = tuple(best_of(size, group, ratio) for (size,), group in sizes)
        arm = dict(zip(varied, values, strict=True))
        told.append(Transfer(arm, across, best, _difference(best[-1].place, best[0].place)))
    return told


def step_of(results: Sequence[Result]) -> float:
    """The factor between neighbouring rates. ValueError where it is not one, or where there are fewer than 3 rates."""
    rates = sorted({r["args"]["lr"] for r in results})
    if len(rates) < 3 or rates[0] <= 0:
        raise ValueError(f"the grid has {len(rates)} rates; give 3 or more above 0, each the same times the one before")
    factors = np.divide(rates[1:], rates[:-1])
    if factors.max() > 1.01 * factors.min():
        raise ValueError(
            f"rates are {factors.min():.3g} to {factors.max():.3g} times the ones before; give an evenly spaced grid"
        )
    return float((rates[-1] / rates[0]) ** (1 / (len(rates) - 1)))


def best_of(size: int, results: Sequence[Result], ratio: float) -> Best:
    """The best rate of the runs of one size. ratio: logarithm of a step of the grid."""
    rates = sorted(by(results, "lr").items())
    seeds = sorted({r["args"]["seed"] for r in results})
    table = [[loss_of(r) for r in sorted(runs, key=lambda r: r["args"]["seed"])] for _, runs in rates]
    if any(len(row) != len(seeds) for row in table):
        raise ValueError(f"the {len(rates)} rates of one size have unequal seeds; give each rate the same ones")
    place = place_of(np.array(table))
    return Best(size, rates[0][0][0] * math.exp(place.steps * ratio), place)


def place_of(loss_RS: np.ndarray) -> Place:
    """The place of the least mean loss among R rates, of S seeds each."""
    best = int(np.argmin(loss_RS.mean(axis=1)))
    spans = [_around(loss_RS, rate) for rate in range(len(loss_RS)) if not _worse(loss_RS[rate], loss_RS[best])]
    return Place(_around(loss_RS, best).steps, min(span.low for span in spans), max(span.high for span in spans))


def _worse(loss_S: np.ndarray, best_S: np.ndarray) -> bool:
    """Is it, by a one-sided paired t test? Of one seed nobody knows."""
    difference_S, count = loss_S - best_S, len(loss_S)
    if count < 2:
        return False
    error = np.std(difference_S, ddof=1) / math.sqrt(count)
    return bool(np.mean(difference_S) > scipy_stats.t.ppf(LEVEL, count - 1) * error)


def _around(loss_RS: np.ndarray, at: int) -> Place:
    """The lowest point of the parabola through a rate and its neighbours, and its interval."""
    last, count = len(loss_RS) - 1, loss_RS.shape[1]
    if at in (0, last):
        return Place(at, -math.inf if at == 0 else at - 1, math.inf if at == last else at + 1)
    below_S, lowest_S, above_S = loss_RS[at - 1 : at + 2]
    slope_S, bend_S = (above_S - below_S) / 2, above_S - 2 * lowest_S + below_S
    slope, bend = slope_S.mean(), bend_S.mean()
    if bend <= 0:
        return Place(at, at - 1, at + 1)
    steps = float(at - slope / bend)
    pulls_S = -(slope_S - slope) / bend + (bend_S - bend) * slope / bend**2  # times the derivatives of -slope / bend
    if count < 2:
        return Place(steps, at - REACH, at + REACH)
    half = float(scipy_stats.t.ppf((1 + LEVEL) / 2, count - 1) * np.std(pulls_S, ddof=1) / math.sqrt(count))
    return Place(steps, max(steps - half, at - REACH), min(steps + half, at + REACH))


def _difference(a: Place, b: Place) -> Place:
    """a - b, each interval independent of the other. Zou & Donner 2008."""
    steps = a.steps - b.steps
    below, above = math.hypot(a.steps - a.low, b.high - b.steps), math.hypot(a.high - a.steps, b.steps - b.low)
    return Place(steps, steps - below, steps + above)
