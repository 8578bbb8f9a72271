"""Where two arms meet: what was read of both in each cell, and why they may not be compared there.

A cell is one combination of all that is swept but neither compared, tuned nor the seed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from train.verdict.measures import FUNCTIONS, Choice, Readings, Side, at_best, is_usable
from train.verdict.question import SIZES, Arm, Question, place_of
from train.verdict.runs import Result, by

FEWEST_SEEDS = 3
BUDGETS = ("params", "tokens", "flops")
BUDGET_TOLERANCE = 0.05  # of each: a norm's bias is within it, a wider layer is not


UNREAD = {  # why too little is read of both arms
    "loss": "too few runs of both work",
    "growth": "too few runs of both work",
    "seconds": "the seeds of an arm were timed together, which is one timing and has no error",
}


class Cell(NamedTuple):
    """Where two arms meet: values of what is swept, what was read of both, and why they may not be compared."""

    place: tuple
    first: Readings
    second: Readings
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
        a, b = first[place], second[place]
        choices = _choices(question, tune, a, b)
        sides = _sides(tune, a, b, choices)
        reason = _reason(measure, question, tune, sides, choices)
        told_a, told_b = _read(measure, sides)
        if not reason and len(told_a) < 2:
            reason = UNREAD.get(measure, "nothing is measured of both")
        if not reason and tune and measure != "failure" and not all(choice.is_steady for choice in choices):
            told_a = _unsteady(measure, question, tune, sides, told_a, told_b)
        cells.append(Cell(place, told_a, told_b, reason, (_in_words(choices[0]), _in_words(choices[1]))))
    return cells


def _choices(question: Question, tune: Sequence[str], a: Sequence[Result], b: Sequence[Result]) -> list[Choice]:
    """Who chooses for each arm: its own runs, or those of both."""
    return [Choice([*a, *b], tune)] * 2 if question.at == "the same rate" else [Choice(a, tune), Choice(b, tune)]


def _sides(tune: Sequence[str], a: Sequence[Result], b: Sequence[Result], choices: Sequence[Choice]) -> list[Side]:
    first, second = (at_best(runs, tune, choice=choice) for runs, choice in zip((a, b), choices, strict=True))
    return [Side(a, b, first), Side(b, a, second)]


def _read(measure: str, sides: Sequence[Side]) -> tuple[Readings, Readings]:
    """What both arms say, of the seeds of which both say something."""
    first, second = (FUNCTIONS[measure](side) for side in sides)
    common = sorted(first.keys() & second.keys())
    return {seed: first[seed] for seed in common}, {seed: second[seed] for seed in common}


def _unsteady(
    measure: str,
    question: Question,
    tune: Sequence[str],
    sides: Sequence[Side],
    first: Readings,
    second: Readings,
) -> Readings:
    """The first arm's readings, moved so that differences spread as much as the whole procedure does, choice included.

    Where rates are close, each seed sways which one the others choose, and seeds are less independent than they look.
    Each difference becomes the mean plus n - 1 times what leaving the seed out takes from it, the choice made anew: the
    jackknife (Efron & Stein 1981). Where the choice is steady that is the difference itself.
    """
    bare = [[{**r, "windows": None} for r in side.runs] for side in sides]  # means are read, and windows cost most
    left = {}
    for seed in first:
        a, b = ([r for r in runs if r["args"]["seed"] != seed] for runs in bare)
        told = _read(measure, _sides(tune, a, b, _choices(question, tune, a, b)))
        left[seed] = float(np.mean([told[0][s].value - told[1][s].value for s in told[0]])) if told[0] else math.nan
    if not all(map(math.isfinite, left.values())):
        return first
    differences = {seed: reading.value - second[seed].value for seed, reading in first.items()}
    mean, middle = float(np.mean(list(differences.values()))), float(np.mean(list(left.values())))
    moved = {seed: mean + (len(left) - 1) * (middle - value) for seed, value in left.items()}
    return {seed: r._replace(value=moved[seed] + second[seed].value) for seed, r in first.items()}


def _in_words(choice: Choice) -> str:
    """What all seeds choose."""
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in choice.rates)


def _reason(
    measure: str, question: Question, tune: Sequence[str], sides: Sequence[Side], choices: Sequence[Choice]
) -> str:
    """Why two arms may not be compared in a cell; empty where they may."""
    grids = [{place_of(r["args"], tune) for r in side.runs} for side in sides]
    if grids[0] != grids[1]:
        return f"the arms were given different grids of {', '.join(tune)}"
    seeds = [{r["args"]["seed"] for r in side.runs} for side in sides]
    if len(seeds[0] & seeds[1]) < FEWEST_SEEDS:
        return f"{len(seeds[0] & seeds[1])} seeds ran, {FEWEST_SEEDS} are needed"
    if question.match is None and not set(question.compare) & set(SIZES):
        for budget in BUDGETS:
            first, second = (max(run[budget] for run in side.runs) for side in sides)  # a run that stopped took less
            if abs(first - second) > BUDGET_TOLERANCE * max(first, second):
                return f"the budgets differ: {first:g} and {second:g} {budget}"
    if measure not in ("loss", "growth") or question.at != "best rate":
        return ""
    if not any(is_usable(list(side.best.values())) for side in sides):
        return "no run of either works"
    if tune and len(grids[0]) < 2:
        return "only one rate was tried"
    for side, choice in zip(sides, choices, strict=True):
        if not is_usable(list(side.best.values())):
            continue  # no rate is best where none works: that it fails is another claim
        if 2 * sum(r["outcome"] == "slow" for r in side.best.values()) > len(side.best):
            return "the best runs of an arm are still slow: give them more steps"
        for axis, name in enumerate(tune):
            values = sorted({rates[axis] for rates in grids[0]})
            best = choice.rates[axis]
            if len(values) > 1 and name == "lr" and best in (values[0], values[-1]):
                return f"a best rate, {best:g}, lies on the edge of the grid"
    return ""
