"""Rates that a grid lacks: where the best one lies on its edge, a better one may lie beyond."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from train.verdict.choice import chosen, is_usable
from train.verdict.question import Question, arms_of, with_name
from train.verdict.runs import Result, by


class Rung(NamedTuple):
    """A rate to try for all arms at one combination of `across`; why, in words."""

    place: tuple
    lr: float
    why: str


def planned(cells: Sequence[Mapping], question: Question) -> dict[tuple, list[float]]:
    """The rates of a grid at each combination of `across`, sorted."""
    rates: dict[tuple, set[float]] = {}
    for cell in cells:
        rates.setdefault(tuple(cell.get(name) for name in question.across), set()).add(cell["lr"])
    return {place: sorted(each) for place, each in rates.items()}


def next_rungs(question: Question, plan: Mapping[tuple, Sequence[float]], results: Sequence[Result]) -> list[Rung]:
    """One rung beyond each edge on which the best rate of an arm lies, at most `question.extend` beyond the plan.

    All arms of a place are to have it, so that none is chosen from more. Rungs are as far apart as those of the plan on
    average. An arm of which nothing works has no best rate. plan: what `planned` says of the grid as it was given.
    """
    if not question.extend or "lr" not in question.tune:
        return []
    arms = arms_of([r["args"] for r in results], question)
    rungs = []
    for place, here in by(results, *question.across).items():
        plan_here, tried = plan[place], sorted({r["args"]["lr"] for r in here})
        best = {arm.name: _best([r for r in here if arm.has(r["args"])], question.tune) for arm in arms}
        for edge, beyond in ((plan_here[-1], 1), (plan_here[0], -1)):
            done = sum((rate - edge) * beyond > 0 for rate in tried)
            outermost = tried[-1] if beyond > 0 else tried[0]
            names = [name for name, rate in best.items() if rate == outermost]
            if names and done < question.extend and len(plan_here) > 1:
                rate = _rung(plan_here, beyond * (done + 1))
                where = "".join(f" at {with_name(n, v)}" for n, v in zip(question.across, place, strict=True))
                said = f"the best lr of {' and '.join(names)}{where} lies on the edge, {outermost:g}"
                told = f"{said}: {rate:g} is tried for all arms, rung {done + 1} of {question.extend}"
                rungs.append(Rung(place, rate, told))
    return rungs


def _rung(rates: Sequence[float], steps: int) -> float:
    """The rate so many rungs above the largest, or below the smallest where steps are negative; two digits."""
    ratio = (rates[-1] / rates[0]) ** (1 / (len(rates) - 1))
    return float(f"{(rates[-1] if steps > 0 else rates[0]) * ratio**steps:.2g}")


def _best(runs: Sequence[Result], tune: Sequence[str]) -> float | None:
    """The rate that all seeds choose, of those at which at least half of them are alive; None where there is none."""
    if not any(is_usable(group) for group in by(runs, *tune).values()):
        return None
    return chosen(runs, tune)[tune.index("lr")]
