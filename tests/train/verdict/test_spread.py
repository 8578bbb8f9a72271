"""What seeds that choose for each other do to the error of their mean."""

import itertools
import math

import numpy as np
import pytest

from tests.train.verdict.simulated import run
from train.verdict.choice import Choice, but_one_or_two
from train.verdict.spread import spread, weighed


def said(values_SR: np.ndarray, votes) -> np.ndarray:
    """What each seed says where those that are left choose by `votes`, a share of each rate."""
    seeds = range(len(values_SR))
    sets = [*((s,) for s in seeds), *itertools.combinations(seeds, 2)]
    return weighed(values_SR, np.array([votes([s for s in seeds if s not in each]) for each in sets]))


def test_where_the_choice_is_clear_it_is_the_sample_variance(rng=np.random.default_rng(0)):
    values_SR = rng.normal(size=(6, 3))
    seen = spread(said(values_SR, lambda left: [0, 1, 0]))
    assert seen.away_S == pytest.approx(values_SR[:, 1] - values_SR[:, 1].mean())
    assert seen.mutual == 0


def test_three_seeds_that_choose_alone_by_hand():
    """Rates A and B. Seed 0 votes for B, 1 and 2 for A."""
    values_SR = np.array([[3.0, 1.0], [2.0, 2.5], [2.0, 4.0]])
    votes = {0: (0.0, 1.0), 1: (1.0, 0.0), 2: (1.0, 0.0)}
    seen = spread(said(values_SR, lambda left: np.mean([votes[s] for s in left], axis=0)))
    # Seed 0 at A: 3 against 2 and 2. Seeds 1 and 2 at the mean of A and B, where all say 2, 2.25 and 3.
    away_S = np.array([1.0, 2.25 - 2.5, 3 - 2.125]) * 2 / 3
    assert seen.away_S == pytest.approx(away_S - away_S.mean())
    changes = {  # of what all say: where the second seed of a pair chooses for the first, and the first for the second
        (0, 1): ([0, 0, 0], [-1, 0.25, 1]),  # 2 alone: A. With 1: A. With 0: half of B.
        (0, 2): ([0, 0, 0], [-1, 0.25, 1]),
        (1, 2): ([1, -0.25, -1], [1, -0.25, -1]),  # 0 alone: B. With either: half of A.
    }
    mutual = []
    for (s, t), (x, y) in changes.items():
        (u,) = {0, 1, 2} - {s, t}
        mutual.append((x[s] - x[u]) * (y[t] - y[u]) - np.cov(x, y)[0, 1])
    assert seen.mutual == pytest.approx(max(0.0, np.mean(mutual)))


def drawn(rng: np.random.Generator, seeds: int, curve: np.ndarray) -> np.ndarray:
    """What seeds say [S, L] at the rates that others vote for, of losses that are noise on a curve."""
    noise_SR = curve + rng.normal(size=(seeds, len(curve)))
    losses = {(s, r): noise_SR[s, r] for s in range(seeds) for r in range(len(curve))}
    choice = Choice([run(loss, lr=r, seed=s) for (s, r), loss in losses.items()], ("lr",))
    shares_LR = choice.votes(but_one_or_two(range(seeds)))
    return weighed((noise_SR - curve)[:, [r for (r,) in choice.tried]], shares_LR)


@pytest.mark.parametrize("curve", [np.zeros(5), 0.5 * np.arange(5)], ids=["flat", "rising"])
@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_the_error_of_a_mean_is_told_where_rates_are_close(seeds, curve):
    """What each seed says is fresh noise, yet their mean spreads more than theirs would if they had chosen nothing."""
    rng, means, told, alone, away = np.random.default_rng(seeds), [], [], [], []
    for _ in range(500):
        said_SL = drawn(rng, seeds, curve)
        seen, own_S = spread(said_SL), np.diag(said_SL[:, :seeds])
        means.append(own_S.mean())
        told.append(np.sum(seen.away_S**2) / (seeds - 1) / seeds + (seeds - 1) / seeds * seen.mutual)
        alone.append(own_S.var(ddof=1) / seeds)
        away.append(seen.away_S.mean())
    assert abs(np.mean(means)) < 4 * np.std(means) / math.sqrt(500)
    assert 0.85 < np.mean(told) / np.var(means) < 1.4  # more than 1: a covariance that is told as less than 0 is none
    assert np.mean(alone) < 0.85 * np.mean(told)
    assert np.allclose(away, 0)


def test_what_is_not_known_is_left_out():
    values_SR = np.array([[1.0, np.nan], [2.0, 5.0], [3.0, 6.0], [4.0, 7.0]])
    assert weighed(values_SR, np.array([[0.5, 0.5], [0.0, 1.0]]))[0].tolist()[0] == 1.0
    seen = spread(said(values_SR, lambda left: [0.5, 0.5]))
    assert np.isfinite(seen.away_S).all() and seen.mutual == 0
    assert spread(np.zeros((1, 1))).mutual == spread(np.zeros((0, 0))).mutual == 0
