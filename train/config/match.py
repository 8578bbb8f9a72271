"""`match` of a question: a named size of each arm is solved so that a cost equals that of the first arm.

The size is a whole number that the structure allows (heads that divide the width, and so on), so that something
remains; what remains is said, and above MOST_APART it is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import fxformer as fx
from fxformer import accounting
from train.config.ask import rows_of
from train.config.config import Config
from train.verdict.question import MATCHED, Arm, Question, arms_of, place_of, with_name

COSTS: dict[str, Callable[[Config], float]] = {
    "parameters": lambda config: fx.count(config.spec()),
    "flops": lambda config: accounting.flops(config.spec(), config.data.length),
    "cache_bytes": lambda config: accounting.cache_bytes(config.spec()),
}
MOST_APART = 0.02  # of the first arm's cost
GAP = 256  # sizes in a row that a structure may not allow, before others are sought elsewhere
LARGEST = 2**16


def solved(config: Config, cells: Sequence[Mapping[str, Any]], question: Question) -> list[dict[str, Any]]:
    """The cells with the size that is solved for each arm, at each combination of `across`. Raises ValueError where no
    size comes near enough, and where the size is swept."""
    assert question.match is not None and question.by is not None
    if any(question.by in cell for cell in cells):
        raise ValueError(f"{question.by} is solved for by match, and stands in the grid; take it out of one of them")
    sizes: dict[tuple, int] = {}
    by_place: dict[tuple, tuple[str, float]] = {}
    done = []
    for cell, arm, place in _placed(config, cells, question):
        if place not in by_place:
            by_place[place] = arm.name, COSTS[question.match](config.cell(cell))
        first, target = by_place[place]
        if arm.name == first:
            done.append(dict(cell))
            continue
        if (arm.name, place) not in sizes:
            sizes[arm.name, place] = _solve(config, cell, question, target, f"{arm.name}{_at(question, place)}", first)
        done.append({**cell, question.by: sizes[arm.name, place]})
    return done


def costs_in_words(config: Config, question: Question) -> list[str]:
    """Parameters, FLOPs and cache of each arm at each combination of `across`, and what remains of the mismatch."""
    assert question.match is not None and question.by is not None
    lines: list[str] = []
    targets: dict[tuple, float] = {}
    seen: set[tuple] = set()
    for cell, arm, place in _placed(config, config.cells, question):
        if (arm.name, place) in seen:
            continue
        seen.add((arm.name, place))
        own = config.cell(cell)
        cost = {name: function(own) for name, function in COSTS.items()}
        target = targets.setdefault(place, cost[question.match])
        size = f"{with_name(question.by, cell[question.by])}, " if question.by in cell else ""
        said = ", ".join(f"{cost[name]:,.0f} {words}" for name, words in MATCHED.items())
        apart = f"; {question.match} {100 * (cost[question.match] / target - 1):+.2f} %" if size else ""
        lines.append(f"{arm.name}{_at(question, place)}: {size}{said}{apart}")
    return lines


def closest(cost: Callable[[int], float | None], target: float) -> int | None:
    """The size, 1 or more, whose cost is closest to `target`; cost: None where the size is not allowed, and never less
    for a larger size. None where no size is allowed."""
    low = _next(cost, 1, LARGEST)
    if low is None:
        return None
    high = low
    while _cost(cost, high) < target:
        low = high
        further = _next(cost, 2 * high, LARGEST) or _next(cost, high + 1, LARGEST)
        if further is None:
            return high
        high = further
    halve = False
    while high - low > 1:
        least, most = _cost(cost, low), _cost(cost, high)
        share = 0.5 if halve or most == least else (target - least) / (most - least)
        guess = min(high - 1, max(low + 1, round(low + share * (high - low))))
        middle = _next(cost, guess, high - 1) or _next(cost, low + 1, guess)
        if middle is None:
            break
        low, high = (middle, high) if _cost(cost, middle) < target else (low, middle)
        halve = not halve
    return min((low, high), key=lambda size: abs(_cost(cost, size) - target))


def _next(cost: Callable[[int], float | None], size: int, most: int) -> int | None:
    """The least size that is allowed, from `size` on; None where there is none up to `most`, or in a long way."""
    return next((each for each in range(size, min(most, size + GAP) + 1) if cost(each) is not None), None)


def _cost(cost: Callable[[int], float | None], size: int) -> float:
    value = cost(size)
    assert value is not None, "only sizes that are allowed are compared"
    return value


def _solve(config: Config, cell: Mapping[str, Any], question: Question, target: float, arm: str, first: str) -> int:
    assert question.match is not None and question.by is not None
    function, by, refusals = COSTS[question.match], question.by, []

    @cache
    def cost(size: int) -> float | None:
        try:
            return function(config.cell({**cell, by: size}))
        except ValueError as error:
            refusals.append(str(error))
            return None

    size, said = closest(cost, target), f"match = {question.match!r} finds no {by} for {arm}"
    if size is None:
        raise ValueError(f"{said}: {refusals[0]}")
    other = _next(cost, size + 1, LARGEST) or _next(cost, 1, LARGEST)
    if other is not None and other != size and _cost(cost, other) == _cost(cost, size):
        raise ValueError(f"{said}: {MATCHED[question.match]} do not change with {by}; solve for another size")
    found = _cost(cost, size)
    if abs(found - target) > MOST_APART * target:
        raise ValueError(
            f"{said} within {MOST_APART:.0%} of {first}: {by} {size} has {found:,.0f} {MATCHED[question.match]}, "
            f"{first} {target:,.0f}; solve for another size, or match something else"
        )
    return size


def _placed(config: Config, cells: Sequence[Mapping[str, Any]], question: Question) -> list[tuple[Any, Arm, tuple]]:
    """Each cell with its arm, and its combination of `across`."""
    rows = rows_of(config, cells)
    arms = arms_of(rows, question)
    return [
        (cell, next(arm for arm in arms if arm.has(row)), place_of(row, question.across))
        for cell, row in zip(cells, rows, strict=True)
    ]


def _at(question: Question, place: tuple) -> str:
    where = ", ".join(with_name(name, value) for name, value in zip(question.across, place, strict=True))
    return f" at {where}" if where else ""
