"""Is A better than B? One answer for scripts, from the claims that two arms allow.

Losses of what works and how often arms fail are two claims. The answer is "better" or "worse" where one of them says so
and none the other, "same" where losses are the same and no arm fails more often, and "neither" where it cannot be told.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from train.verdict.cells import budgets_apart
from train.verdict.claims import Claim, claims
from train.verdict.question import SEED, Question, varying
from train.verdict.runs import Result

ANSWERS = {"better": 0, "worse": 1, "neither": 2, "same": 3}  # with their exit codes
SIDE = "judged"  # the setting that tells the two arms apart


class Judged(NamedTuple):
    """The answer, about the first arm, and the claims it follows from."""

    answer: str
    claims: list[Claim]


def asked(first: Sequence[Result], second: Sequence[Result], smallest: float) -> tuple[list[dict[str, Any]], Question]:
    """The runs of two arms as one sweep, and its question: what differs between the arms makes the arms.

    Raises ValueError where the arms differ in nothing but seeds, read other text, or had other budgets.
    """
    texts = [{r["corpus"]["sha256"] for r in side} for side in (first, second)]
    if len(texts[0] | texts[1]) > 1:
        raise ValueError("the arms read other text: losses on two texts cannot be compared; give runs on one")
    if unequal := budgets_apart((first, second)):
        raise ValueError(f"{unequal}; give arms of equal ones")
    apart = differ(first, second)
    if not apart:
        raise ValueError(
            "the arms differ in nothing but seeds: neither can be better; give two that differ in a setting"
        )
    sides = zip(("A", "B"), (first, second), strict=True)
    runs = [{**r, "args": {**r["args"], SIDE: name}} for name, side in sides for r in side]
    shared = [name for name in varying([r["args"] for r in runs]) if name not in (*apart, SEED, SIDE)]
    tune = tuple(name for name in shared if name == "lr")
    across = tuple(name for name in shared if name not in tune)
    at = "best rate" if tune else "the same rate"
    kept = [{**r, "args": {name: v for name, v in r["args"].items() if name not in apart}} for r in runs]
    return kept, Question(compare=(SIDE,), across=across, tune=tune, at=at, smallest=smallest)


def differ(first: Sequence[Result], second: Sequence[Result]) -> tuple[str, ...]:
    """The settings in which two arms differ, beside seeds."""
    own = [_values(side) for side in (first, second)]
    return tuple(name for name in own[0] | own[1] if own[0].get(name) != own[1].get(name) and name != SEED)


def _values(runs: Sequence[Result]) -> dict[str, set[str]]:
    """What each setting is in some run."""
    return {name: {repr(r["args"].get(name)) for r in runs} for name in {name for r in runs for name in r["args"]}}


def judge(runs: Sequence[Result], question: Question, *, looks: int = 0) -> Judged:
    """The answer for what `asked` gave."""
    said = [claim for claim in claims(runs, question, looks=looks) if claim.kind == "effect"]
    votes = {claim.measure: _vote(claim) for claim in said}
    loss, failure = votes.get("loss", "neither"), votes.get("failure", "same")
    decided = {vote for vote in (loss, failure) if vote in ("better", "worse")}
    if len(decided) == 1:
        return Judged(decided.pop(), said)
    return Judged("same" if not decided and loss == failure == "same" else "neither", said)


def _vote(claim: Claim) -> str:
    """What a claim says of the first arm: of losses and of failures fewer are better."""
    if claim.answer == "better":
        return "better" if claim.value < 0 else "worse"
    return "same" if claim.answer == "same" else "neither"
