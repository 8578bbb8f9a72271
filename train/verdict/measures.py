"""What is measured of an arm: one number for each seed of a cell, so that every measure has the same statistics.

A rate is chosen for a seed by the other seeds and judged by this one: the best of several noisy numbers looks better
than it is, so no run is judged where it chose. What is chosen is the rate of the least mean loss of the runs that are
alive, among those at which at least half of the seeds are; whether a run works and how good what works is are two
measures, and no mean is over dead runs. A new measure is a function of a side, and a line in FUNCTIONS and MEASURES.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from train.verdict.outcome import FAILED, WORKED
from train.verdict.runs import Result, by, loss_of, windows_of

Rates = tuple  # values of the tuned settings


class Reading(NamedTuple):
    """What one seed says: the number, and its parts by window of the held-out text where it has them.

    bound: does the grid end there, so that the true number lies beyond? rung: to how much it is told, where it is a
    value of a grid.
    """

    value: float
    windows: np.ndarray | None = None
    bound: bool = False
    rung: float = 0.0


class Side(NamedTuple):
    """An arm in one cell: all its runs, those of its rival there, and the run of each seed at the chosen rates."""

    runs: Sequence[Result]
    rivals: Sequence[Result]
    best: Mapping[int, Result]


Readings = Mapping[int, Reading]


class Choice:
    """The values of the tuned settings that are best, by all seeds but some: a table, made once and asked often.

    R: rates in order of appearance. S: seeds. L: sets of seeds that are left out.
    """

    def __init__(self, runs: Sequence[Result], tune: Sequence[str]) -> None:
        self.groups = by(runs, *tune)
        self.seeds = sorted({r["args"]["seed"] for r in runs})
        row, column = ({name: i for i, name in enumerate(names)} for names in (self.groups, self.seeds))
        place = [row[rates] * len(column) + column[r["args"]["seed"]] for rates in row for r in self.groups[rates]]
        told = [(0.0, 0.0) if r["outcome"] in FAILED else (1.0, loss_of(r)) for g in self.groups.values() for r in g]
        alive, loss = zip(*told, strict=True)
        sums = [np.bincount(place, weights, len(row) * len(column)) for weights in (None, alive, loss)]
        self.count_alive_loss_RS = np.array(sums).reshape(3, len(row), len(column))

    @cached_property
    def rates(self) -> Rates:
        """What all seeds choose."""
        return self.without([()])[0]

    @cached_property
    def is_steady(self) -> bool:
        """Are the same rates chosen whichever two seeds are left out?"""
        return len(set(self.without(list(itertools.combinations(self.seeds, 2))))) <= 1

    def without(self, left_out: Sequence[Collection[int]]) -> list[Rates]:
        """What is chosen without each of some sets of its seeds; who leaves all out leaves none out."""
        kept_LS = np.ones((len(left_out), len(self.seeds)))
        for kept_S, seeds in zip(kept_LS, left_out, strict=True):
            kept_S[[self.seeds.index(seed) for seed in seeds]] = 0
        kept_LS[~kept_LS.any(axis=1)] = 1
        # einsum sums every row alike, so that rates that are equal to the bit stay equal; BLAS need not.
        count_LR, alive_LR, loss_LR = np.einsum("ls,krs->klr", kept_LS, self.count_alive_loss_RS)
        usable_LR = (count_LR > 0) & (2 * alive_LR >= count_LR)
        best_L = np.argmin(np.where(usable_LR, loss_LR / np.maximum(alive_LR, 1), np.inf), axis=1)
        rates, found = list(self.groups), usable_LR.any(axis=1)
        return [
            rates[best] if any_found else _least_bad(self.groups, itertools.compress(self.seeds, kept_S))
            for best, any_found, kept_S in zip(best_L, found, kept_LS, strict=True)
        ]


def chosen(runs: Sequence[Result], tune: Sequence[str]) -> Rates:
    """The values of the tuned settings that are best by all seeds."""
    return Choice(runs, tune).rates


def _least_bad(groups: Mapping[Rates, Sequence[Result]], seeds: Iterable[int]) -> Rates:
    """Where no rate is usable: the one with most runs alive, of those the one of their least mean loss; where nothing
    lives the smallest, with which training is calmest."""
    kept = set(seeds)
    own = {rates: [r for r in group if r["args"]["seed"] in kept] for rates, group in groups.items()}
    losses = {rates: [loss_of(r) for r in alive(group)] for rates, group in own.items() if group}
    return min(losses, key=lambda rates: (-len(losses[rates]), np.mean(losses[rates] or [0.0]), rates))


def alive(runs: Sequence[Result]) -> list[Result]:
    """Those that neither stuck nor diverged: slow ones too, whose loss is a loss."""
    return [r for r in runs if r["outcome"] not in FAILED]


def is_usable(runs: Sequence[Result]) -> bool:
    """Is at least half of them alive?"""
    return 2 * len(alive(runs)) >= len(runs) > 0


def at_best(runs: Sequence[Result], tune: Sequence[str], *, choice: Choice | None = None) -> dict[int, Result]:
    """The run of each seed at the rates that the other seeds choose; a seed that has none there is left out.

    choice: of the runs that choose, where they are not these alone: those of both arms choose one rate for both.
    """
    choice = Choice(runs, tune) if choice is None else choice
    places = {(r["args"]["seed"], *map(r["args"].get, tune)): r for r in runs}
    seeds = sorted({r["args"]["seed"] for r in runs})
    picked = {seed: places.get((seed, *rates)) for seed, rates in
              zip(seeds, choice.without([(seed,) for seed in seeds]), strict=True)}  # fmt: skip
    return {seed: run for seed, run in picked.items() if run is not None}


def loss(side: Side) -> Readings:
    """Validation loss of what works."""
    return {seed: Reading(loss_of(r), windows_of(r)) for seed, r in side.best.items() if r["outcome"] not in FAILED}


def failure(side: Side) -> Readings:
    """1 where the run failed; a slow one says neither."""
    return {seed: Reading(float(r["outcome"] in FAILED)) for seed, r in side.best.items() if r["outcome"] != "slow"}


def largest_rate(side: Side) -> Readings:
    """log2 of the largest rate that a seed works up to, from the best rate on; one rung below the grid if none."""
    rung = _rung(side.runs, "lr")
    return {s: Reading(range_.high, bound=range_.open_high, rung=rung) for s, range_ in _ranges(side.runs).items()}


def usable_range(side: Side) -> Readings:
    """Octaves from the smallest rate that is not slow to the largest that works, for each seed."""
    rung = _rung(side.runs, "lr") * math.sqrt(2)  # of both ends
    return {
        seed: Reading(range_.high - range_.low, bound=range_.open_low or range_.open_high, rung=rung)
        for seed, range_ in _ranges(side.runs).items()
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


def _ranges(runs: Sequence[Result]) -> dict[int, _Range]:
    grid, best = sorted({r["args"]["lr"] for r in runs}), chosen(runs, ("lr",))[0]
    outcomes: dict[int, dict[float, str]] = {}
    for r in runs:
        outcomes.setdefault(r["args"]["seed"], {})[r["args"]["lr"]] = r["outcome"]
    return {seed: _range(told, grid, best) for seed, told in outcomes.items()}


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


def sensitivity(side: Side) -> Readings:
    """Mean loss over the rates at which every run of both arms works, less that at the best one, for each seed.

    Wortsman et al. 2023, section 2.2.
    """
    mine, theirs = by(side.runs, "lr"), by(side.rivals, "lr")
    shared = [rate for rate in mine if rate in theirs and not _any_failed([*mine[rate], *theirs[rate]])]
    readings = {}
    for seed, run in side.best.items():
        losses = [loss_of(r) for rate in shared for r in mine[rate] if r["args"]["seed"] == seed]
        if len(losses) == len(shared) > 1 and run["outcome"] not in FAILED:
            readings[seed] = Reading(float(np.mean(losses)) - loss_of(run))
    return readings


def _any_failed(runs: Sequence[Result]) -> bool:
    return any(r["outcome"] in FAILED for r in runs)


def depth_reach(side: Side) -> Readings:
    """log2 of the largest depth up to which a seed works at the rate that is best for the shallowest.

    Half of the shallowest where it fails there; one rate for all depths, chosen by all seeds.
    """
    depths = sorted({r["args"]["depth"] for r in side.runs})
    rate = chosen([r for r in side.runs if r["args"]["depth"] == depths[0]], ("lr",))[0]
    picked = [r for r in side.runs if r["args"]["lr"] == rate]
    readings = {}
    for seed in sorted({r["args"]["seed"] for r in picked}):
        outcomes = {r["args"]["depth"]: r["outcome"] for r in picked if r["args"]["seed"] == seed}
        failed = (i for i, depth in enumerate(depths) if outcomes.get(depth, FAILED[0]) in FAILED)
        reach = next(failed, len(depths))
        value = math.log2(depths[reach - 1]) if reach else math.log2(depths[0]) - 1
        readings[seed] = Reading(value, bound=reach in (0, len(depths)), rung=_rung(side.runs, "depth"))
    return readings


def growth(side: Side) -> Readings:
    """The exponent of the residual stream's RMS over the blocks, at the end of training: RMS ~ block^exponent."""
    readings = {}
    for seed, run in side.best.items():
        rms = np.array([math.nan if v is None else v for v in run["stats_final"].get("residual_rms", [])], float)
        if run["outcome"] not in FAILED and len(rms) > 2 and np.all(rms > 0):
            blocks = np.log(np.arange(1, len(rms) + 1))
            readings[seed] = Reading(float(np.polyfit(blocks, np.log(rms), 1)[0]))
    return readings


def seconds(side: Side) -> Readings:
    """log2 of the seconds of a step. Seeds that train together are timed together, once: that is the first one's."""
    timings: dict[float, int] = {}
    for seed, run in side.best.items():
        if run.get("seconds_a_step"):
            timings.setdefault(run["seconds_a_step"], seed)
    return {seed: Reading(math.log2(timing)) for timing, seed in timings.items()}


def cache_bytes(side: Side) -> Readings:
    """log2 of the bytes that a token adds to the cache: the structure's, the same for every seed."""
    return {s: Reading(math.log2(r["cache_bytes"])) for s, r in side.best.items() if r.get("cache_bytes")}


FUNCTIONS: dict[str, Callable[[Side], Readings]] = {
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
