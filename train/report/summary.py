"""What stands on the first screen of a report: the question, and its answer in one to three sentences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.report.arms import Sweep
from train.verdict.claims import Claim
from train.verdict.number import number_of
from train.verdict.outcome import OUTCOMES
from train.verdict.question import MEASURES, RATES, SEED, Question, arms_of, label, values_of
from train.verdict.runs import Result
from train.verdict.words import phrase

MOST_PAIRS = 3  # that are answered on the first screen; the table below has all
MOST_NAMES = 4  # of arms or values in a title
MADE = ("better", "same")


@dataclass(frozen=True, slots=True)
class Summary:
    """title: the question. asked: what it is asked across, and in which measures. answers: a sentence for each pair of
    what is compared. scope: how many runs of which size, and how they ended."""

    title: str
    asked: str
    answers: list[str]
    scope: str


def summary_of(sweep: Sweep, said: Sequence[Claim], name: str) -> Summary:
    """The first screen of a sweep's report. name: of its folder."""
    scope = _scope(sweep.results)
    if sweep.question is None:
        return Summary(name, "", ["Nothing was compared: only seeds differ."], scope)
    cells = [result["args"] for result in sweep.results]
    return Summary(
        _title(sweep.question, cells), _asked(sweep.question, cells), _answers(said, sweep.question.across), scope
    )


def _title(question: Question, cells: Sequence[Mapping[str, Any]]) -> str:
    """Like "Which is better: pre or post, rms or layer?"."""
    choices = [[label(name, value) for value in values_of(cells, name)] for name in question.compare]
    arms = [arm.name for arm in arms_of(cells, question)]
    if len(arms) <= max(map(len, choices)):  # settings that change together
        choices = [arms]
    what = {"failure": "Which fails less often", "largest rate": "Which works at larger learning rates"}
    asks = "Which is better" if len(question.measure) > 1 else what.get(question.measure[0], "Which is better")
    return f"{asks}: {', '.join(map(_or, choices))}?"


def _or(names: Sequence[str]) -> str:
    shown = list(names[:MOST_NAMES]) + [f"{len(names) - MOST_NAMES} more"] * (len(names) > MOST_NAMES)
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _asked(question: Question, cells: Sequence[Mapping[str, Any]]) -> str:
    across = "; ".join(
        f"{name} {', '.join(map(str, sorted(values_of(cells, name), key=_order)))}" for name in question.across
    )
    tuned = " and ".join({"lr": "learning rate"}.get(name, name) for name in question.tune)
    several = bool(question.tune) and any(len(values_of(cells, name)) > 1 for name in question.tune)
    at = f" {RATES[question.at].format(tune=tuned)}" if several else ""
    measured = ", ".join(MEASURES[name].what for name in question.measure)
    compared = f"{', '.join(question.compare)} compared{f' across {across}' if across else ''}{at}, by {measured}."
    return f"{compared[:1].upper()}{compared[1:]} An arm is one combination of what is compared."


def _order(value: Any) -> tuple[bool, Any]:
    return (True, value) if isinstance(value, int | float) else (False, str(value))


def _answers(said: Sequence[Claim], across: Sequence[str]) -> list[str]:
    """For each two that are compared, surest first: what is claimed of them, or that nothing can be."""
    pairs: dict[tuple[str, str], list[Claim]] = {}
    for claim in said:
        if claim.kind == "effect":
            pairs.setdefault((claim.first, claim.second), []).append(claim)
    told = sorted(pairs.values(), key=lambda claims: min((c.p for c in claims if c.answer in MADE), default=2.0))
    lines = [_of_pair(claims, across) for claims in told[:MOST_PAIRS]]
    return [*lines, *[f"{len(told) - MOST_PAIRS} more pairs stand in the table."] * (len(told) > MOST_PAIRS)]


def _of_pair(claims: Sequence[Claim], across: Sequence[str]) -> str:
    """One sentence of two: what is better or the same in which measure, else that they cannot be told apart."""
    made = [claim for claim in claims if claim.answer in MADE]
    left = [claim for claim in claims if claim.answer == "open" and claim.measure == "loss"]
    shown = [*made, *left] or claims[:1]
    parts = max((claim.where for claim in shown), key=len).split("; ")
    where = "; ".join(part for part in parts if part.split(" ")[0] in across)
    pair = f"{shown[0].first} against {shown[0].second}"
    return f"{pair}: {'; '.join(map(phrase, shown))}{f' ({where})' if where else ''}."


def _scope(results: Sequence[Result]) -> str:
    """How many runs, how large, how long, and how they ended."""
    counts = Counter(r["outcome"] for r in results)
    ended = ", ".join(f"{counts[name]} {name}" for name in reversed(OUTCOMES) if counts[name])
    seeds = max(Counter(repr([each for each in r["args"].items() if each[0] != SEED]) for r in results).values())
    sizes = _range([r["params"] for r in results], "parameters")
    whole = [r for r in results if not r.get("stopped")] or results
    steps = _range([len(r["loss"]) * r["loss_every"] for r in whole], "steps")
    tokens = _range([r["tokens"] for r in whole], "tokens")
    many = f"up to {seeds} seeds a cell" if seeds > 1 else "one seed a cell"
    told = f"{number_of(len(results), 'run')}, {many}, of {sizes}; {steps} or {tokens} each: {ended}."
    return f"{told} All intervals hold together with 95 %."


def _range(values: Sequence[int], unit: str) -> str:
    low, high = min(values), max(values)
    return f"{low:,} {unit}" if low == high else f"{low:,} to {high:,} {unit}"
