"""Which rate an arm is judged at, by hand: what all seeds choose, and what the others vote for."""

import itertools
import math

import numpy as np
import pytest

from tests.train.verdict.simulated import RATES, run, sweep
from train.verdict.cells import alone
from train.verdict.choice import Choice, at_best, but_one_or_two, chosen, pairs_among

TUNE = ("lr",)


def runs_of(losses: dict[float, tuple[float, ...]]) -> list[dict]:
    """Of each rate the losses of seeds 0, 1, …"""
    return [run(loss, lr=lr, seed=seed) for lr, each in losses.items() for seed, loss in enumerate(each)]


def said(runs: list[dict]) -> dict[int, float]:
    return {seed: reading.value for seed, reading in alone("loss", runs, runs, TUNE).first.items()}


def test_a_planted_bowl_gives_back_its_best_rate():
    assert chosen(sweep(), TUNE) == (0.01,)


def test_a_seed_is_judged_at_the_mean_over_what_the_other_seeds_vote_for():
    """Of three others each two have a vote, and 0.03 has those in which seed 0 is."""
    runs = runs_of({0.01: (2.5, 2.6, 2.55, 2.5), 0.03: (2.1, 2.7, 2.75, 2.6)})
    assert said(runs) == pytest.approx(
        {0: 2.5, 1: (2.6 + 2 * 2.7) / 3, 2: (2.55 + 2 * 2.75) / 3, 3: (2.5 + 2 * 2.6) / 3}
    )


def test_votes_without_one_and_without_two_by_hand():
    """Both of two others vote together, and one for itself."""
    choice = Choice(runs_of({0.01: (2.5, 2.6, 2.55), 0.03: (2.1, 2.7, 2.75)}), TUNE)
    assert choice.votes(but_one_or_two(range(3))).tolist() == [
        [1, 0], [0, 1], [0, 1],  # but one
        [1, 0], [1, 0], [0, 1],  # but two
    ]  # fmt: skip


def test_who_votes_together_are_neighbours_on_a_circle_of_those_that_choose():
    """Of seeds 0, 1, 3, 4 without seed 2 three stand together four times: 013, 134, 340 and 401."""
    told = {0: 0, 1: 6, 2: 9, 3: 1, 4: -5}  # how much 0.03 is better
    runs = runs_of({0.01: (0,) * 5, 0.03: tuple(-told[seed] for seed in range(5))})
    assert Choice(runs, TUNE).votes([(2,)]).tolist() == [[0.25, 0.75]]  # 340 are for 0.01


def test_where_the_choice_is_clear_a_seed_is_judged_at_one_rate():
    runs = sweep(noise=1e-4)
    assert said(runs) == {r["args"]["seed"]: r["val_loss"] for r in runs if r["args"]["lr"] == 0.01}


def test_no_run_is_judged_where_its_own_seed_chose():
    """A seed whose loss at one rate is as low as can be is judged elsewhere, with any number of seeds."""
    for seeds in range(3, 9):
        losses = {lr: np.full(seeds, 2.5 + 0.1 * (lr != 0.01)) for lr in RATES}
        losses[0.1][seeds - 1] = 0.0
        lucky = said(runs_of({lr: tuple(each) for lr, each in losses.items()}))
        assert lucky[seeds - 1] == 2.5


def test_counted_measures_are_read_at_the_rates_that_all_others_choose():
    runs = runs_of({0.01: (2.5, 2.6, 2.55), 0.03: (2.3, 2.7, 2.7)})
    assert {seed: r["args"]["lr"] for seed, r in at_best(runs, TUNE).items()} == {0: 0.01, 1: 0.03, 2: 0.03}


def test_the_best_rate_is_one_at_which_half_of_the_seeds_work_by_the_loss_of_those():
    runs = [run(2.0, lr=0.03, seed=0), run(3.3, "stuck", lr=0.03, seed=1), run(3.3, "stuck", lr=0.03, seed=2)]
    runs += [run(2.4, lr=0.01, seed=0), run(2.4, lr=0.01, seed=1), run(3.3, "stuck", lr=0.01, seed=2)]
    runs += [run(2.5, lr=0.003, seed=seed) for seed in range(3)]
    assert chosen(runs, TUNE) == (0.01,)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_who_leaves_seeds_out_chooses_as_if_they_had_never_run(share, rng=np.random.default_rng(0)):
    fails = lambda cell: rng.random() < share  # noqa: E731
    for key in range(10):
        runs = [r for r in sweep(noise=0.3, key=key, seeds=5, fails=fails) if rng.random() < 0.8]
        sets = [(), (0,), *itertools.combinations(range(5), 2), (0, 2, 4)]
        rest = [[r for r in runs if r["args"]["seed"] not in each] for each in sets]
        whole = Choice(runs, TUNE)
        assert whole.without(sets) == [chosen(each, TUNE) for each in rest]
        for shares_R, each in zip(whole.votes(sets), rest, strict=True):
            alone = Choice(each, TUNE)
            told = dict(zip(alone.tried, alone.votes([()])[0], strict=True))
            assert shares_R.tolist() == [told.get(rates, 0.0) for rates in whole.tried]


