"""A ladder: what each arm of a sweep loses at several sizes, and the compute that one arm is worth of another.

The sweep is an ordinary one. Its question says which settings make the arms; those it goes `across` make the rungs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fxformer.table import columns
from train.config import Config
from train.errors import UserError
from train.sweep.ask import question_for
from train.verdict.ladder import FEWEST_RUNGS, FEWEST_SEEDS, LEAST_FIT, LEVEL, Gain, Law, fit, gain
from train.verdict.number import number_of
from train.verdict.outcome import WORKED
from train.verdict.question import SEED, Arm, Question, arms_of, pairs_of, place_of
from train.verdict.runs import Result, by, loss_of

FEWEST_RATES = 3


class Rung(NamedTuple):
    """An arm at one size. size: in words. losses: by seed, at the rate with the best mean. fault: why they do not show
    what the arm can do at this size, in words; empty where they do."""

    size: str
    flops: float
    rate: float
    losses: dict[int, float]
    fault: str


class Worth(NamedTuple):
    """What one arm is worth of another, or why that cannot be said."""

    arm: str
    versus: str
    gain: Gain | None
    withheld: str

    @property
    def sentence(self) -> str:
        """Like "sandwich: 1.13x compute [1.04, 1.22] of pre"."""
        if self.gain is None or self.withheld:
            return f"{self.arm} against {self.versus} is withheld: {self.withheld}"
        value, low, high = self.gain.factor
        return f"{self.arm}: {value:.2f}x compute [{low:.2f}, {high:.2f}] of {self.versus}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Rungs of each arm from the smallest compute up; the law of an arm all of whose rungs are sound; and the gains."""

    rungs: dict[str, list[Rung]]
    laws: dict[str, Law]
    worths: list[Worth]


def question_of_ladder(config: Config) -> Question:
    """The question of a ladder, before anything is trained. Raises UserError for one that no law can answer."""
    question, _ = question_for(config)
    if question is None or not question.across:
        raise UserError(f"{config.name} is no ladder: it compares nothing across sizes; sweep a size beside the arms")
    rows = [config.cell(cell).flat() for cell in config.cells]
    names = ", ".join(question.across)
    for arm in arms_of(rows, question):
        sizes = {place_of(row, question.across) for row in rows if arm.has(row)}
        if len(sizes) < FEWEST_RUNGS:
            raise UserError(f"{arm.name} has {len(sizes)} sizes ({names}); a ladder needs {FEWEST_RUNGS} or more")
    if question.tune != ("lr",):
        raise UserError('each rung of a ladder is tuned by its rate; sweep lr, and leave tune out or say tune = ["lr"]')
    seeds = len({row[SEED] for row in rows})
    if seeds < FEWEST_SEEDS:
        raise UserError(
            f"the noise of a ladder is that between seeds, and there is {seeds}; use {FEWEST_SEEDS} or more"
        )
    return question


def read_ladder(results: Sequence[Result], question: Question) -> Ladder:
    """Laws and gains from the results of a sweep. Intervals of several gains hold all together (Bonferroni)."""
    rows = [result["args"] for result in results]
    arms, pairs = arms_of(rows, question), pairs_of(rows, question)
    rungs = {arm.name: _rungs(results, arm, question) for arm in arms}
    faults = {name: _fault(each) for name, each in rungs.items()}
    laws = {name: fit(*_measured(rungs[name], _seeds(rungs[name]))) for name, fault in faults.items() if not fault}
    worths = [_worth(arm, one, rungs, faults, LEVEL / len(pairs)) for arm, one in pairs]
    return Ladder(rungs=rungs, laws=laws, worths=worths)


def _rungs(results: Sequence[Result], arm: Arm, question: Question) -> list[Rung]:
    own = [result for result in results if arm.has(result["args"])]
    found = []
    for values, runs in by(own, *question.across).items():
        rates = {lr: each for (lr,), each in sorted(by(runs, "lr").items())}
        rate = min(rates, key=lambda lr: float(np.mean([loss_of(r) for r in rates[lr]])))
        best = rates[rate]
        size = ", ".join(f"{name} {value}" for name, value in zip(question.across, values, strict=True))
        losses = {r["args"][SEED]: loss_of(r) for r in best}
        found.append(Rung(size, best[0]["flops"], rate, losses, _flaw(rate, list(rates), best)))
    return sorted(found, key=lambda rung: rung.flops)


