"""Claims: what may be said of two arms, or of one as a size grows, from the runs of a sweep and its question.

Effects come first: differences pooled over cells, and how they change with what the question is asked across; single
cells come last. A cell is one combination of all that is swept but neither compared, tuned nor the seed. All intervals
of one report hold together, with chance 1 - LEVEL: effects share one half of it, cells the other, each by Bonferroni;
the corrected p is such that it is below LEVEL exactly where the interval leaves out zero.

An answer is one of three: better, the same (the interval lies within the smallest difference that matters), or not
separable. A claim is withheld, with its reason, where the comparison would not be fair.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from train.verdict.cells import Cell, alone, estimate_of, meet, runs_of
from train.verdict.counts import Count, Shares
from train.verdict.estimate import LEVEL, Estimate, pooled
from train.verdict.measures import Readings
from train.verdict.outcome import FAILED
from train.verdict.plan import Needed, seeds_needed
from train.verdict.question import MEASURES, SEED, Arm, Question, arms_of, cells_over, label, pairs_of
from train.verdict.runs import Result
from train.verdict.sequential import FIRST, LATER, Anytime, Spent, critical

COURSES = ("largest rate", "usable range", "growth")  # measures of which one arm's course is told too


class Evidence(Protocol):
    """A number with its intervals and its p, whatever they come from."""

    @property
    def value(self) -> float: ...
    @property
    def p(self) -> float: ...
    def interval(self, level: float) -> tuple[float, float]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One thing that is said.

    kind: "effect", pooled over cells; "trend", how the effect changes along `axis`; "course", how one arm does; "cell".
    axis: like "doubling of depth". first, second: the arms, second "" in a course. where: the cells, in words.
    answer: "better", "same", "open" or "withheld"; of a trend or course, "better" is a change. reason: why it is
    withheld, or which cells were left out. value, low, high: the difference, first less second, and its simultaneous
    interval, in the measure's unit. p: corrected. runs: pairs of runs that it rests on. bound: do some of them end on
    the edge of the grid? rates: what was chosen, by arm. smallest: difference that matters.
    """

    kind: str
    measure: str
    first: str
    second: str
    where: str
    answer: str
    axis: str = ""
    reason: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    runs: int = 0
    cells: int = 0
    needed: Needed | None = None
    counts: Count | None = None
    smallest: float = math.nan
    rates: tuple[str, str] = ("", "")
    bound: bool = False


class Drawn(NamedTuple):
    """A claim whose answer waits for its level, which depends on how many others are made."""

    claim: Claim
    evidence: Evidence | None
    seeds: float = 0.0


def claims(results: Sequence[Result], question: Question, *, looks: int = 0) -> list[Claim]:
    """All that may be said, effects first. looks: how often the question was looked at before, with fewer seeds."""
    return levelled(draw(results, question, looks=looks), looks)


def draw(results: Sequence[Result], question: Question, *, looks: int = 0) -> list[Drawn]:
    """The evidence of every claim, before it is known how many there are."""
    settings = _settings(results)
    each_rate = question.at == "each rate"
    tune = () if each_rate else question.tune
    left = cells_over(settings, question)
    rivals, arms = _rivals(settings, question), arms_of(settings, question)
    drawn: list[Drawn] = []
    for measure in _asked(results, question):
        places = [name for name in left if name != MEASURES[measure].over]
        runs = runs_of(arms, results, question.compare, places)
        for each in rivals:
            cells = [
                cell._replace(place=(*where, *cell.place))
                for where, a, b in each.pairs
                for cell in meet(measure, question, tune, runs[a.name], runs[b.name])
            ]
            drawn += _about_two(measure, question, [*each.shared, *places], each, cells, looks)
        if measure in COURSES:
            for arm in arms:
                drawn += _about_one(measure, question, tune, places, arm, runs[arm.name], looks)
    return drawn


