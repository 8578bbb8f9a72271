"""Where two arms meet: what was read of both in each cell, and why they may not be compared there.

A cell is one combination of all that is swept but neither compared, tuned nor the seed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from train.verdict.measures import FUNCTIONS, Readings, Side, at_best, chosen, is_steady, is_usable
from train.verdict.question import SIZES, Arm, Question, place_of
from train.verdict.runs import Result

FEWEST_SEEDS = 3
BUDGETS = ("params", "tokens", "flops")
BUDGET_TOLERANCE = 0.05  # of each: a norm's bias is within it, a wider layer is not


class Cell(NamedTuple):
    """Where two arms meet: values of what is swept, what was read of both, and why they may not be compared."""

    place: tuple
    first: Readings
    second: Readings
    reason: str
    rates: tuple[str, str]


def runs_of(arm: Arm, results: Sequence[Result], places: Sequence[str]) -> dict[tuple, list[Result]]:
    runs: dict[tuple, list[Result]] = {}
    for r in results:
        if arm.has(r["args"]):
            runs.setdefault(place_of(r["args"], places), []).append(r)
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
        sides = _sides(question, tune, a, b)
        reason = _reason(measure, question, tune, sides)
        told_a, told_b = _read(measure, sides)
        if not reason and len(told_a) < 2:
            reason = "too few runs of both work" if measure in ("loss", "growth") else "nothing is measured of both"
        if not reason and tune and measure != "failure":
            told_a = _unsteady(measure, question, tune, a, b, told_a, told_b)
        cells.append(Cell(place, told_a, told_b, reason, (_rates_of(a, tune), _rates_of(b, tune))))
    return cells


def _sides(question: Question, tune: Sequence[str], a: Sequence[Result], b: Sequence[Result]) -> list[Side]:
    judges = [*a, *b] if question.at == "the same rate" else None
    return [Side(runs, rivals, at_best(runs, tune, judges=judges)) for runs, rivals in ((a, b), (b, a))]


def _read(measure: str, sides: Sequence[Side]) -> tuple[Readings, Readings]:
    """What both arms say, of the seeds of which both say something."""
    first, second = (FUNCTIONS[measure](side) for side in sides)
    common = sorted(first.keys() & second.keys())
    return {seed: first[seed] for seed in common}, {seed: second[seed] for seed in common}


def _unsteady(
    measure: str,
    question: Question,
    tune: Sequence[str],
    a: Sequence[Result],
    b: Sequence[Result],
    first: Readings,
    second: Readings,
) -> Readings:
    """The first arm's readings, moved so that differences spread as much as the whole procedure does, choice included.

    Where rates are close, each seed sways which one the others choose, and seeds are less independent than they look.
    Each difference becomes the mean plus n - 1 times what leaving the seed out takes from it, the choice made anew: the
    jackknife (Efron & Stein 1981). Where the choice is steady that is the difference itself.
    """
    judges = [[*a, *b]] if question.at == "the same rate" else [a, b]
    if all(is_steady(runs, tune) for runs in judges):
        return first
    left = {}
    for seed in first:
        rest = [[r for r in runs if r["args"]["seed"] != seed] for runs in (a, b)]
        told = _read(measure, _sides(question, tune, *rest))
        left[seed] = float(np.mean([told[0][s].value - told[1][s].value for s in told[0]])) if told[0] else math.nan
    if not all(map(math.isfinite, left.values())):
        return first
    differences = {seed: reading.value - second[seed].value for seed, reading in first.items()}
    mean, middle = float(np.mean(list(differences.values()))), float(np.mean(list(left.values())))
    moved = {seed: mean + (len(left) - 1) * (middle - value) for seed, value in left.items()}
    return {seed: r._replace(value=moved[seed] + second[seed].value) for seed, r in first.items()}


def _rates_of(runs: Sequence[Result], tune: Sequence[str]) -> str:
    """What is best for an arm in a cell, by all its seeds."""
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in chosen(runs, tune))


def _reason(measure: str, question: Question, tune: Sequence[str], sides: Sequence[Side]) -> str:
    """Why two arms may not be compared in a cell; empty where they may."""
    grids = [{tuple(r["args"].get(name) for name in tune) for r in side.runs} for side in sides]
    if grids[0] != grids[1]:
        return f"the arms were given different grids of {', '.join(tune)}"
    seeds = [{r["args"]["seed"] for r in side.runs} for side in sides]
    if len(seeds[0] & seeds[1]) < FEWEST_SEEDS:
        return f"{len(seeds[0] & seeds[1])} seeds ran, {FEWEST_SEEDS} are needed"
    if question.match is None and not set(question.compare) & set(SIZES):
        for budget in BUDGETS:
            first, second = (side.runs[0][budget] for side in sides)
            if abs(first - second) > BUDGET_TOLERANCE * max(first, second):
                return f"the budgets differ: {first:g} and {second:g} {budget}"
    if measure not in ("loss", "growth") or question.at != "best rate":
        return ""
    if not any(is_usable(list(side.best.values())) for side in sides):
        return "no run of either works"
    if tune and len(grids[0]) < 2:
        return "only one rate was tried"
    for side in sides:
        if not is_usable(list(side.best.values())):
            continue  # no rate is best where none works: that it fails is another claim
        if 2 * sum(r["outcome"] == "slow" for r in side.best.values()) > len(side.best):
            return "the best runs of an arm are still slow: give them more steps"
        for axis, name in enumerate(tune):
            values = sorted({rates[axis] for rates in grids[0]})
            best = chosen(side.runs, tune)[axis]
            if len(values) > 1 and name == "lr" and best in (values[0], values[-1]):
                return f"a best rate, {best:g}, lies on the edge of the grid"
    return ""
