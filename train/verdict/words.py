"""Claims in words: one sentence each, with the numbers that it rests on."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from train.verdict.claims import Claim


class Words(NamedTuple):
    """How a measure is spoken of. said: a difference with its unit, or a ratio where numbers are logarithms.

    more, fewer: what the first arm is, beside the second, where its number is the larger or the smaller one.
    """

    noun: str
    more: str
    fewer: str
    said: Callable[[float], str]


def _nats(value: float) -> str:
    return f"{value:.3f} nats"


def _octaves(value: float) -> str:
    return f"{value:.1f} octaves"


def _times(value: float) -> str:
    return f"{2**value:.3g} times"


WORDS = {
    "loss": Words("loss", "worse", "better", _nats),
    "failure": Words("share of runs that fail", "fails more often", "fails less often", lambda v: f"{v:.2f}"),
    "largest rate": Words(
        "largest usable learning rate", "works at larger learning rates", "works at smaller learning rates only", _times
    ),
    "usable range": Words(
        "usable range of learning rates",
        "has a wider range of usable learning rates",
        "has a narrower range of usable learning rates",
        _octaves,
    ),
    "lr sensitivity": Words(
        "LR sensitivity", "more sensitive to the learning rate", "less sensitive to the learning rate", _nats
    ),
    "depth reach": Words("depth reach", "reaches larger depths", "reaches smaller depths only", _times),
    "growth": Words("growth exponent of the stream", "grows faster", "grows more slowly", lambda v: f"{v:.2f}"),
    "seconds": Words("time of a step", "slower", "faster", _times),
    "bytes": Words("cache of a token", "larger", "smaller", _times),
}


def sentence(claim: Claim) -> str:
    """What is claimed: "pre is better than post: loss lower by 0.470 nats [0.412, 0.534]", or why nothing is."""
    if claim.answer == "withheld":
        return f"withheld: {claim.reason}"
    words, axis = WORDS[claim.measure], f" with each {claim.axis}" if claim.axis.startswith("doubling") else ""
    if claim.axis and not axis:
        axis = f" with {claim.axis}"
    subject = f"{words.noun} of {claim.first}" + (f" against {claim.second}" if claim.second else "")
    if claim.measure == "failure":
        said = _of_failures(claim)
    elif claim.answer == "same" and claim.axis:
        said = f"{subject} stays the same{axis}, within {_margin(claim)}"
    elif claim.answer == "same":
        said = f"{claim.first} and {claim.second} are the same in {words.noun}, within {_margin(claim)}"
    elif claim.answer == "open" and claim.axis:
        said = f"it is not clear whether {subject} changes{axis}"
    elif claim.answer == "open":
        said = f"{claim.first} and {claim.second} are not separable in {words.noun}"
    elif claim.axis:
        said = f"{subject} {'rises' if claim.value > 0 else 'falls'}{axis}"
    else:
        said = f"{claim.first} {_is(words.more if claim.value > 0 else words.fewer)} than {claim.second}"
    return f"{said}: {interval(claim)}" + _seeds(claim) + _edge(claim)


def phrase(claim: Claim) -> str:
    """What is claimed of the first of two, who are named before: "better by 0.160 nats [0.009, 0.311]"."""
    words = WORDS[claim.measure]
    if claim.answer == "withheld":
        return f"{words.noun} withheld, {claim.reason}"
    if claim.measure == "failure":
        assert claim.counts is not None
        c = claim.counts
        told = f"{c.first} of {c.of_first} runs against {c.second} of {c.of_second}"
        plain = {"same": "fails equally often", "open": "not separable in how often it fails"}
        return f"{plain.get(claim.answer, words.more if claim.value > 0 else words.fewer)}, {told}"
    if claim.answer == "same":
        return f"the same in {words.noun} within {_margin(claim)}, {interval(claim)}"
    if claim.answer == "open":
        return f"not separable in {words.noun}, {interval(claim)}"
    how = words.more if claim.value > 0 else words.fewer
    if words.said is _times or claim.value > 0:
        return f"{how}{',' if words.said is _times else ' by'} {interval(claim)}"
    return f"{how} by {interval(replace(claim, value=-claim.value, low=-claim.high, high=-claim.low))}"


def interval(claim: Claim) -> str:
    """The difference and its interval: "-0.470 nats [-0.534, -0.412]"."""
    said = WORDS[claim.measure].said
    if not math.isfinite(claim.low):
        return f"{said(claim.value)}, and too few seeds for an interval that holds for looking again"
    number, _, unit = said(claim.value).partition(" ")
    low, high = (said(end).partition(" ")[0] for end in (claim.low, claim.high))
    return f"{number}{' ' * bool(unit)}{unit} [{low}, {high}]"


def _of_failures(claim: Claim) -> str:
    assert claim.counts is not None
    c = claim.counts
    told = f"{c.first} of {c.of_first} runs against {c.second} of {c.of_second}"
    if claim.answer == "better":
        return f"{claim.first} {'fails more' if claim.value > 0 else 'fails less'} often than {claim.second}, {told}"
    if claim.answer == "same":
        return f"{claim.first} and {claim.second} fail equally often within {claim.smallest:g}, {told}"
    return f"{claim.first} and {claim.second} are not separable in how often they fail, {told}"


def _is(words: str) -> str:
    return words if words.split()[0] in ("fails", "works", "has", "reaches", "grows") else f"is {words}"


def _margin(claim: Claim) -> str:
    said = WORDS[claim.measure].said
    return f"a factor of {2**claim.smallest:.3g}" if said is _times else said(claim.smallest)


def _seeds(claim: Claim) -> str:
    if claim.answer != "open" or claim.needed is None:
        return ""
    return f"; {claim.needed} a cell would show {_margin(claim)}"


def _edge(claim: Claim) -> str:
    return "; some runs end on the grid's edge: these are bounds" if claim.bound else ""
