"""Which rates an arm is judged at, and who chooses them: for a seed the other seeds, two thirds of them at a time.

The best of several noisy numbers looks better than it is, so no run is judged where it chose. What is chosen is the
rate of the least mean loss of the runs that are alive, among those at which at least half of the seeds are: no mean is
over dead runs. Where rates cannot be told apart a single choice hangs on noise. So each two thirds of the other seeds
have a vote, and a seed is judged by the mean over what they vote for (bagging; Breiman 1996): one rate where that is
clear. Fewer seeds to a vote would agree less: the mean would spread less, and be of worse rates.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np

from train.verdict.outcome import FAILED
from train.verdict.runs import Result, by, loss_of

Rates = tuple  # values of the tuned settings
MOST_VOTES, MOST_PAIRS = 20, 200  # all that there are of 20 seeds; more would cost their square and tell little


class Choice:
    """The values of the tuned settings that are best, by all seeds but some: a table, made once and asked often.

    R: rates in order of appearance. S: seeds. L: sets of seeds that are left out, and K of seeds that choose.
    """

    def __init__(self, runs: Sequence[Result], tune: Sequence[str]) -> None:
        groups = by(runs, *tune)
        self.tried: list[Rates] = list(groups)
        self.seeds = sorted({r["args"]["seed"] for r in runs})
        row, column = ({name: i for i, name in enumerate(names)} for names in (self.tried, self.seeds))
        place = [row[rates] * len(column) + column[r["args"]["seed"]] for rates in row for r in groups[rates]]
        told = [(0.0, 0.0) if r["outcome"] in FAILED else (1.0, loss_of(r)) for g in groups.values() for r in g]
        lives, losses = zip(*told, strict=True)
        sums = [np.bincount(place, weights, len(row) * len(column)) for weights in (None, lives, losses)]
        self.count_alive_loss_RS = np.array(sums).reshape(3, len(row), len(column))

    @cached_property
    def rates(self) -> Rates:
        """What all seeds choose."""
        return self.without([()])[0]

    def without(self, left_out: Sequence[Collection[int]]) -> list[Rates]:
        """What all seeds but those of each set choose; who leaves all out leaves none out."""
        kept_LS = self._kept(left_out)
        return [self.tried[best] for best in self._best(kept_LS, self._usable(kept_LS))]

    def votes(self, left_out: Sequence[Collection[int]]) -> np.ndarray:
        """The share of votes for each rate [L, R], by all seeds but those of each set.

        All that choose say which rates are usable. They stand on a circle, and every two thirds that stand together
        have a vote, unless others know more: whose runs live at a usable rate, or else at any.
        """
        if not left_out:
            return np.zeros((0, len(self.tried)))
        kept_LS = self._kept(left_out)
        parties = [_parties(kept_S) for kept_S in kept_LS]
        parties_KS = np.concatenate(parties)
        of_L = np.repeat(np.arange(len(parties)), [len(each) for each in parties])
        alive_KR = np.einsum("ks,rs->kr", parties_KS, self.count_alive_loss_RS[1]) > 0
        known_KR = self._usable(kept_LS)[of_L] & alive_KR
        knows_K = known_KR.any(axis=1).astype(int) + alive_KR.any(axis=1)
        most_L = np.zeros(len(parties), int)
        np.maximum.at(most_L, of_L, knows_K)
        votes_K = knows_K == most_L[of_L]
        votes_LR = np.zeros((len(parties), len(self.tried)))
        np.add.at(votes_LR, (of_L[votes_K], self._best(parties_KS[votes_K], known_KR[votes_K])), 1.0)
        return votes_LR / votes_LR.sum(axis=1, keepdims=True)

    def _kept(self, left_out: Sequence[Collection[int]]) -> np.ndarray:
        kept_LS = np.ones((len(left_out), len(self.seeds)))
        for kept_S, seeds in zip(kept_LS, left_out, strict=True):
            kept_S[[place for place, seed in enumerate(self.seeds) if seed in seeds]] = 0
        kept_LS[~kept_LS.any(axis=1)] = 1
        return kept_LS

    def _usable(self, chooses_KS: np.ndarray) -> np.ndarray:
        """At which rates at least half of the runs of each set of seeds are alive [K, R]."""
        count_KR, alive_KR = np.einsum("ks,crs->ckr", chooses_KS, self.count_alive_loss_RS[:2])
        return (count_KR > 0) & (2 * alive_KR >= count_KR)

    def _best(self, chooses_KS: np.ndarray, usable_KR: np.ndarray) -> np.ndarray:
        """The place of what each set of seeds chooses [K], among rates that are usable.

        Where none is: the one with most runs alive, of those the one of their least mean loss; where nothing lives the
        smallest, with which training is calmest.
        """
        # einsum sums every row alike, so that rates that are equal to the bit stay equal; BLAS need not.
        count_KR, alive_KR, loss_KR = np.einsum("ks,crs->ckr", chooses_KS, self.count_alive_loss_RS)
        mean_KR = (loss_KR - self._lead(chooses_KS)) / np.maximum(alive_KR, 1)
        best_K = np.argmin(np.where(usable_KR, mean_KR, np.inf), axis=1)
        bad_K = ~usable_KR.any(axis=1)
        if bad_K.any():
            calmest_first = sorted(range(len(self.tried)), key=self.tried.__getitem__)
            count_KR, alive_KR, mean_KR = (each[bad_K][:, calmest_first] for each in (count_KR, alive_KR, mean_KR))
            alive_KR = np.where(count_KR > 0, alive_KR, -1)
            most_KR = alive_KR == alive_KR.max(axis=1, keepdims=True)
            best_K[bad_K] = np.array(calmest_first)[np.argmin(np.where(most_KR, mean_KR, np.inf), axis=1)]
        return best_K

    def _lead(self, chooses_KS: np.ndarray) -> np.ndarray:
        """By how much runs that live at a rate differ from others for being of their seeds, summed [K, R]: rates that a
        race stopped, or at which some failed, are not compared by the luck of their seeds.

        What a seed is ahead or behind is told by the rates at which all runs of all that choose live; 0 where none is.
        """
        count_RS, alive_RS, loss_RS = self.count_alive_loss_RS
        lives_RS = (count_RS > 0) & (alive_RS == count_RS)
        whole_KR = np.einsum("ks,rs->kr", chooses_KS, ~lives_RS) == 0
        if whole_KR.all() or not whole_KR.any():
            return np.zeros_like(whole_KR, float)
        level_RS = loss_RS / np.maximum(alive_RS, 1)
        ahead_KS = np.einsum("kr,rs->ks", whole_KR, level_RS) / np.maximum(whole_KR.sum(axis=1, keepdims=True), 1)
        ahead_KS -= (chooses_KS * ahead_KS).sum(axis=1, keepdims=True) / chooses_KS.sum(axis=1, keepdims=True)
        return np.where(whole_KR, 0.0, np.einsum("ks,rs,ks->kr", chooses_KS, alive_RS, ahead_KS))


def _parties(kept_S: np.ndarray) -> np.ndarray:
    """Two thirds, rounded up, of the seeds that are kept [K, S]: each run of neighbours on a circle, of many some."""
    (seeds,) = np.nonzero(kept_S)
    n, count = len(seeds), min(len(seeds), MOST_VOTES)
    together = np.add.outer(np.arange(count) * n // count, np.arange(math.ceil(2 * n / 3))) % n
    parties_KS = np.zeros((count, len(kept_S)))
    parties_KS[np.arange(count)[:, None], seeds[together]] = 1
    return parties_KS


def chosen(runs: Sequence[Result], tune: Sequence[str]) -> Rates:
    """The values of the tuned settings that are best by all seeds."""
    return Choice(runs, tune).rates


def at_best(runs: Sequence[Result], tune: Sequence[str], *, choice: Choice | None = None) -> dict[int, Result]:
    """The run of each seed at the rates that all others choose; a seed that has none there is left out.

    choice: of the runs that choose, where they are not these alone: those of both arms choose one rate for both.
    """
    choice = Choice(runs, tune) if choice is None else choice
    places = {(r["args"]["seed"], *map(r["args"].get, tune)): r for r in runs}
    seeds = sorted({r["args"]["seed"] for r in runs})
    picked = {seed: places.get((seed, *rates)) for seed, rates in
              zip(seeds, choice.without([(seed,) for seed in seeds]), strict=True)}  # fmt: skip
    return {seed: run for seed, run in picked.items() if run is not None}


def but_one_or_two(seeds: Sequence[int]) -> list[tuple[int, ...]]:
    """Each seed alone, then pairs: who is left out of a choice to judge them."""
    return [*((seed,) for seed in seeds), *((seeds[s], seeds[t]) for s, t in pairs_among(len(seeds)))]


def pairs_among(n: int) -> list[tuple[int, int]]:
    """Places of each two of n seeds; of very many seeds the pairs of those that stand close on a circle."""
    if n * (n - 1) // 2 <= MOST_PAIRS:
        return list(itertools.combinations(range(n), 2))
    return [(s, (s + apart) % n) for apart in range(1, max(1, MOST_PAIRS // n) + 1) for s in range(n)]


def alive(runs: Sequence[Result]) -> list[Result]:
    """Those that neither stuck nor diverged: slow ones too, whose loss is a loss."""
    return [r for r in runs if r["outcome"] not in FAILED]


def is_usable(runs: Sequence[Result]) -> bool:
    """Is at least half of them alive?"""
    return 2 * len(alive(runs)) >= len(runs) > 0
