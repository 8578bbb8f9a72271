"""Where two arms meet: what was read of both in each cell, and why they may not be compared there.

A cell is one combination of all that is swept but neither compared, tuned nor the seed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from train.verdict.choice import Choice, at_best, is_usable
from train.verdict.estimate import Estimate, contrast
from train.verdict.measures import FUNCTIONS, Read, Reading, Readings, Side, choosers
from train.verdict.number import number_of
from train.verdict.question import SIZES, Arm, Question, place_of
from train.verdict.runs import Result, by
from train.verdict.said import Said
from train.verdict.spread import Spread, spread

FEWEST_SEEDS = 3
BUDGETS = ("params", "tokens", "flops")
BUDGET_TOLERANCE = 0.05  # of each: a norm's bias is within it, a wider layer is not

ROUNDED = 1e-5  # nats: a record has six digits

UNREAD = {  # why too little is read of both arms
    "loss": "too few runs of both did not fail",
    "growth": "too few runs of both did not fail",
    "seconds": "the seeds of an arm were timed together, which is one timing and has no error",
}


class Cell(NamedTuple):
    """Where two arms meet: values of what is swept, what was read of both, how its seeds spread, and why they may not
    be compared. Readings of both are of the same seeds, in the order of the spread."""

    place: tuple
    first: Readings
    second: Readings
    spread: Spread
    reason: str
    rates: tuple[str, str]


def runs_of(
    arms: Sequence[Arm], results: Sequence[Result], compare: Sequence[str], places: Sequence[str]
) -> dict[str, dict[tuple, list[Result]]]:
    """The runs of each arm, by its name, at each of its places."""
    called = {tuple(value for _, value in arm.settings): arm.name for arm in arms}
    runs: dict[str, dict[tuple, list[Result]]] = {arm.name: {} for arm in arms}
    for place, group in by(results, *compare, *places).items():
        runs[called[place[: len(compare)]]][place[len(compare) :]] = group
    return runs


def meet(
    measure: str,
    question: Question,
    tune: Sequence[str],
    first: Mapping[tuple, list[Result]],
    second: Mapping[tuple, list[Result]],
) -> list[Cell]:
    """The cells that both arms have runs in."""
    cells = []
    for place in first:
        if place not in second:
            continue
        pair = first[place], second[place]
        choices = _choices(question, tune, *pair)
        reason = _reason(measure, question, tune, pair, choices)
        (choosing, chosen), (others, _) = (choosers(measure, runs, tune) for runs in pair)
        sides = Side(pair[0], pair[1], chosen), Side(pair[1], pair[0], chosen)
        compared = counted if measure == "failure" else of_two
        cell = compared(FUNCTIONS[measure], sides, _choices(question, chosen, choosing, others))
        if not reason and len(cell.first) < 2:
            reason = UNREAD.get(measure, "nothing is measured of both")
        cells.append(cell._replace(place=place, reason=reason, rates=(_in_words(choices[0]), _in_words(choices[1]))))
    return cells


def of_two(read: Read, sides: Sequence[Side], choices: Sequence[Choice]) -> Cell:
    """What two arms say in a cell, of the seeds of which both say something."""
    first, second = (Said(read, side, choice) for side, choice in zip(sides, choices, strict=True))
    seeds = _seeds(*(side.runs for side in sides))
    a, b = _of_both(first.readings(seeds), second.readings(seeds))
    return Cell((), a, b, spread(first.without(list(a)) - second.without(list(a))), "", ("", ""))


def counted(read: Read, sides: Sequence[Side], choices: Sequence[Choice]) -> Cell:
    """The same of what is counted and not averaged: each seed at the one rate that all others choose."""
    seeds = _seeds(*(side.runs for side in sides))
    a, b = _of_both(*(Said(read, *each).whole(seeds) for each in zip(sides, choices, strict=True)))
    return Cell((), a, b, Spread(np.zeros(len(a)), 0.0), "", ("", ""))


def _of_both(first: Readings, second: Readings) -> tuple[Readings, Readings]:
    both = sorted(first.keys() & second.keys())
    return {seed: first[seed] for seed in both}, {seed: second[seed] for seed in both}


def of_one(read: Read, side: Side, choice: Choice) -> Cell:
    """What one arm says in a cell, as its difference from nothing."""
    said = Said(read, side, choice)
    readings = said.readings(_seeds(side.runs))
    nothing = {seed: _nothing(reading) for seed, reading in readings.items()}
    return Cell((), readings, nothing, spread(said.without(list(readings))), "", ("", ""))


def alone(measure: str, runs: Sequence[Result], rivals: Sequence[Result], tune: Sequence[str]) -> Cell:
    """The same, by the measure's name, at rates that its own runs choose."""
    choosing, chosen = choosers(measure, runs, tune)
    return of_one(FUNCTIONS[measure], Side(runs, rivals, chosen), Choice(choosing, chosen))