def _settings(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The settings that occur, each once: what is asked of them does not depend on the seed."""
    once = dict.fromkeys(tuple(item for item in r["args"].items() if item[0] != SEED) for r in results)
    return [dict(items) for items in once]


class _Rivals(NamedTuple):
    """Two values of what is compared, by name, and the pairs of arms that differ in them alone.

    shared: names of the compared settings that a pair shares; each pair comes with their values.
    """

    first: str
    second: str
    shared: tuple[str, ...]
    pairs: list[tuple[tuple, Arm, Arm]]


def _rivals(settings: Sequence[Mapping[str, Any]], question: Question) -> list[_Rivals]:
    """Pairs of arms that differ in the same way are one effect: pre against post, with RMSNorm and with LayerNorm."""
    found: dict[tuple, _Rivals] = {}
    for a, b in pairs_of(settings, question):
        apart = [(name, one, dict(b.settings)[name]) for name, one in a.settings if one != dict(b.settings)[name]]
        shared = {name: value for name, value in a.settings if name not in {name for name, _, _ in apart}}
        alone = len(apart) > 1 or not shared or question.versus is not None
        key = (a.name, b.name) if alone else tuple(apart)
        if key not in found:
            (name, one, other) = apart[0]
            names = (a.name, b.name) if alone else (label(name, one), label(name, other))
            found[key] = _Rivals(*names, () if alone else tuple(shared), [])
        found[key].pairs.append((() if alone else tuple(shared.values()), a, b))
    order = {name: place for place, name in enumerate(question.compare)}
    return [found[key] for key in sorted(found, key=lambda key: order.get(key[0][0], -1))]


def _asked(results: Sequence[Result], question: Question) -> list[str]:
    """The measures of a question: beside a loss, how often arms fail, where some do where they are best."""
    measures = list(question.measure)
    failing = any(r["outcome"] in FAILED for r in results)
    if "loss" in measures and "failure" not in measures and failing:
        measures.insert(measures.index("loss"), "failure")
    return measures


def _about_two(
    measure: str, question: Question, places: Sequence[str], rivals: _Rivals, cells: Sequence[Cell], looks: int
) -> Iterator[Drawn]:
    """The effect, its trends, and each cell."""
    fair = [cell for cell in cells if not cell.reason]
    left_out = _left_out([cell for cell in cells if cell.reason], places)
    smallest = smallest_of(measure, question)
    empty = Claim(
        kind="effect",
        measure=measure,
        first=rivals.first,
        second=rivals.second,
        where="",
        answer="open",
        smallest=smallest,
    )
    if not fair:
        reason = Counter(cell.reason for cell in cells).most_common(1)
        said = reason[0][0] if reason else "the arms were never given the same"
        yield Drawn(replace(empty, answer="withheld", reason=said, cells=len(cells), rates=_rates(cells)), None)
        return
    where = _where([cell.place for cell in fair], places)
    whole = replace(empty, where=where, reason=left_out, rates=_rates(fair))
    yield _drawn(whole, fair, pooled(len(fair)), looks)
    if measure != "failure":
        for axis, weights in _axes(fair, places):
            yield _drawn(replace(whole, kind="trend", axis=axis), fair, weights, looks)
    if len(cells) > 1:
        for cell in cells:
            alone = replace(empty, kind="cell", where=_where([cell.place], places), rates=cell.rates)
            if cell.reason:
                yield Drawn(replace(alone, answer="withheld", reason=cell.reason), None)
            else:
                yield _drawn(alone, [cell], np.ones(1), looks)


def _about_one(
    measure: str,
    question: Question,
    tune: Sequence[str],
    places: Sequence[str],
    arm: Arm,
    runs: Mapping[tuple, list[Result]],
    looks: int,
) -> Iterator[Drawn]:
    """How the measure of one arm changes along each axis."""
    cells = [alone(measure, own, own, tune)._replace(place=place) for place, own in runs.items()]
    cells = [cell for cell in cells if len(cell.first) >= 2]
    empty = Claim(
        kind="course", measure=measure, first=arm.name, second="", where=_where([c.place for c in cells], places),
        answer="open", smallest=smallest_of(measure, question),
    )  # fmt: skip
    for axis, weights in _axes(cells, places):
        yield _drawn(replace(empty, axis=axis), cells, weights, looks)


def _drawn(claim: Claim, cells: Sequence[Cell], weights: np.ndarray, looks: int) -> Drawn:
    """A claim with its evidence: a contrast of these cells."""
    used = [(cell, weight) for cell, weight in zip(cells, weights, strict=True) if weight != 0]
    runs = sum(len(cell.first) for cell, _ in used)
    claim = replace(
        claim,
        runs=runs,
        cells=len(used),
        bound=any(r.bound for cell, _ in used for side in (cell.first, cell.second) for r in side.values()),
    )
    if claim.measure == "failure":
        counts = tuple(Count(*(n for side in (c.first, c.second) for n in _happened(side))) for c, _ in used)
        shares = Shares(counts)
        evidence: Evidence = Spent(shares, looks) if looks else shares
        return Drawn(replace(claim, counts=shares.totals), evidence)
    estimate = estimate_of(*zip(*used, strict=True))
    return Drawn(claim, Anytime(estimate) if looks else estimate, runs / len(used))


def _happened(readings: Readings) -> tuple[int, int]:
    return int(sum(r.value for r in readings.values())), len(readings)


def _axes(cells: Sequence[Cell], places: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Along what the cells vary, in words, and the weights of how a difference changes along it, all else equal."""
    for i, name in enumerate(places):
        groups: dict[tuple, list[int]] = {}
        for c, cell in enumerate(cells):
            groups.setdefault(tuple(value for j, value in enumerate(cell.place) if j != i), []).append(c)
        values = list(dict.fromkeys(cell.place[i] for cell in cells))
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if len(values) < 2:
            continue
        if numbers and min(values) > 0:
            axis, at = f"doubling of {name}", {value: math.log2(value) for value in values}
        elif len(values) == 2 or numbers:
            ordered = sorted(values) if numbers else values
            axis, at = f"{name} from {ordered[0]} to {ordered[-1]}", {ordered[0]: 0.0, ordered[-1]: 1.0}
        else:
            continue
        weights = np.zeros(len(cells))
        for members in groups.values():
            inside = [c for c in members if cells[c].place[i] in at]
            positions = np.array([at[cells[c].place[i]] for c in inside])
            if len(set(positions)) > 1:
                weights[inside] = positions - positions.mean()
        total = float(np.sum(weights**2))
        if total > 0:
            yield axis, weights / total


def smallest_of(measure: str, question: Question) -> float:
    """The smallest difference that matters, in the unit of the measure."""
    own = SMALLEST.get(measure)
    return question.smallest if own is None else own


SMALLEST = {  # beside losses, for which the question says it
    "failure": 0.1,
    "largest rate": 0.5,
    "usable range": 0.5,
    "depth reach": 0.5,
    "growth": 0.1,
    "seconds": math.log2(1.05),
    "bytes": math.log2(1.05),
}


class Effect(NamedTuple):
    """A difference of losses, pooled over cells: the claim, its estimate from so many seeds a cell, and its level."""

    claim: Claim
    estimate: Estimate
    seeds: float
    level: float

    @property
    def least(self) -> float:
        """The smallest difference, either way, that its interval leaves possible."""
        return max(0.0, self.claim.low, -self.claim.high)


def effects(drawn: Sequence[Drawn], looks: int = 0) -> list[Effect]:
    """What a plan for more seeds is made from; withheld effects are left out."""
    return [
        Effect(_answered(each, level, looks), _estimate(each), each.seeds, level)
        for each, level in _levels(drawn, looks)
        if each.claim.kind == "effect" and each.claim.measure == "loss" and each.seeds > 1
    ]


def levelled(drawn: Sequence[Drawn], looks: int = 0) -> list[Claim]:
    """Each claim with its answer, effects first."""
    said = [_answered(each, level, looks) for each, level in _levels(drawn, looks)]
    return sorted(said, key=lambda claim: claim.kind == "cell")


def _levels(drawn: Sequence[Drawn], looks: int) -> Iterator[tuple[Drawn, float]]:
    """Effects and cells have one half of LEVEL each, in equal parts."""
    counts = Counter(each.claim.kind == "cell" for each in drawn if each.evidence is not None)
    whole = LEVEL * (LATER if looks else FIRST) / max(1, len(counts))
    for each in drawn:
        yield each, whole / max(1, counts[each.claim.kind == "cell"])


def _answered(drawn: Drawn, level: float, looks: int) -> Claim:
    """The claim with its answer; who adds seeds then looks again, and is told how many it takes so."""
    claim, evidence = drawn.claim, drawn.evidence
    if evidence is None:
        return claim
    low, high = evidence.interval(level)
    if max(-low, high) <= claim.smallest:
        answer = "same"
    elif low > 0 or high < 0:
        answer = "better"
    else:
        answer = "open"
    needed = None
    if answer == "open" and drawn.seeds > 1:
        again = level * LATER / (LATER if looks else FIRST)
        needed = seeds_needed(_estimate(drawn), drawn.seeds, claim.smallest, again, critical=critical)
    p = min(1.0, evidence.p * LEVEL / level)
    return replace(claim, answer=answer, value=evidence.value, low=low, high=high, p=p, needed=needed)


def _estimate(drawn: Drawn) -> Estimate:
    """Of a claim that is no count of runs."""
    estimate = drawn.evidence.estimate if isinstance(drawn.evidence, Anytime) else drawn.evidence
    assert isinstance(estimate, Estimate)
    return estimate


def _rates(cells: Sequence[Cell]) -> tuple[str, str]:
    first, second = (", ".join(dict.fromkeys(cell.rates[i] for cell in cells)) for i in (0, 1))
    return first, second


def _where(places: Sequence[tuple], names: Sequence[str]) -> str:
    """Cells in words: "depth 2, 4, 8; norm rms"."""
    if not places:
        return ""
    values = (", ".join(map(_said, dict.fromkeys(column))) for column in zip(*places, strict=True))
    return "; ".join(f"{name} {told}" for name, told in zip(names, values, strict=True))


def _said(value: Any) -> str:
    return "none" if value is None or value == "" else str(value)


def _left_out(cells: Sequence[Cell], names: Sequence[str]) -> str:
    """Why cells are not pooled, in words; empty where all are."""
    reasons: dict[str, list[tuple]] = {}
    for cell in cells:
        reasons.setdefault(cell.reason, []).append(cell.place)
    return "; ".join(f"without {_where(places, names)}: {reason}" for reason, places in reasons.items())
