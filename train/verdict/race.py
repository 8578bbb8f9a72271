"""Racing: which runs of a sweep can still change its answer. What cannot is not run, or stops.

**Rates.** Where a question is asked at each arm's best rate, the other rates only have to be told from it. So seeds are
rungs: all rates run with the first seed; then the rate that leads its arm runs with one seed more, those that may still
beat it follow, and so on. A rate gets no further seed once it

- is behind: an e-value speaks against its being better than the leader by `smallest` (an indifference zone). It is the
  likelihood ratio of a normal prior of variance PRIOR on the effect size; the spread is that of all cells that ran with
  several seeds. Where spreads are about equal, the best rate of a cell is lost with chance LEVEL at most, unless the
  leader is within `smallest` of it, however often one looks. Ville 1939; Lindon et al. 2022, "Anytime-valid linear
  models and regression adjusted causal inference in randomized experiments";
- failed with FAILURES seeds and never worked, or with one, and a smaller rate failed too: a rule and no test.

Where the largest rate is asked for that a seed works at, each seed climbs: rates above the leader run with it up to the
first at which it does not work, however far behind they are, and rates below a leader at which it does not, down to the
first at which it does. What it says of its largest rate is what it would say if all rates had run.

**Runs.** One that is `dead` stops. So does one at a smaller rate than its arm's leader that will end behind it
by more than MARGIN even if the gap closes on in a straight line; the record says by how much.

All is a function of the records that there are, round by round: a race that was interrupted goes on as it would have.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from train.verdict.outcome import FAILED, WORKED
from train.verdict.question import SEED, Cell, Question, place_of, varying
from train.verdict.runs import Result, loss_of
from train.verdict.sequential import log_e

LEVEL = 0.05  # chance to lose the best rate of a cell
PRIOR = 16.0  # variance of the effect size: rates a factor of three apart differ by some four spreads
FAILURES = 2  # seeds
RACED = ("loss", "failure", "growth", "seconds", "bytes")  # measures that are taken at the best rate only
CLIMBED = ("largest rate",)  # from the best rate on
HOPE = 0.75  # of its steps, after which a run that learned nothing from context is not waited for
EARLIEST = 0.5  # of its steps, before which no run is hopeless
MARGIN = 0.1  # nats: below the unigram entropy, that count as learning from context; behind a leader, as too many

Rates = tuple  # values of the tuned settings


class Rung(NamedTuple):
    """What runs next, places in the grid; where that is nothing, what was left out, with the reason."""

    due: list[int]
    left_out: dict[int, str]


@dataclass
class _Heat:
    """One cell of a race, an arm at one place: its runs, places in the grid, by rate and seed.

    taken: of each rate, how many seeds are done or due, the first ones. dropped: rates that get no more, with the
    reason. climbs: does each seed climb? leader: the best rate so far.
    """

    runs: dict[Rates, dict[int, int]]
    taken: dict[Rates, int]
    dropped: dict[Rates, str]
    climbs: bool
    leader: Rates | None = None

    def asked(self, results: Mapping[int, Result]) -> dict[Rates, list[int]]:
        """The places of all runs that are done or due, by rate."""
        asked = {rates: dict.fromkeys([*places.values()][: self.taken[rates]]) for rates, places in self.runs.items()}
        if self.climbs and self.leader is not None and self.works(self.leader, results):
            for seed in [*self.runs[self.leader]][: self.taken[self.leader]]:
                for rates in self.climb(self.leader, seed, results):
                    asked[rates][self.runs[rates][seed]] = None
        return {rates: list(places) for rates, places in asked.items()}

    def climb(self, leader: Rates, seed: int, results: Mapping[int, Result]) -> Iterator[Rates]:
        """Rates at which a seed is to run: from the leader up while it does not fail, and down while it fails.

        Those up to where another seed failed run at once, the next ones once these have worked.
        """
        above = sorted(rates for rates, places in self.runs.items() if rates > leader and seed in places)
        failing = [rates for rates in above if any(self.failed(rates, each, results) for each in self.runs[rates])]
        for rates in above:
            yield rates
            done = self.runs[rates][seed] in results
            if self.failed(rates, seed, results) or (not done and failing and rates >= failing[0]):
                break
        below = sorted(rates for rates, places in self.runs.items() if rates < leader and seed in places)
        failed = self.failed(leader, seed, results)
        while failed and below:
            yield below[-1]
            failed = self.failed(below.pop(), seed, results)

    def failed(self, rates: Rates, seed: int, results: Mapping[int, Result]) -> bool:
        """Did it not work? False where it has not run."""
        result = results.get(self.runs[rates].get(seed, -1))
        return result is not None and result["outcome"] not in WORKED

    def works(self, rates: Rates, results: Mapping[int, Result]) -> bool:
        """Do half of its seeds work?"""
        ran = [results[place]["outcome"] in WORKED for place in self.runs[rates].values() if place in results]
        return 2 * sum(ran) >= len(ran) > 0

    def done(self, results: Mapping[int, Result]) -> dict[Rates, list[Result]]:
        """The records of each rate; the loss of a run that stopped behind is what it could have come to."""
        asked = self.asked(results)
        best: dict[int, float] = {}
        for run in (results[place] for places in asked.values() for place in places):
            best[run["args"][SEED]] = min(loss_of(run), best.get(run["args"][SEED], math.inf))

        def hoped(run: Result) -> Result:
            behind = run.get("behind")
            return run if behind is None else {**run, "val_loss": best[run["args"][SEED]] + behind}

        return {rates: [hoped(results[place]) for place in places] for rates, places in asked.items()}


def is_raced(question: Question) -> bool:
    """May rates be left out? Only where all that is measured is measured at each arm's best one, or from there on."""
    at_best = question.at == "best rate" and bool(question.tune) and {*question.measure} <= {*RACED, *CLIMBED}
    return question.run == "racing" and at_best and (not _climbs(question) or question.tune == ("lr",))


