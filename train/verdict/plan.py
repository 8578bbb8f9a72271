"""How many seeds, and how much text, it takes: the chance to see a difference, from the spread that was seen and how
sure that is."""

import bisect
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import chdtri, ncfdtr

from train.verdict.estimate import LEVEL, Estimate, student
from train.verdict.number import number_of

POWER = 0.8  # the chance to see the difference
SURE = 0.8  # the chance that the spread lies where the range of seeds was taken from
MOST_SEEDS = 1000
TEXT_SHARE = 0.1  # of the variance that may come of the text: more windows lessen it at less cost than seeds do
SPREADS = 64  # that an average over what the spread may be is taken from

Critical = Callable[[float, float], float]  # (dof, level) -> half of an interval, in standard errors


class Needed(NamedTuple):
    """Seeds for each cell: if the spread is small, as it was seen, and if it is large; None is MOST_SEEDS or more."""

    few: int | None
    likely: int | None
    many: int | None

    def __str__(self) -> str:
        if self.few is None:
            return f"{MOST_SEEDS} seeds or more"
        many = f"more than {MOST_SEEDS}" if self.many is None else f"{self.many}"
        return number_of(self.few, "seed") if self.few == self.many else f"{self.few} to {many} seeds"


class Plan(NamedTuple):
    """What finds an effect: seeds for each cell, None for MOST_SEEDS or more; their range; windows of text."""

    seeds: int | None
    needed: Needed
    windows: int


def power(effect: float, error: float, dof: float, level: float = LEVEL) -> float:
    """The chance that a two-sided t test at `level` finds `effect`: t^2 is a noncentral F. Cohen 1988."""
    return float(_found(effect, np.array(error), dof, student(dof, level)))


def _found(effect: float, error: np.ndarray, dof: float, critical: float) -> np.ndarray:
    if math.isinf(critical):
        return np.zeros_like(error)
    squared = (effect / np.maximum(error, 1e-150)) ** 2
    missed = ncfdtr(1, dof, squared, critical**2)
    return np.where(np.isfinite(missed), 1 - missed, squared > critical**2)  # no number: beyond what it computes


def seeds_needed(
    estimate: Estimate, seeds: float, effect: float, level: float = LEVEL, *, critical: Critical = student
) -> Needed:
    """Seeds for each cell at which `effect` is found with POWER, if the error of `estimate` came of `seeds` seeds.

    The part of the error that comes of seeds falls as one over their root, that of the text stays; degrees of freedom
    grow with the seeds. The range is that of the spread's own uncertainty: its SURE interval by chi-square. critical:
    of the interval that will tell, as its degrees of freedom and `level` make it.
    """
    return _needed(estimate, seeds, effect, level, critical, lambda n: estimate.text)


def plan(
    estimate: Estimate,
    seeds: float,
    effect: float,
    level: float = LEVEL,
    *,
    windows: int,
    available: int,
    critical: Critical = student,
) -> Plan:
    """Seeds and windows at which `effect` is found with POWER on average over what the spread may be.

    estimate: of a pilot of `seeds` seeds a cell and `windows` windows, of which the held-out text has `available`. The
    spread that few seeds show is often too small by far, and one that is planned by as if it were known fails as often;
    given what they show, sigma^2 is as dof s^2 / chi^2(dof), and since s^2 / sigma^2 is a pivot the average over that
    is the one over pilots (assurance; O'Hagan, Stevens & Campbell 2005). Windows are as many as leave TEXT_SHARE of the
    variance to the text, or all there are.
    """
    own = estimate.error**2 * seeds
    floor = min(estimate.text, estimate.text * windows / available)

    def text(n: int) -> float:
        return min(max(own / n * TEXT_SHARE / (1 - TEXT_SHARE), floor), estimate.text)

    middles, dof = (np.arange(SPREADS) + 0.5) / SPREADS, estimate.unbiased_dof
    spreads = own * dof / chdtri(dof, middles)
    found = _least(spreads, estimate, seeds, effect, level, critical, text)
    least = text(found) if found else floor
    wanted = windows if estimate.text == 0 else math.ceil(windows * estimate.text / least - 1e-9)
    needed = _needed(estimate, seeds, effect, level, critical, text)
    return Plan(found, needed, min(max(wanted, windows), max(available, windows)))


def _needed(
    estimate: Estimate, seeds: float, effect: float, level: float, critical: Critical, text: Callable[[int], float]
) -> Needed:
    own = estimate.error**2 * seeds
    dof = estimate.unbiased_dof
    few, many = (dof / float(chdtri(dof, tail)) for tail in ((1 - SURE) / 2, (1 + SURE) / 2))
    few_likely_many = (np.array([own * times]) for times in (few, 1.0, many))
    return Needed(*(_least(each, estimate, seeds, effect, level, critical, text) for each in few_likely_many))


def _least(
    spreads: np.ndarray,
    estimate: Estimate,
    seeds: float,
    effect: float,
    level: float,
    critical: Critical,
    text: Callable[[int], float],
) -> int | None:
    """The fewest seeds that find it with POWER on average over these variances of one seed; text: its variance."""

    def enough(n: int) -> bool:
        dof = estimate.unbiased_dof * (n - 1) / (seeds - 1)
        found = _found(effect, np.sqrt(spreads / n + text(n)), dof, critical(dof, level))
        return float(found.sum()) >= POWER * len(spreads)

    sizes = range(2, MOST_SEEDS)
    least = bisect.bisect_left(sizes, True, key=enough)
    return sizes[least] if least < len(sizes) else None
