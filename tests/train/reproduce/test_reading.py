"""Results become numbers: rates chosen by other seeds, pairs by seed, intervals for other seeds and another text."""

import numpy as np
import pytest

from train.reproduce.reading import (
    at_best,
    difference,
    difference_at_best,
    each,
    exponents,
    loss_difference,
    mean_at_best,
    sensitivities,
)
from train.verdict.outcome import WORKED
from train.verdict.runs import packed


def run(seed, lr=1e-2, loss=2.5, windows=None):
    told = {} if windows is None else {"windows": packed(windows)}
    return {"args": {"seed": seed, "lr": lr}, "outcome": WORKED[0], "initial_loss": 5.6, "val_loss": loss} | told


def test_a_lucky_run_does_not_choose_the_rate_that_it_is_judged_at():
    """Seed 0 is lucky at 3e-2; the others are best at 1e-2, so that is where seed 0 is judged."""
    lucky = {(0, 3e-2): 1.0}
    results = [run(s, lr, lucky.get((s, lr), 2.0 if lr == 1e-2 else 2.2)) for s in range(4) for lr in (1e-2, 3e-2)]
    chosen = {r["args"]["seed"]: r["args"]["lr"] for r in at_best(results)}
    assert chosen[0] == 1e-2 and len(chosen) == 4


def test_an_interval_for_another_text_is_wider_than_one_for_other_seeds_alone():
    """Two windows in three favour one arm by 0.3, the third the other by 0.6: their mean says nothing of other text."""
    seeds, rng = range(6), np.random.default_rng(0)
    windows_W = np.tile([-0.3, -0.3, 0.6], 20) - 0.05
    noise = 1e-3 * rng.normal(size=6)
    a = [run(s, loss=2.45 + noise[s], windows=2.5 + windows_W) for s in seeds]
    b = [run(s, loss=2.5, windows=np.full(60, 2.5)) for s in seeds]
    bare = [{name: value for name, value in r.items() if name != "windows"} for r in a]
    other_text, other_seeds = loss_difference(a, b), loss_difference(bare, b)
    assert other_text.value == other_seeds.value == pytest.approx(-0.05, abs=1e-3)
    assert other_seeds.high < -0.045 and other_text.low < -0.1 and other_text.high > 0
    plain = difference(bare, b, lambda r: r["val_loss"])
    assert other_seeds == pytest.approx(plain, abs=1e-9)  # Student's paired t


def test_a_difference_at_best_counts_failed_runs_and_hides_no_seed():
    """Seed 2 of b is stuck at its best rate, as far above as it can be."""
    a = [run(s, lr, 2.0 + 0.01 * s + 5 * lr) for s in range(3) for lr in (1e-3, 1e-2)]
    b = [{**r, "outcome": "stuck", "val_loss": 5.0} if r["args"]["seed"] == 2 else r for r in a]
    told = difference_at_best(a, b)
    assert told.value == pytest.approx((2.025 - 5) / 3) and told.low < told.value < 0 < told.high
    assert difference_at_best(a, a).value == 0
    gaps = {0: 0.5, 1: 0.7, 2: None}
    of_all = mean_at_best(a, each(lambda r: gaps[r["args"]["seed"]]))
    assert np.isnan(of_all.value)
    of_two = mean_at_best([r for r in a if r["args"]["seed"] < 2], each(lambda r: gaps[r["args"]["seed"]]))
    assert of_two.value == pytest.approx(0.6) and of_two.low < 0.5 and of_two.high > 0.7


def test_one_pair_decides_nothing():
    assert loss_difference([run(0, loss=2.0)], [run(0)]).high == np.inf
    assert difference_at_best([run(0, loss=2.0)], [run(0)]).high == np.inf


def test_an_exponent_and_a_sensitivity_are_of_each_seed():
    results = [run(s, lr, loss=lr**0.5 * (1 + s)) for s in range(2) for lr in (1e-3, 1e-2, 1e-1)]
    assert exponents(results, "lr", lambda r: r["val_loss"]) == pytest.approx([0.5, 0.5])
    root = np.sqrt([1e-3, 1e-2, 1e-1])
    assert sensitivities(results) == pytest.approx((root.mean() - root.min()) * np.array([1, 2]))
