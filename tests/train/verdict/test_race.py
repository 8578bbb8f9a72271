"""Racing leaves out what cannot change the answer, and nothing else."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from train.verdict.choice import chosen, is_usable
from train.verdict.measures import Side, largest_rate
from train.verdict.question import Question
from train.verdict.race import MARGIN, dead, e_value, next_rung, to_stop

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
QUESTION = Question(compare=("placement",), across=("depth",), run="racing")
STEPS = 160


def grid(seeds=5, depths=(2, 4)):
    return [
        {"placement": placement, "depth": depth, "lr": lr, "seed": seed, "steps": STEPS, "warmup": 16}
        for placement in ("pre", "post")
        for depth in depths
        for lr in RATES
        for seed in range(seeds)
    ]


def record(cell, loss, outcome="worked", **told):
    return {"args": cell, "val_loss": loss, "initial_loss": 6.0, "outcome": outcome, **told}


def raced(cells, records, results=None, question=QUESTION):
    """The places that a race runs, rung by rung."""
    results, rungs = dict(results or {}), []
    while due := next_rung(cells, results, question).due:
        rungs.append(due)
        results.update({place: records[place] for place in due})
    return rungs


def sweep(rng, cells, *, step=0.1, noise=0.02):
    """Losses of a sharp valley over the rates, whose floor is at 3e-3 for post and at 1e-2 for pre."""
    best = {"pre": 3, "post": 2}
    offset = [step * abs(RATES.index(c["lr"]) - best[c["placement"]]) for c in cells]
    return [record(c, 2.6 + o + noise * rng.standard_normal()) for c, o in zip(cells, offset, strict=True)]


def test_an_e_value_is_at_least_20_once_in_20_races_at_most():
    """Looked at after each seed, of differences whose mean is zero; the spread is known from 10 more."""
    rng, races = np.random.default_rng(0), 2000
    found = 0
    for _ in range(races):
        x, beside = rng.standard_normal(12), rng.standard_normal(10)
        squares = np.sum(beside**2)
        looks = range(1, 13)
        found += any(
            e_value(x[:n].mean(), n, np.sqrt((squares + n * x[:n].var()) / (n + 9)), n + 9) >= 20 for n in looks
        )
    assert found <= 0.05 * races


def test_the_best_rate_is_kept_and_far_ones_get_one_seed():
    rng, cells, kept, runs = np.random.default_rng(1), grid(), 0, []
    for _ in range(40):
        ran = {place for due in raced(cells, sweep(rng, cells)) for place in due}
        runs.append(len(ran) / len(cells))
        whole = [c for p, c in enumerate(cells) if p in ran and c["lr"] == {"pre": 1e-2, "post": 3e-3}[c["placement"]]]
        kept += len(whole)
    assert kept >= 0.95 * 40 * 4 * 5
    assert np.mean(runs) < 0.5


def test_rates_that_are_alike_all_run():
    """The differences are a third of their spread and half of what matters: nothing may be left out."""
    rng, cells = np.random.default_rng(2), grid()
    lost = [len(cells) - sum(map(len, raced(cells, sweep(rng, cells, step=0.01, noise=0.03)))) for _ in range(10)]
    assert np.mean(lost) < 0.05 * len(cells)


def test_a_rate_that_failed_twice_gets_no_third_seed_and_larger_ones_no_second():
    cells = grid(seeds=3, depths=(2, 4, 8, 16))
    records = [
        record(c, 3.25, "stuck") if c["lr"] > 1e-3 and c["placement"] == "post" else each
        for c, each in zip(cells, sweep(np.random.default_rng(3), cells, step=0.3), strict=True)
    ]
    ran = {place for due in raced(cells, records) for place in due}
    mine = [cells[place] for place in ran if (cells[place]["placement"], cells[place]["depth"]) == ("post", 8)]
    assert [sum(cell["lr"] == lr for cell in mine) for lr in RATES] == [1, 3, 2, 1, 1]


def test_an_interrupted_race_goes_on_as_it_would_have():
    cells = grid()
    records = sweep(np.random.default_rng(4), cells)
    rungs = raced(cells, records)
    done = {place: records[place] for due in rungs[:2] for place in due}
    half = dict.fromkeys(rungs[2][::2])
    again = raced(cells, records, done | {place: records[place] for place in half})
    assert again == [[place for place in rungs[2] if place not in half], *rungs[3:]]


CLIMB = replace(QUESTION, measure=("loss", "failure", "largest rate"))


@pytest.mark.parametrize("flaky", [0.0, 0.1])
@pytest.mark.parametrize("limits", [(1e-3, 3e-3), (3e-3, 3e-2), (1e-2, 3e-2)])
def test_a_seed_climbs_to_where_it_fails_so_that_its_largest_rate_is_that_of_all_runs(limits, flaky):
    """Each seed has a limit of its own, on either side of the best rate, and now and then fails for no reason."""
    rng, cells = np.random.default_rng(5), grid()
    limit = {(c["placement"], c["depth"], c["seed"]): rng.choice(limits) for c in cells}
    records = [
        record(c, 3.25, "stuck")
        if c["lr"] > limit[c["placement"], c["depth"], c["seed"]] or rng.random() < flaky
        else r
        for c, r in zip(cells, sweep(rng, cells), strict=True)
    ]
    ran = {place for due in raced(cells, records, question=CLIMB) for place in due}
    assert len(ran) < 0.9 * len(cells)
    compared = 0
    for placement, depth in itertools.product(("pre", "post"), (2, 4)):
        mine = [p for p, c in enumerate(cells) if (c["placement"], c["depth"]) == (placement, depth)]
        few, every = ([records[p] for p in mine if p in ran or whole] for whole in (False, True))
        if not is_usable([r for r in few if r["args"]["lr"] == chosen(few, ("lr",))[0]]):
            continue  # where no rate works there is nothing to climb from
        if flaky and chosen(few, ("lr",)) != chosen(every, ("lr",)):
            continue  # bad luck with its first seeds cost the best rate its others
        compared += 1
        assert chosen(few, ("lr",)) == chosen(every, ("lr",))
        told = [largest_rate(Side(runs, runs, ("lr",)), chosen(runs, ("lr",))) for runs in (few, every)]
        assert {seed: reading.value for seed, reading in told[0].items()} == {
            seed: reading.value for seed, reading in told[1].items()
        }
    assert compared >= 2


@pytest.mark.parametrize(
    "asked",
    [{"measure": ("loss", "usable range")}, {"at": "each rate"}, {"measure": ("lr sensitivity",)}, {"run": "all"}],
)
def test_where_every_rate_counts_all_run_at_once(asked):
    cells = grid()
    assert next_rung(cells, {}, replace(QUESTION, **asked)).due == list(range(len(cells)))


def unigram(rng):
    return 3.25 + 0.25 * rng.standard_normal(STEPS)


@pytest.mark.parametrize(
    ("course", "outcome"),
    [
        (lambda t: 0.03 + 2 * np.exp(-t / 10), "stuck"),  # on the unigram model from step 50 on
        (lambda t: 0.03 - 0.4 * (t > 95) * (t - 95) / 50 + 2 * np.exp(-t / 10), ""),  # and then it leaves
        (lambda t: 1.5 - t / 200, ""),  # slow: above it, and falling
        (lambda t: -0.5 + 2 * np.exp(-t / 20), ""),  # it works
        (lambda t: np.where(t == 30, np.nan, 0.0), "diverged"),
        (lambda t: 4.0 - 3 * np.exp(-t / 20), "diverged"),  # above its loss at initialisation, 6, for good
    ],
)
def test_the_dead_are_told_after_three_quarters(course, outcome):
    rng, t = np.random.default_rng(5), np.arange(STEPS)
    reference = unigram(rng)
    losses = reference + course(t) + 0.03 * rng.standard_normal(STEPS)
    seen = {"initial_loss": 6.0, "steps": STEPS, "warmup": 16}
    assert dead(losses[:125], reference[:125], **seen) == outcome
    assert dead(losses[:100], reference[:100], **seen) == (outcome if not np.all(np.isfinite(losses)) else "")


def test_luck_of_the_batches_kills_no_run_where_only_the_entropy_is_known():
    """Then 125 steps do not tell a run that stands still from one that falls by a margin."""
    rng = np.random.default_rng(6)
    assert dead(unigram(rng)[:125], 3.25, initial_loss=6.0, steps=STEPS, warmup=16) == ""


def test_a_small_rate_far_behind_stops_and_its_record_says_by_how_much_it_would_lose_at_least():
    rng, t = np.random.default_rng(7), np.arange(STEPS)
    luck = 0.25 * rng.standard_normal(STEPS)
    cells = [{"lr": lr, "seed": 0, "steps": STEPS, "warmup": 16} for lr in (3e-4, 3e-3, 1e-2, 3e-2)]
    courses = [2 * np.exp(-t / 150), 0.3 * np.exp(-t / 40), 0 * t, 1.0 - 0.0 * t]  # behind the leader, the third
    losses = np.stack([2.5 + 2 * np.exp(-t / 15) + luck + c + 0.02 * rng.standard_normal(STEPS) for c in courses])
    at = 90
    stops = to_stop(cells, losses[:, :at], np.full((4, at), 3.25), QUESTION)
    assert list(stops) == [0]
    assert stops[0].outcome == ""
    assert MARGIN < stops[0].behind < courses[0][-1]
    assert to_stop(cells, losses[:, :at], np.full((4, at), 3.25), replace(QUESTION, run="all")) == {}
