"""What the seeds of an arm say in one cell, each judged at rates that the others chose."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from train.verdict.choice import Choice, Rates, but_one_or_two
from train.verdict.measures import Read, Reading, Readings, Side
from train.verdict.spread import weighed


class Said:
    """A measure of an arm. S: seeds, R: rates, L: choices."""

    def __init__(self, read: Read, side: Side, choice: Choice) -> None:
        self.choice = choice
        self._at = cache(lambda rates: read(side, rates))

    def readings(self, seeds: Sequence[int]) -> Readings:
        """Of the seeds that say something: a mean over what the other seeds vote for."""
        shares_SR = self.choice.votes([(seed,) for seed in seeds])
        mixed = {seed: _mixed(self._parts(seed, shares_R)) for seed, shares_R in zip(seeds, shares_SR, strict=True)}
        return {seed: reading for seed, reading in mixed.items() if reading is not None}

    def whole(self, seeds: Sequence[int]) -> Readings:
        """The same, at the rates that all other seeds choose: for what is counted, and has no mean."""
        places = zip(seeds, self.choice.without([(seed,) for seed in seeds]), strict=True)
        return {seed: self._at(rates)[seed] for seed, rates in places if seed in self._at(rates)}

    def without(self, seeds: Sequence[int]) -> np.ndarray:
        """What each of some seeds says [S, L] where each one, then each two of them have no voice."""
        shares_LR = self.choice.votes(but_one_or_two(seeds))
        values_SR = np.full((len(seeds), len(self.choice.tried)), math.nan)
        for place in np.flatnonzero(shares_LR.any(axis=0)):
            told = self._at(self.choice.tried[place])
            values_SR[:, place] = [told[seed].value if seed in told else math.nan for seed in seeds]
        return weighed(values_SR, shares_LR)

    def _parts(self, seed: int, shares_R: np.ndarray) -> list[tuple[float, Reading]]:
        """What a seed says, with its share, at each rate that is chosen and at which it says something."""
        picked: list[tuple[float, Rates]] = [
            (float(s), r) for s, r in zip(shares_R, self.choice.tried, strict=True) if s
        ]
        return [(share, self._at(rates)[seed]) for share, rates in picked if seed in self._at(rates)]


def _mixed(parts: Sequence[tuple[float, Reading]]) -> Reading | None:
    """The mean of some readings by their shares; where there are none, None."""
    if len(parts) < 2:
        return parts[0][1] if parts else None
    shares = np.array([share for share, _ in parts])
    told = [reading for _, reading in parts]
    windows = [reading.windows for reading in told if reading.windows is not None]
    alike = len(windows) == len(told) and len({each.size for each in windows}) == 1
    return Reading(
        float(np.average([reading.value for reading in told], weights=shares)),
        np.average(windows, axis=0, weights=shares) if alike else None,
        bound=any(reading.bound for reading in told),
        rung=max(reading.rung for reading in told),
    )
