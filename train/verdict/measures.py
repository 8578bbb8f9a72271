"""What is measured of an arm: one number for each seed of a cell, so that every measure has the same statistics.

A measure is what each seed says of a side if it is judged at some rates; who chooses them is decided elsewhere.
Whether a run works and how good what works is are two measures, and no mean is over dead runs. A new measure is a
function, and a line in FUNCTIONS and MEASURES.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from train.verdict.choice import Rates
from train.verdict.outcome import FAILED, WORKED
from train.verdict.question import MEASURES
from train.verdict.runs import Result, by, loss_of, windows_of


class Reading(NamedTuple):
    """What one seed says: the number, and its parts by window of the held-out text where it has them.

    bound: does the grid end there, so that the true number lies beyond? rung: to how much it is told, where it is a
    value of a grid.
    """

    value: float
    windows: np.ndarray | None = None
    bound: bool = False
    rung: float = 0.0


Readings = Mapping[int, Reading]


class Side(NamedTuple):
    """An arm in one cell: all its runs, those of its rival there, and which settings are tuned."""

    runs: Sequence[Result]
    rivals: Sequence[Result]
    tune: Sequence[str]

    def at(self, rates: Rates) -> dict[int, Result]:
        """The run of each seed there."""
        return {r["args"]["seed"]: r for r in self.runs if tuple(map(r["args"].get, self.tune)) == rates}


Read = Callable[[Side, Rates], Readings]  # a measure: what each seed says if it is judged at some rates


def loss(side: Side, rates: Rates) -> Readings:
    """Validation loss of what did not fail."""
    runs = side.at(rates).items()
    return {seed: Reading(loss_of(r), windows_of(r)) for seed, r in runs if r["outcome"] not in FAILED}


def failure(side: Side, rates: Rates) -> Readings:
    """1 where the run failed; a slow one says neither."""
    runs = side.at(rates).items()
    return {seed: Reading(float(r["outcome"] in FAILED)) for seed, r in runs if r["outcome"] != "slow"}


def largest_rate(side: Side, rates: Rates) -> Readings:
    """log2 of the largest rate that a seed works up to, from the best rate on; one rung below the grid if none."""
    rung, ranges = _rung(side.runs, "lr"), _ranges(side, rates)
    return {seed: Reading(range_.high, bound=range_.open_high, rung=rung) for seed, range_ in ranges.items()}


def usable_range(side: Side, rates: Rates) -> Readings:
    """Octaves from the smallest rate that is not slow to the largest that works, for each seed."""
    rung = _rung(side.runs, "lr") * math.sqrt(2)  # of both ends
    return {
        seed: Reading(range_.high - range_.low, bound=range_.open_low or range_.open_high, rung=rung)
        for seed, range_ in _ranges(side, rates).items()
    }


def _rung(runs: Sequence[Result], name: str) -> float:
    """The widest step of a grid, in octaves; one where there is none."""
    values = sorted({r["args"][name] for r in runs})
    return max((math.log2(second / first) for first, second in itertools.pairwise(values)), default=1.0)


class _Range(NamedTuple):
    """The usable rates of a seed, log2; an end on the edge of the grid is open. Nothing usable: high is below low."""

    low: float
    high: float
    open_low: bool
    open_high: bool


def _ranges(side: Side, rates: Rates) -> dict[int, _Range]:
    """Around the best rate, of each seed that ran there: one that a race sent elsewhere says nothing of it."""
    (best,) = rates
    grid = sorted({r["args"]["lr"] for r in side.runs})
    outcomes: dict[int, dict[float, str]] = {}
    for r in side.runs:
        outcomes.setdefault(r["args"]["seed"], {})[r["args"]["lr"]] = r["outcome"]
    return {seed: _range(told, grid, best) for seed, told in outcomes.items() if best in told}


def _range(outcomes: Mapping[float, str], grid: Sequence[float], best: float) -> _Range:
    """Around the best rate, or what works below it; where a seed did not run at the next rate the range is open."""
    told = [outcomes.get(rate, "") for rate in grid]
    begin = [i for i, rate in enumerate(grid) if rate <= best * 1.0001 and told[i] in WORKED]
    if not begin:
        rung = math.log2(grid[1] / grid[0]) if len(grid) > 1 else 1.0  # below the smallest
        return _Range(math.log2(grid[0]), math.log2(grid[0]) - rung, False, True)
    low = high = begin[-1]
    while high + 1 < len(grid) and told[high + 1] in WORKED:
        high += 1
    while low > 0 and told[low - 1] in WORKED:
        low -= 1
    ends = low == 0 or not told[low - 1], high == len(grid) - 1 or not told[high + 1]
    return _Range(math.log2(grid[low]), math.log2(grid[high]), *ends)


def sensitivity(side: Side, rates: Rates) -> Readings:
    """Mean loss over the rates at which no run of either arm fails, less that at the best one, for each seed.

    Wortsman et al. 2023, section 2.2.
    """
    mine, theirs = by(side.runs, "lr"), by(side.rivals, "lr")
    shared = [rate for rate in mine if rate in theirs and not _any_failed([*mine[rate], *theirs[rate]])]
    readings = {}
    for seed, run in side.at(rates).items():
        losses = [loss_of(r) for rate in shared for r in mine[rate] if r["args"]["seed"] == seed]
        if len(losses) == len(shared) > 1 and run["outcome"] not in FAILED:
            readings[seed] = Reading(float(np.mean(losses)) - loss_of(run))
    return readings


def _any_failed(runs: Sequence[Result]) -> bool:
    return any(r["outcome"] in FAILED for r in runs)


def depth_reach(side: Side, rates: Rates) -> Readings:
    """log2 of the largest depth up to which a seed works at one rate; half of the shallowest where it fails there."""
    depths = sorted({r["args"]["depth"] for r in side.runs})
    picked = [r for r in side.runs if (r["args"]["lr"],) == rates]
    readings = {}
    for seed in sorted({r["args"]["seed"] for r in picked}):
        outcomes = {r["args"]["depth"]: r["outcome"] for r in picked if r["args"]["seed"] == seed}
        failed = (i for i, depth in enumerate(depths) if outcomes.get(depth, FAILED[0]) in FAILED)
        reach = next(failed, len(depths))
        value = math.log2(depths[reach - 1]) if reach else math.log2(depths[0]) - 1
        readings[seed] = Reading(value, bound=reach in (0, len(depths)), rung=_rung(side.runs, "depth"))
    return readings


def growth(side: Side, rates: Rates) -> Readings:
    """The exponent of the residual stream's RMS over the blocks, at the end of training: RMS ~ block^exponent."""
    readings = {}
    for seed, run in side.at(rates).items():
        rms = np.array([math.nan if v is None else v for v in run["stats_final"].get("residual_rms", [])], float)
        if run["outcome"] not in FAILED and len(rms) > 2 and np.all(rms > 0):
            blocks = np.log(np.arange(1, len(rms) + 1))
            readings[seed] = Reading(float(np.polyfit(blocks, np.log(rms), 1)[0]))
    return readings