def _climbs(question: Question) -> bool:
    return not {*CLIMBED}.isdisjoint(question.measure)


def next_rung(cells: Sequence[Cell], results: Mapping[int, Result], question: Question) -> Rung:
    """The cells that run next. results: records of the cells that are done, by place in the grid."""
    if not is_raced(question):
        return Rung([place for place in range(len(cells)) if place not in results], {})
    heats, goes_on = _heats(cells, question), True
    while True:
        asked = {place for heat in heats for places in heat.asked(results).values() for place in places}
        due = sorted(place for place in asked if place not in results)
        if due:
            return Rung(due, {})
        if not goes_on:
            break
        spread, dof = _spread([runs for heat in heats for runs in heat.done(results).values()])
        goes_on = any([_goes_on(heat, results, question.smallest, spread, dof) for heat in heats])
    missing = {place: (heat, rates) for heat in heats for rates, places in heat.runs.items()
               for place in places.values() if place not in results}  # fmt: skip
    return Rung([], {place: heat.dropped.get(rates, OUTRUN) for place, (heat, rates) in sorted(missing.items())})


OUTRUN = "its seed failed at a rate between it and the best one"


def _heats(cells: Sequence[Cell], question: Question) -> list[_Heat]:
    heats: dict[tuple, dict[Rates, dict[int, int]]] = {}
    fixed = [name for name in varying(cells) if name not in (*question.tune, SEED)]
    for place, cell in sorted(enumerate(cells), key=lambda item: item[1][SEED]):
        rates = heats.setdefault(place_of(cell, fixed), {}).setdefault(place_of(cell, question.tune), {})
        rates[cell[SEED]] = place
    return [_Heat(runs, dict.fromkeys(runs, 1), {}, _climbs(question)) for runs in heats.values()]


def _goes_on(heat: _Heat, results: Mapping[int, Result], smallest: float, spread: float, dof: int) -> bool:
    """Take one more run of the leader, or of each rate that follows it; False where the heat is over."""
    done = heat.done(results)
    heat.leader = leader = min(done, key=lambda rates: (_rank(done[rates]), rates))
    failed = [rates for rates in done if not _alive(done[rates])]
    ahead, most = _alive(done[leader]), (len(done) - 1) / LEVEL  # each of the others might have led by luck
    climbs = heat.climbs and heat.works(leader, results)
    raced = [rates for rates in done if rates != leader and not (climbs and rates > leader)]  # the others climb
    for rates in raced:
        if rates in heat.dropped:
            continue
        alive = _alive(done[rates])
        if not alive and (len(done[rates]) >= FAILURES or any(_is_less(each, rates) for each in failed)):
            heat.dropped[rates] = "its runs failed"
        elif alive and ahead and dof:
            behind = float(np.mean(alive) - np.mean(ahead))
            pairs = 2 / (1 / len(alive) + 1 / len(ahead))
            if behind > 0 and e_value(behind + smallest, pairs, spread * math.sqrt(2), dof) >= most:
                heat.dropped[rates] = "it is behind the best rate"
    heat.dropped.pop(leader, None)
    most_seeds = {rates: min(heat.taken[leader], len(heat.runs[rates])) for rates in raced}
    behind_ = [rates for rates in raced if rates not in heat.dropped and heat.taken[rates] < most_seeds[rates]]
    following = behind_ or [leader] * (heat.taken[leader] < len(heat.runs[leader]))
    for rates in following:
        heat.taken[rates] += 1
    return bool(following)


def _alive(runs: Sequence[Result]) -> list[float]:
    return [loss_of(run) for run in runs if run["outcome"] not in FAILED]


def _rank(runs: Sequence[Result]) -> tuple[bool, int, float]:
    """Less is better: rates at which half of the runs live, then those with most that do, by the mean loss of these."""
    alive = _alive(runs)
    usable = 2 * len(alive) >= len(runs)
    return not usable, 0 if usable else -len(alive), float(np.mean(alive or [0.0]))


