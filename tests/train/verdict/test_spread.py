"""What seeds that choose for each other do to the error of their mean."""

import itertools

import numpy as np
import pytest

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
    assert seen.away_S == pytest.approx([2 / 3 * 1.0, 2 / 3 * (2.25 - 2.5), 2 / 3 * (3 - 2.125)])
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


def best(left_SR):
    """One rate, that of the least mean."""
    return np.eye(left_SR.shape[1])[left_SR.mean(axis=0).argmin()]


@pytest.mark.parametrize("seeds", [4, 8])
def test_the_error_of_a_mean_is_told_where_rates_are_as_good_as_each_other(seeds):
    """Five rates, nothing but noise: what each seed says is fresh, yet their mean spreads more than theirs would."""
    rng, means, told, alone = np.random.default_rng(seeds), [], [], []
    for _ in range(1500):
        values_SR = rng.normal(size=(seeds, 5))
        said_SL = said(values_SR, lambda left, values_SR=values_SR: best(values_SR[left]))
        seen, own_S = spread(said_SL), np.diag(said_SL[:, :seeds])
        means.append(own_S.mean())
        told.append(np.sum(seen.away_S**2) / (seeds - 1) / seeds + (seeds - 1) / seeds * seen.mutual)
        alone.append(own_S.var(ddof=1) / seeds)
    assert np.mean(alone) < 0.6 * np.var(means)
    assert 0.9 < np.mean(told) / np.var(means) < 1.3


def test_what_is_not_known_is_left_out():
    values_SR = np.array([[1.0, np.nan], [2.0, 5.0], [3.0, 6.0], [4.0, 7.0]])
    assert weighed(values_SR, np.array([[0.5, 0.5], [0.0, 1.0]]))[0].tolist()[0] == 1.0
    seen = spread(said(values_SR, lambda left: [0.5, 0.5]))
    assert np.isfinite(seen.away_S).all() and seen.mutual == 0
    assert spread(np.zeros((1, 1))).mutual == spread(np.zeros((0, 0))).mutual == 0