def seconds(side: Side, rates: Rates) -> Readings:
    """log2 of the seconds of a step. Seeds that train together are timed together, once: that is the first one's."""
    timings: dict[float, int] = {}
    for seed, run in side.at(rates).items():
        if run.get("seconds_a_step"):
            timings.setdefault(run["seconds_a_step"], seed)
    return {seed: Reading(math.log2(timing)) for timing, seed in timings.items()}


def cache_bytes(side: Side, rates: Rates) -> Readings:
    """log2 of the bytes that a token adds to the cache: the structure's, the same for every seed."""
    return {s: Reading(math.log2(r["cache_bytes"])) for s, r in side.at(rates).items() if r.get("cache_bytes")}


def choosers(measure: str, runs: Sequence[Result], tune: Sequence[str]) -> tuple[Sequence[Result], Sequence[str]]:
    """The runs that choose where a measure is read, and what they choose.

    What is told of a grid of learning rates is told of these alone; a reach over depths begins at the shallowest.
    """
    if measure == "depth reach":
        shallowest = min(r["args"]["depth"] for r in runs)
        return [r for r in runs if r["args"]["depth"] == shallowest], ("lr",)
    return runs, ("lr",) if MEASURES[measure].over == "lr" else tune


FUNCTIONS: dict[str, Read] = {
    "loss": loss,
    "failure": failure,
    "largest rate": largest_rate,
    "usable range": usable_range,
    "lr sensitivity": sensitivity,
    "depth reach": depth_reach,
    "growth": growth,
    "seconds": seconds,
    "bytes": cache_bytes,
}
