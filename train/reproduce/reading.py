"""How results become numbers: chosen, paired by seed, reduced; and what an experiment found, as data."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from train.reproduce.claim import LEVEL, Claim, Interval, of_mean
from train.verdict import choice
from train.verdict.cells import Cell, estimate_of, of_one, of_two
from train.verdict.choice import Choice, Rates
from train.verdict.estimate import contrast
from train.verdict.measures import Read, Reading, Readings, Side
from train.verdict.outcome import WORKED
from train.verdict.runs import Result, by, loss_of, windows_of
from train.verdict.stats import loglog_slope

Results = Sequence[Result]
TUNE = ("lr",)


class Curve(NamedTuple):
    """A line of an experiment's figure."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an experiment found: claims, a figure (its axes' titles and curves, logarithmic both or neither), and what
    else a reader should know, in sentences."""

    claims: Sequence[Claim]
    axes: tuple[str, str]
    curves: Sequence[Curve]
    logarithmic: bool = True
    note: str = ""


def where(results: Results, **settings: Any) -> list[Result]:
    """The results with these settings."""
    return [r for r in results if all(r["args"].get(name) == value for name, value in settings.items())]


def best_rate(results: Results) -> float:
    """The rate that all seeds together choose."""
    return choice.chosen(results, TUNE)[0]


def at_best(results: Results) -> list[Result]:
    """The run of each seed at the rate that is best for the other seeds: no run is judged by what it was chosen for."""
    return list(choice.at_best(results, TUNE).values())


def loss(side: Side, rates: Rates) -> Readings:
    """The loss of each run, failed ones too: at most that at initialisation."""
    return {seed: Reading(loss_of(run), windows_of(run)) for seed, run in side.at(rates).items()}


def each(measure: Callable[[Result], float | None]) -> Read:
    """What each run says as a measure of an arm; None is no number."""
    return lambda side, rates: {
        seed: Reading(math.nan if (value := measure(run)) is None else value) for seed, run in side.at(rates).items()
    }


def difference_at_best(a: Results, b: Results, read: Read = loss) -> Interval:
    """Of a less b, each seed at rates that the others choose, and as sure as that makes it; for another text too."""
    return _interval(of_two(read, [Side(runs, (), TUNE) for runs in (a, b)], [Choice(runs, TUNE) for runs in (a, b)]))


def mean_at_best(results: Results, read: Read) -> Interval:
    """The same of one arm."""
    return _interval(of_one(read, Side(results, (), TUNE), Choice(results, TUNE)))


def _interval(cell: Cell) -> Interval:
    """Not a number where one of the seeds says none: a mean of the others would hide it."""
    differences = [cell.first[seed].value - cell.second[seed].value for seed in cell.first]
    if len(differences) < 2 or not all(map(math.isfinite, differences)):
        return of_mean(differences)
    estimate = estimate_of([cell], [1.0])
    return Interval(estimate.value, *estimate.interval(1 - LEVEL))


def pairs(a: Results, b: Results) -> list[tuple[Result, Result]]:
    """Runs of one seed side by side."""
    first, second = ({r["args"]["seed"]: r for r in side} for side in (a, b))
    return [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]


def difference(a: Results, b: Results, measure: Callable[[Result], float]) -> Interval:
    """Mean of `measure` of a less that of b, over pairs of one seed."""
    return of_mean([measure(first) - measure(second) for first, second in pairs(a, b)])


def loss_difference(a: Results, b: Results) -> Interval:
    """Mean loss of a less that of b over pairs of one seed, in nats. The interval is for other seeds, and for another
    held-out text where the losses of its windows are known."""
    paired = pairs(a, b)
    differences = [loss_of(first) - loss_of(second) for first, second in paired]
    if len(paired) < 2:
        return of_mean(differences)
    windows = [(windows_of(first), windows_of(second)) for first, second in paired]
    known = [first - second for first, second in windows if first is not None and second is not None]
    windows_1NW = np.array(known)[None] if len(known) == len(paired) else None
    estimate = contrast(np.array([differences]), [1.0], windows_CNW=windows_1NW)
    return Interval(estimate.value, *estimate.interval(1 - LEVEL))


def each_seed(results: Results, measure: Callable[[Results], float]) -> list[float]:
    """`measure` of the results of each seed."""
    return [measure(group) for _, group in sorted(by(results, "seed").items())]


def worked(results: Results) -> tuple[int, int]:
    """(runs that worked, runs)."""
    return sum(r["outcome"] in WORKED for r in results), len(results)


def mean_curve(name: str, results: Results, setting: str, measure: Callable[[Result], float]) -> Curve:
    """Mean of `measure` against the values of a setting."""
    groups = sorted(by(results, setting).items())
    return Curve(name, [x for (x,), _ in groups], [float(np.mean([measure(r) for r in runs])) for _, runs in groups])


def exponents(results: Results, setting: str, measure: Callable[[Result], float]) -> np.ndarray:
    """The exponent with which `measure` grows with a setting, fitted for each seed."""

    def of_seed(runs: Results) -> float:
        return loglog_slope([r["args"][setting] for r in runs], [measure(r) for r in runs]).slope

    return np.array(each_seed(results, of_seed))


def sensitivity(results: Results) -> float:
    """Mean loss over the rates, less the best one. Wortsman et al. 2023, section 2.2: failed runs count, capped."""
    losses = [np.mean([loss_of(r) for r in group]) for group in by(results, "lr").values()]
    return float(np.mean(losses) - np.min(losses))


def sensitivities(results: Results) -> np.ndarray:
    """The LR sensitivity of each seed."""
    return np.array(each_seed(results, sensitivity))


def last(name: str) -> Callable[[Result], float]:
    """The statistic of this name after training, of the layer where it is largest; not a number where there is none."""
    return lambda result: max((math.nan if x is None else x for x in result["stats_final"][name]), default=math.nan)