def _nothing(reading: Reading) -> Reading:
    return Reading(0.0, None if reading.windows is None else np.zeros_like(reading.windows))


def _choices(question: Question, tune: Sequence[str], a: Sequence[Result], b: Sequence[Result]) -> list[Choice]:
    """Who chooses for each arm: its own runs, or those of both."""
    return [Choice([*a, *b], tune)] * 2 if question.at == "the same rate" else [Choice(a, tune), Choice(b, tune)]


def _seeds(*arms: Sequence[Result]) -> list[int]:
    """Those that ran in each of some arms."""
    return sorted(set.intersection(*({r["args"]["seed"] for r in runs} for runs in arms)))


def estimate_of(cells: Sequence[Cell], weights: Sequence[float]) -> Estimate:
    """A contrast of what was read in these cells."""
    most = max(len(cell.first) for cell in cells)
    d_CN, away_CN = np.full((2, len(cells), most), np.nan)
    seeds_CN = np.full((len(cells), most), -1)
    windows: list[np.ndarray] = []
    for row, cell in enumerate(cells):
        away_CN[row, : len(cell.first)] = cell.spread.away_S
        for column, seed in enumerate(cell.first):
            a, b = cell.first[seed], cell.second[seed]
            d_CN[row, column], seeds_CN[row, column] = a.value - b.value, seed
            if a.windows is not None and b.windows is not None:
                windows.append(a.windows - b.windows)
    windows_CNW = None
    if len(windows) == np.isfinite(d_CN).sum() and len({w.size for w in windows}) == 1:
        windows_CNW = np.zeros((*d_CN.shape, windows[0].size))
        windows_CNW[np.isfinite(d_CN)] = windows
    return contrast(
        d_CN,
        weights,
        seeds_CN=seeds_CN,
        windows_CNW=windows_CNW,
        away_CN=away_CN,
        mutual_C=[cell.spread.mutual for cell in cells],
        resolution=max(ROUNDED, *(_rounding(cell) for cell in cells)),
    )


def _rounding(cell: Cell) -> float:
    """The standard deviation of what rounding to a rung of the grid does to a difference."""
    rungs = (max((reading.rung for reading in side.values()), default=0.0) for side in (cell.first, cell.second))
    return math.hypot(*rungs) / math.sqrt(12)


def _in_words(choice: Choice) -> str:
    """What all seeds choose."""
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in choice.rates)


def _reason(
    measure: str, question: Question, tune: Sequence[str], pair: Sequence[Sequence[Result]], choices: Sequence[Choice]
) -> str:
    """Why two arms may not be compared in a cell; empty where they may."""
    grids = [{place_of(r["args"], tune) for r in runs} for runs in pair]
    if grids[0] != grids[1]:
        return f"the arms were given different grids of {', '.join(tune)}"
    both = _seeds(*pair)
    if len(both) < FEWEST_SEEDS:
        return f"{number_of(len(both), 'seed')} ran, {FEWEST_SEEDS} are needed"
    if question.match is None and not set(question.compare) & set(SIZES) and (apart := budgets_apart(pair)):
        return apart
    if measure not in ("loss", "growth") or question.at != "best rate":
        return ""
    judged = [list(at_best(runs, tune, choice=c).values()) for runs, c in zip(pair, choices, strict=True)]
    if not any(map(is_usable, judged)):
        return "most runs of both arms fail"
    if tune and len(grids[0]) < 2:
        return "only one rate was tried"
    for runs, choice in zip(judged, choices, strict=True):
        if not is_usable(runs):
            continue  # no rate is best where none works: that it fails is another claim
        if 2 * sum(r["outcome"] == "slow" for r in runs) > len(runs):
            return "the best runs of an arm are still slow: give them more steps"
        for axis, name in enumerate(tune):
            values = sorted({rates[axis] for rates in grids[0]})
            best = choice.rates[axis]
            if len(values) > 1 and name == "lr" and best in (values[0], values[-1]):
                return f"a best rate, {best:g}, lies on the edge of the grid"
    return ""


def budgets_apart(pair: Sequence[Sequence[Result]]) -> str:
    """That two arms had unequal budgets, where they had."""
    for budget in BUDGETS:
        first, second = (max(run[budget] for run in runs) for runs in pair)  # a run that stopped took less
        if abs(first - second) > BUDGET_TOLERANCE * max(first, second):
            return f"the budgets differ: {first:g} and {second:g} {budget}"
    return ""