def _flaw(rate: float, rates: list[float], runs: Sequence[Result]) -> str:
    if len(rates) < FEWEST_RATES:
        return f"{number_of(len(rates), 'rate')} tried, {FEWEST_RATES} are needed"
    if rate in (rates[0], rates[-1]):
        return (
            f"no interior optimum: the best rate, {rate:g}, is the {'least' if rate == rates[0] else 'largest'} tried"
        )
    failed = sum(r["outcome"] not in WORKED for r in runs)
    return f"{failed} of {len(runs)} runs at the best rate did not work" if failed else ""


def _fault(rungs: Sequence[Rung]) -> str:
    """Why no law is fitted: the first rung that is not sound."""
    for number, rung in enumerate(rungs, 1):
        if rung.fault:
            return f"{rung.fault} at rung {number} ({rung.size})"
    return ""


def _seeds(*arms: Sequence[Rung]) -> list[int]:
    """Seeds that every rung of all the arms has."""
    return sorted(set.intersection(*(set(rung.losses) for rungs in arms for rung in rungs)))


def _measured(rungs: Sequence[Rung], seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """FLOPs [R] and losses [R, seeds]."""
    return np.array([rung.flops for rung in rungs]), np.array([[rung.losses[s] for s in seeds] for rung in rungs])


def _worth(arm: Arm, one: Arm, rungs: Mapping[str, list[Rung]], faults: Mapping[str, str], level: float) -> Worth:
    for name in (arm.name, one.name):
        if faults[name]:
            return Worth(arm.name, one.name, None, f"{name} has {faults[name]}")
    mine, others = rungs[arm.name], rungs[one.name]
    if len(mine) != len(others):
        return Worth(arm.name, one.name, None, f"they have {len(mine)} and {len(others)} sizes")
    seeds = _seeds(mine, others)
    if len(seeds) < FEWEST_SEEDS:
        ran = number_of(len(seeds), "seed")
        return Worth(arm.name, one.name, None, f"{ran} ran at every rung, {FEWEST_SEEDS} are needed")
    found = gain(_measured(others, seeds), _measured(mine, seeds), level=level)
    return Worth(arm.name, one.name, found, _doubt(found))


def _doubt(found: Gain) -> str:
    if found.p < LEAST_FIT:
        return f"their losses lie on no common law (p = {found.p:.2g}): the gain changes with compute"
    if found.factor.low == 0 or np.isinf(found.factor.high):
        return "these losses do not bound it: they fall too little with compute for their noise"
    return ""


def table(ladder: Ladder) -> Iterator[str]:
    """The ladder in lines of text: rungs, laws, gains."""
    rows = [("arm", "rung", "size", "FLOPs", "best rate", "loss", "seeds")]
    for name, rungs in ladder.rungs.items():
        for number, rung in enumerate(rungs, 1):
            loss = f"{np.mean(list(rung.losses.values())):.4f}"
            rows.append(
                (name, str(number), rung.size, f"{rung.flops:.3g}", f"{rung.rate:g}", loss, str(len(rung.losses)))
            )
    yield columns(rows)
    for name, law in ladder.laws.items():
        yield (
            f"{name}: L = E + A C^-a with E {_shown(law.floor)} and a {_shown(law.exponent)}; p of the fit {law.p:.2g}"
        )
    yield from (worth.sentence for worth in ladder.worths)


def as_data(ladder: Ladder) -> dict[str, Any]:
    """The ladder as JSON can say it; an infinite end of an interval is null."""

    def finite(numbers: Sequence[float]) -> list[float | None]:
        return [float(number) if np.isfinite(number) else None for number in numbers]

    return {
        "rungs": {name: [rung._asdict() for rung in rungs] for name, rungs in ladder.rungs.items()},
        "laws": {
            name: {"E": finite(law.floor), "A": law.amplitude, "a": finite(law.exponent), "p": law.p}
            for name, law in ladder.laws.items()
        },
        "gains": [
            {
                "arm": worth.arm,
                "versus": worth.versus,
                "gain": None if worth.gain is None else finite(worth.gain.factor),
                "withheld": worth.withheld,
            }
            for worth in ladder.worths
        ],
    }


def _shown(bounds: Sequence[float]) -> str:
    value, low, high = (f"{number:.3g}" for number in bounds)
    return f"{value} [{low}, {high}]"
