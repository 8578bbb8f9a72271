"""What two arms say in a cell: readings that are means over rates, and what is counted instead."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.train.verdict.simulated import run, sweep
from train.verdict.cells import alone, estimate_of, meet, of_one
from train.verdict.choice import Choice
from train.verdict.claims import claims
from train.verdict.measures import Reading, Side
from train.verdict.question import Question
from train.verdict.runs import by, packed

TUNE = ("lr",)
PLACEMENT = Question(compare=("placement",))


def close(seeds=4) -> list[dict]:
    """Two rates, of which 0.03 has the votes in which seed 0 is."""
    told = {0: 0.5, **dict.fromkeys(range(1, seeds), -0.1)}
    return [run(2.5 - (lr == 0.03) * told[s], lr=lr, seed=s) for lr in (0.01, 0.03) for s in range(seeds)]


def test_a_mean_over_rates_has_the_mean_of_their_windows_and_the_bounds_of_all():
    readings = {
        (0.01,): Reading(2.0, np.array([1.0, 3.0]), bound=False, rung=0.5),
        (0.03,): Reading(5.0, np.array([4.0, 6.0]), bound=True, rung=1.0),
    }
    runs = close()
    cell = of_one(lambda _, rates: dict.fromkeys(range(4), readings[rates]), Side(runs, (), TUNE), Choice(runs, TUNE))
    mixed = cell.first[1]  # two of three votes are for 0.03
    assert mixed.value == pytest.approx(4.0)
    assert mixed.windows == pytest.approx([3.0, 5.0])
    assert (mixed.bound, mixed.rung) == (True, 1.0)
    others = cell.first[0]  # without seed 0 all votes are for 0.01
    assert (others.value, others.bound, others.rung) == (2.0, False, 0.5)


def test_windows_that_one_rate_lacks_are_not_known():
    runs = [{**r, "windows": packed(np.full(4, r["val_loss"]))} for r in close()]
    assert all(reading.windows is not None for reading in alone("loss", runs, runs, TUNE).first.values())
    bare = [{**r, "windows": None} if r["args"]["lr"] == 0.03 else r for r in runs]
    told = alone("loss", bare, bare, TUNE).first
    assert [told[seed].windows is None for seed in range(4)] == [False, True, True, True]


def test_what_is_counted_is_whole_where_votes_differ():
    """A share of a failure is none: each seed counts at the rate that all others choose."""
    runs = [{**r, "args": {**r["args"], "placement": p}} for p in ("pre", "post") for r in close()]
    runs = [
        {**r, "outcome": "stuck", "val_loss": 3.3}
        if (r["args"]["placement"], r["args"]["lr"], r["args"]["seed"]) == ("post", 0.03, 1) else r for r in runs
    ]  # fmt: skip
    pre, post = by(runs, "placement").values()
    (cell,) = meet("failure", PLACEMENT, TUNE, {(): pre}, {(): post})
    assert {reading.value for side in (cell.first, cell.second) for reading in side.values()} <= {0.0, 1.0}


def test_a_number_from_a_grid_has_the_error_of_its_rung_in_both_arms():
    runs = sweep(noise=1e-4, seeds=4, placement=("pre", "post"))
    pre, post = by(runs, "placement").values()
    question = replace(PLACEMENT, measure=("largest rate",))
    (cell,) = meet("largest rate", question, TUNE, {(): pre}, {(): post})
    rung = math.log2(10 / 3)  # the widest step of the grid
    for told, arms in ((cell, 2), (alone("largest rate", pre, pre, TUNE), 1)):
        assert estimate_of([told], [1.0]).error == pytest.approx(rung * math.sqrt(arms / 12 / 4), rel=1e-2)


def test_a_reach_is_judged_where_the_shallowest_chose():
    """At depth 2 the best rate is 0.01, which works there alone; at depth 4 it is 0.003."""
    runs = [
        run(2.5 + 0.1 * (lr != best), "stuck" if (depth, lr) == (4, 0.01) else "worked", lr=lr, depth=depth, seed=seed)
        for depth, best in ((2, 0.01), (4, 0.003))
        for lr in (0.003, 0.01)
        for seed in range(3)
    ]
    assert {reading.value for reading in alone("depth reach", runs, runs, TUNE).first.values()} == {1.0}


def test_a_seed_that_did_not_run_at_the_shallowest_depth_is_no_error():
    runs = sweep(depth=(2, 4, 8), seeds=4, placement=("pre", "post"))
    runs = [r for r in runs if (r["args"]["seed"], r["args"]["depth"]) != (3, 2)]
    (claim,) = claims(runs, replace(PLACEMENT, measure=("depth reach",)))
    assert claim.answer != "withheld"


def test_with_one_rate_for_both_arms_both_choose():
    runs = close()
    rivals = [{**r, "val_loss": 2.5 + 0.6 * (r["args"]["lr"] == 0.03)} for r in runs]
    same = replace(PLACEMENT, at="the same rate")
    told = {at.at: meet("loss", at, TUNE, {(): runs}, {(): rivals})[0].first[1].value for at in (PLACEMENT, same)}
    assert told == pytest.approx({"best rate": (2.5 + 2 * 2.6) / 3, "the same rate": 2.5})