def _is_less(a: Rates, b: Rates) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def _spread(runs: Sequence[Sequence[Result]]) -> tuple[float, int]:
    """The standard deviation of the loss over the seeds of a rate, from all cells, and its degrees of freedom; a run
    that stopped says little of it."""
    whole = [_alive([run for run in each if run.get("stopped") is None]) for each in runs]
    losses = [np.array(each) for each in whole if len(each) > 1]
    dof = sum(each.size - 1 for each in losses)
    return math.sqrt(sum(float(np.sum((each - each.mean()) ** 2)) for each in losses) / max(1, dof)), dof


def e_value(difference: float, pairs: float, spread: float, dof: int) -> float:
    """Evidence against mean zero of `pairs` paired differences, whose spread is known to `dof` degrees of freedom.

    It is 1 on average where the mean is zero, whenever one looks; 20 is a claim at 5 %.
    """
    if spread == 0:
        return 1.0 if difference == 0 else math.inf
    return math.exp(min(log_e(pairs * (difference / spread) ** 2, pairs, dof, prior=PRIOR), 700.0))


def dead(losses_T: np.ndarray, unigram_T: np.ndarray | float, *, initial_loss: float, steps: int, warmup: int) -> str:
    """What a run of `steps` has come to for good after T of them, "diverged" or "stuck", or "" while it lives.

    A loss that is no number is the end; else it is waited for HOPE of the steps. unigram_T: the loss of the unigram
    model on the tokens of each step, which has the same luck: a run that learned byte frequencies and nothing from
    context is on top of it, step by step. The unigram entropy does too, where steps are many.
    """
    losses_T = np.asarray(losses_T, float)
    if not np.all(np.isfinite(losses_T)):
        return "diverged"
    if losses_T.size < max(HOPE * steps, 2 * warmup, 8):
        return ""
    if losses_T[-(losses_T.size // 4) :].min() > initial_loss:
        return "diverged"
    fall, error, now = _fall(losses_T - unigram_T)
    still = (fall + 2 * error) * (losses_T.size // 4) < MARGIN
    return "stuck" if still and abs(now) < MARGIN else ""


def straight(losses_T: np.ndarray, leader_T: np.ndarray, *, steps: int) -> float:
    """Nats that a run will end behind the leader if the gap on the same tokens closes on in a straight line.

    That flatters runs at smaller rates than the leader's, whose curves flatten as the schedule falls; those of larger
    rates may fall last.
    """
    fall, error, now = _fall(losses_T - leader_T)
    left = steps - losses_T.size + losses_T.size / 8  # from the middle of what `now` is the mean of
    return now - max(0.0, fall + error) * left


def _fall(curve_T: np.ndarray) -> tuple[float, float, float]:
    """How much a curve falls a step between its third and its last quarter, the error of that, and the last mean."""
    quarter = curve_T.size // 4
    before, after = curve_T[-2 * quarter : -quarter], curve_T[-quarter:]
    error = math.hypot(*(float(np.std(part, ddof=1)) / math.sqrt(quarter) for part in (before, after)))
    return float(np.mean(before) - np.mean(after)) / quarter, error / quarter, float(np.mean(after))


class Stop(NamedTuple):
    """Why a run stops. outcome: what it came to, "" of one that lives and is `behind` its leader by so many nats."""

    outcome: str
    behind: float | None = None


def to_stop(
    cells: Sequence[Cell], losses_KT: np.ndarray, unigram_KT: np.ndarray, question: Question
) -> dict[int, Stop]:
    """The runs that stop after T steps; none where the question asks for all. unigram_KT: see `dead`."""
    stops: dict[int, Stop] = {}
    if question.run != "racing":
        return stops
    for k, (cell, losses_T, unigram_T) in enumerate(zip(cells, losses_KT, unigram_KT, strict=True)):
        seen = {"initial_loss": losses_T[0], "steps": cell["steps"], "warmup": cell["warmup"]}
        if outcome := dead(losses_T, unigram_T, **seen):
            stops[k] = Stop(outcome)
    if not is_raced(question):
        return stops
    count, last = losses_KT.shape[1], slice(-(losses_KT.shape[1] // 4), None)
    fixed = [name for name in varying(cells) if name not in question.tune]
    rivals: dict[tuple, list[int]] = {}
    for k, cell in enumerate(cells):
        if k not in stops and count >= max(EARLIEST * cell["steps"], 2 * cell["warmup"], 8):
            rivals.setdefault(place_of(cell, fixed), []).append(k)
    for heat in rivals.values():
        leader = min(heat, key=lambda k: float(np.mean(losses_KT[k, last])))
        rates = place_of(cells[leader], question.tune)
        for k in (k for k in heat if _is_less(place_of(cells[k], question.tune), rates)):
            behind = straight(losses_KT[k], losses_KT[leader], steps=cells[k]["steps"])
            if behind > MARGIN:
                stops[k] = Stop("", behind)
    return stops
