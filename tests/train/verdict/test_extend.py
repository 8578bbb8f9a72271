"""Rates beyond the edge of a grid: tried where a best one lies there, by all arms alike, so many and no more."""

import math

import pytest

from train.config.grid import product
from train.verdict.extend import next_rungs, planned
from train.verdict.question import Question

GRID = product(placement=["pre", "post"], depth=[2, 8], lr=[1e-3, 3e-3, 1e-2], seed=[0, 1])
QUESTION = Question(compare=("placement",), across=("depth",), extend=2)


def records(cells, best, works=lambda cell: True):
    """Losses that are squares of the distance to the best rate, in decades; best: of (placement, depth)."""
    return [
        {"args": cell, "initial_loss": 6.0, "outcome": "worked" if works(cell) else "stuck",
         "val_loss": 2.0 + math.log10(cell["lr"] / best[cell["placement"], cell["depth"]]) ** 2 + 0.01 * cell["seed"]}
        for cell in cells
    ]  # fmt: skip


def rungs(cells, best, question=QUESTION, **works):
    found = next_rungs(question, planned(GRID, question), records(cells, best, **works))
    return [(place, lr) for place, lr, _ in found]


INSIDE = {(placement, depth): 3e-3 for placement in ("pre", "post") for depth in (2, 8)}


def test_a_best_rate_inside_asks_for_nothing():
    assert rungs(GRID, INSIDE) == []


def test_one_arm_on_an_edge_is_a_rung_for_its_place():
    """The grid's ratio is 10^(1/2): beyond 0.01 comes 0.032, below 0.001 comes 0.00032."""
    assert rungs(GRID, {**INSIDE, ("pre", 8): 0.1}) == [((8,), 0.032)]
    assert rungs(GRID, {**INSIDE, ("pre", 8): 0.1, ("post", 2): 1e-4}) == [((2,), 0.00032), ((8,), 0.032)]


def test_two_arms_on_two_edges_of_one_place_grow_it_both_ways():
    assert rungs(GRID, {**INSIDE, ("pre", 8): 0.1, ("post", 8): 1e-4}) == [((8,), 0.032), ((8,), 0.00032)]


def test_the_grid_grows_rung_by_rung_up_to_its_bound_and_from_its_own_ratio():
    best = {**INSIDE, ("pre", 8): 0.1}
    once = [*GRID, *product(placement=["pre", "post"], depth=[8], lr=[0.032], seed=[0, 1])]
    assert rungs(once, best) == [((8,), 0.1)]
    twice = [*once, *product(placement=["pre", "post"], depth=[8], lr=[0.1], seed=[0, 1])]
    assert rungs(twice, best) == []


def test_it_stops_where_the_best_rate_is_inside():
    once = [*GRID, *product(placement=["pre", "post"], depth=[8], lr=[0.032], seed=[0, 1])]
    assert rungs(once, {**INSIDE, ("pre", 8): 1e-2}) == []


def test_what_does_not_work_has_no_best_rate():
    """Of post nothing works, of pre the largest rate does not although its mean is the least: neither asks for more."""
    best = {**INSIDE, ("pre", 8): 0.1, ("post", 8): 0.1}
    assert rungs(GRID, best, works=lambda cell: cell["placement"] == "pre" and cell["lr"] < 1e-2) == []
    assert rungs(GRID, best, works=lambda cell: cell["placement"] == "pre") == [((8,), 0.032)]


def test_it_is_said_why():
    (rung,) = next_rungs(QUESTION, planned(GRID, QUESTION), records(GRID, {**INSIDE, ("pre", 8): 0.1}))
    assert rung.why == (
        "the best lr of pre at depth 8 lies on the edge, 0.01: 0.032 is tried for all arms, rung 1 of 2"
    )


@pytest.mark.parametrize("fields", [{"extend": 0}, {"extend": 2, "tune": (), "at": "the same rate"}])
def test_nothing_grows_that_was_not_asked_to(fields):
    question = Question(**{"compare": ("placement",), "across": ("depth",), **fields})
    assert rungs(GRID, {**INSIDE, ("pre", 8): 0.1}, question) == []