@pytest.mark.parametrize("fails", [False, True])
def test_a_rate_that_a_race_stopped_is_not_chosen_for_the_luck_of_its_seeds(fails):
    """Seeds 0 and 1 are better than the others, and alone ran, or lived, at 0.03, where they are worse."""
    runs = [run(2.5 + 0.2 * (seed > 1), lr=0.01, seed=seed) for seed in range(4)]
    runs += [run(2.55, lr=0.03, seed=seed) for seed in range(2)]
    runs += [run(3.3, "stuck", lr=0.03, seed=seed) for seed in range(2, 4)] * fails
    assert chosen(runs, TUNE) == (0.01,)
    assert said(runs) == {0: 2.5, 1: 2.5, 2: 2.7, 3: 2.7}
    better = [{**r, "val_loss": 2.45} if r["args"]["lr"] == 0.03 else r for r in runs]
    assert chosen(better, TUNE) == (0.03,)


def test_a_rate_with_several_runs_of_a_seed_is_compared_as_any_other():
    """Two of each seed, as where another setting varies too; one, then three of the six fail at larger rates."""
    dead = {(0.03, 0, 1), (0.1, 0, 0), (0.1, 1, 0), (0.1, 2, 1)}
    level = {0.01: 2.51, 0.03: 2.57, 0.1: 2.7}
    runs = [
        run(3.3 if (lr, seed, k) in dead else level[lr] + 0.05 * k + 0.1 * seed,
            "stuck" if (lr, seed, k) in dead else "worked", lr=lr, seed=seed, warmup=k)
        for lr in level for seed in range(3) for k in range(2)
    ]  # fmt: skip
    assert chosen(runs, TUNE) == (0.01,)


@pytest.mark.parametrize("seeds", [20, 21, 100])
def test_many_seeds_cost_little_and_each_is_left_out_as_often(seeds):
    pairs = pairs_among(seeds)
    assert len(set(map(frozenset, pairs))) == len(pairs) <= 200
    assert len({sum(s in pair for pair in pairs) for s in range(seeds)}) == 1
    runs = sweep(noise=0.3, seeds=seeds)
    shares_LR = Choice(runs, TUNE).votes(but_one_or_two(range(seeds)))
    assert len(shares_LR) == seeds + len(pairs)
    assert np.allclose(shares_LR.sum(axis=1), 1)
    assert math.isfinite(alone("loss", runs, runs, TUNE).spread.mutual)


def test_who_did_not_run_has_no_voice_to_lose():
    runs = sweep(noise=1e-3, seeds=3)
    assert Choice(runs, TUNE).without([(7,), (0, 7)]) == Choice(runs, TUNE).without([(), (0,)])


def test_where_nothing_works_the_smallest_rate_is_chosen_in_whatever_order_they_ran():
    runs = [run(loss, "stuck", lr=lr) for lr, loss in ((0.03, 3.3), (0.01, 3.4), (0.1, None))]
    for order in itertools.permutations(runs):
        assert chosen(order, TUNE) == (0.01,)


def test_all_that_choose_say_which_rates_are_usable():
    """At the best rate seeds 1 and 2 fail, half of those that choose: their own two thirds call it usable too."""
    runs = sweep(noise=1e-3, seeds=5, fails=lambda cell: cell["lr"] == 0.01 and cell["seed"] in (1, 2))
    assert Choice(runs, TUNE).votes([(0,)])[0].tolist() == [0, 0, 1, 0, 0]


def test_who_is_dead_has_no_vote():
    """Seeds 1 to 3 live nowhere: without seed 0 the four votes are of 123, 234, 341 and 412."""
    runs = sweep(noise=1e-3, seeds=5, fails=lambda cell: cell["seed"] in (1, 2, 3))
    assert Choice(runs, TUNE).votes([(0,)])[0].tolist() == [0, 0, 1, 0, 0]


def test_where_no_rate_is_usable_the_one_with_most_alive_is_chosen_then_that_of_the_least_loss():
    dead = [run(3.3, "stuck", lr=lr, seed=seed) for lr in (0.001, 0.01, 0.03) for seed in range(3)]
    living = [run(2.9, lr=0.03, seed=3), run(2.4, lr=0.01, seed=3), run(3.3, "stuck", lr=0.001, seed=3)]
    assert chosen([*dead, *living], TUNE) == (0.01,)
    assert chosen([*dead, *living, run(2.9, lr=0.03, seed=4)], TUNE) == (0.03,)


def test_a_seed_that_says_nothing_at_some_of_the_rates_is_judged_at_the_others():
    runs = runs_of({0.01: (2.5, 2.6, 2.55), 0.03: (2.3, 2.7, 2.75)})
    runs = [r for r in runs if (r["args"]["seed"], r["args"]["lr"]) != (1, 0.03)]
    assert said(runs)[1] == 2.6
    assert math.isfinite(alone("loss", runs, runs, TUNE).spread.mutual)
