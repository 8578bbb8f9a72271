"""Reductions by hand, statistics by another path through scipy, and verdicts on simulated sweeps of known truth."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize, stats

from train.verdict.stats import (
    best_lr,
    depth_reach,
    holm,
    label,
    largest_stable_lr,
    loglog_slope,
    loss_of,
    lr_sensitivity,
    mean_interval,
    outcomes,
    paired_comparison,
    pairs_needed,
    verdicts,
)

RATES = (0.001, 0.003, 0.01, 0.03, 0.1)


def run(val_loss: float | None = 2.5, outcome: str = "converged", initial_loss: float = 5.5, **args) -> dict:
    settings = {"placement": "pre", "norm": "rms", "depth": 4, "lr": 0.01, "seed": 0, **args}
    budget = {"params": 50_000, "tokens": 51_200, "flops": 1.5e10}
    return {"args": settings, "val_loss": val_loss, "outcome": outcome, "initial_loss": initial_loss, **budget}


def bowl(lr: float) -> float:
    """Loss against rate, best at 0.01, a middle rate of the grid."""
    return 2.5 + 0.3 * math.log10(lr / 0.01) ** 2


def sweep(effect: Callable[[dict], float], *, noise: float = 0.0, key: int = 0, seeds: int = 3, **axes) -> list[dict]:
    """One run a cell of `axes`, RATES and seeds: bowl + effect + a share common to a seed + noise of its own."""
    random = np.random.default_rng(key)
    common = random.normal(0, 0.05, seeds)
    cells = [
        dict(zip([*axes, "lr", "seed"], values, strict=True))
        for values in itertools.product(*axes.values(), RATES, range(seeds))
    ]
    return [run(bowl(c["lr"]) + effect(c) + common[c["seed"]] + noise * random.standard_normal(), **c) for c in cells]


PLACEMENT = {"placement": ("pre", "post")}


def post_is_worse(by: float) -> Callable[[dict], float]:
    return lambda cell: by * (cell["placement"] == "post")


# Reductions.


@pytest.mark.parametrize(
    ("val_loss", "expected"), [(2.5, 2.5), (9.0, 5.5), (None, 5.5), (math.nan, 5.5), (math.inf, 5.5)]
)
def test_a_loss_counts_at_most_as_the_loss_at_initialisation(val_loss, expected):
    assert loss_of(run(val_loss)) == expected


def test_lr_sensitivity_by_hand():
    """Means over seeds 3.0, 2.5, 4.5 (a run of nan counts 5.5): their mean 10/3 less the best 2.5."""
    losses = {0.001: (2.9, 3.1), 0.01: (2.4, 2.6), 0.1: (3.5, None)}
    runs = [run(loss, lr=lr, seed=s) for lr, pair in losses.items() for s, loss in enumerate(pair)]
    assert lr_sensitivity(runs) == pytest.approx(10 / 3 - 2.5)
    assert best_lr(runs) == 0.01


@pytest.mark.parametrize(
    ("worked", "expected"),
    [
        ((3, 3, 3, 3, 3), 0.1),
        ((3, 2, 2, 1, 0), 0.01),  # 1 of 3 is less than half
        ((3, 0, 3, 3, 3), 0.001),  # what works again above a failure is luck
        ((1, 3, 3, 3, 3), None),
    ],
)
def test_the_largest_stable_rate_is_the_last_before_most_seeds_fail(worked, expected):
    runs = [
        run(lr=lr, seed=s, outcome="converged" if s < count else "diverged")
        for lr, count in zip(RATES, worked, strict=True)
        for s in range(3)
    ]
    assert largest_stable_lr(runs[::-1]) == expected


def test_half_of_the_seeds_is_enough_to_be_stable():
    assert largest_stable_lr([run(), run(seed=1, outcome="stuck")]) == 0.01


def test_depth_reach_is_judged_at_the_best_rate_of_the_shallowest():
    """Depth 2 is best at 0.01. There depth 8 works and 16 does not, though it would at 0.001."""

    def ends(depth: int, lr: float) -> str:
        return "stuck" if depth == 16 and lr == 0.01 else "converged"

    runs = [run(bowl(lr), ends(d, lr), depth=d, lr=lr) for d in (16, 2, 8) for lr in (0.001, 0.01, 0.1)]
    assert depth_reach(runs) == 8
    without = [r for r in runs if r["args"]["depth"] == 2 or r["args"]["lr"] == 0.1]
    assert depth_reach(without) == 2  # what was not run at that rate is not reached


def test_runs_of_one_seed_that_differ_in_what_is_not_named_are_no_arm():
    runs = sweep(post_is_worse(0.1), placement=["pre", "post"], warmup=[0, 10])
    with pytest.raises(ValueError, match="an arm has 6 runs of 3 seeds; name all that is swept, as axes or context"):
        verdicts(runs, ["placement"])
    assert verdicts(runs, ["placement"], ["warmup"])


@pytest.mark.parametrize("exponent", [0.01, -0.5, 1.7])
def test_a_power_law_gives_back_its_exponent(exponent):
    depth = np.array([2, 4, 8, 16, 32])
    fit = loglog_slope(depth, 3.0 * depth**exponent)
    assert fit.slope == pytest.approx(exponent, abs=1e-12)
    assert fit.intercept == pytest.approx(math.log(3))
    assert fit.error == pytest.approx(0, abs=1e-7)


def test_the_error_of_a_slope_is_that_of_least_squares_and_covers_the_truth():
    """Against the normal equations; and the true exponent lies within t errors in 95 % of 600 noisy profiles."""
    depth, random = np.array([2.0, 4, 8, 16, 32]), np.random.default_rng(0)
    design = np.stack([np.log(depth), np.ones(5)], axis=1)
    critical, within = stats.t.ppf(0.975, 3), 0
    for _ in range(600):
        log_y = -0.5 * np.log(depth) + 0.1 * random.standard_normal(5)
        fit = loglog_slope(depth, np.exp(log_y))
        within += abs(fit.slope + 0.5) < critical * fit.error
    residuals = log_y - design @ np.linalg.lstsq(design, log_y)[0]
    covariance = np.linalg.inv(design.T @ design) * (residuals @ residuals) / 3
    assert fit.error == pytest.approx(math.sqrt(covariance[0, 0]))
    assert abs(within / 600 - 0.95) < 0.03


def test_a_slope_of_two_points_has_no_error_and_is_refused():
    with pytest.raises(ValueError, match="3 points or more, there are 2"):
        loglog_slope([2, 4], [1.0, 0.7])


# Comparisons.


def test_a_paired_comparison_is_a_one_sample_t_test_of_the_differences():
    a, b = [2.51, 2.47, 2.55, 2.60], [2.58, 2.50, 2.57, 2.69]
    other = stats.ttest_1samp(np.subtract(a, b), 0)
    found = paired_comparison(a, b)
    assert (found.low, found.high) == pytest.approx(tuple(other.confidence_interval(0.95)))
    assert found.p == pytest.approx(other.pvalue)
    assert found.effect == pytest.approx(other.statistic / 2)  # d_z = t / sqrt(n)
    assert (found.difference, found.n) == (pytest.approx(-0.0525), 4)


def test_the_interval_covers_the_true_difference_in_95_of_100():
    random = np.random.default_rng(1)
    found = [paired_comparison(*random.normal([[0.3], [0.1]], 0.1, (2, 3))) for _ in range(1000)]
    assert abs(np.mean([c.low < 0.2 < c.high for c in found]) - 0.95) < 0.021  # three standard errors


def test_runs_that_are_equal_to_the_bit_are_not_separable():
    found = paired_comparison([2.5, 2.6, 2.7], [2.5, 2.6, 2.7])
    assert (found.difference, found.p, found.effect, found.needed) == (0, 1, 0, None)


@pytest.mark.parametrize(("effect", "published"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_pairs_needed_are_those_of_the_power_tables(effect, published):
    """G*Power 3.1, two-sided paired t, level 0.05, power 0.8."""
    assert pairs_needed(effect) == pairs_needed(-effect) == published


def test_pairs_needed_have_the_power_they_promise():
    random, effect = np.random.default_rng(2), 0.9
    n = pairs_needed(effect)
    seen = stats.ttest_1samp(random.normal(effect, 1, (4000, n)), 0, axis=1).pvalue < 0.05
    assert 0.8 - 0.02 < seen.mean() < 0.86


def test_no_number_of_pairs_shows_what_is_not_there():
    assert pairs_needed(0.0) is None


def test_holm_by_hand():
    """Sorted .005 .01 .03 .04 times 4 3 2 1 is .02 .03 .06 .04, and no p may be below one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_holm_rejects_what_stepping_down_rejects():
    """Holm's procedure as printed: reject while the k-th smallest p is at most level / (m - k + 1), then stop."""
    random = np.random.default_rng(3)
    for _ in range(200):
        p = random.beta(0.3, 3, size=random.integers(1, 8))
        rejected = set()
        for k, index in enumerate(np.argsort(p)):
            if p[index] > 0.05 / (len(p) - k):
                break
            rejected.add(index)
        assert {i for i, corrected in enumerate(holm(p)) if corrected <= 0.05} == rejected


# Verdicts.


def test_a_large_effect_is_found_and_named_whichever_side_it_is_on():
    for by, sentence in ((0.5, "pre better than post"), (-0.5, "post better than pre")):
        (verdict,) = verdicts(sweep(post_is_worse(by), noise=0.005, **PLACEMENT), ["placement"])
        assert verdict.sentence == sentence
        assert verdict.comparison.low < -by < verdict.comparison.high
        assert verdict.rates == (0.01, 0.01)


def test_each_side_is_judged_at_its_own_best_rate():
    """post at 0.003 is as good as pre at 0.01; at one common rate either would look better."""
    runs = [
        run(bowl(lr * (3 if placement == "post" else 1)) + 0.01 * seed, placement=placement, lr=lr, seed=seed)
        for placement, lr, seed in itertools.product(("pre", "post"), (0.001, 0.01 / 3, 0.01, 0.1), range(3))
    ]
    (verdict,) = verdicts(runs, ["placement"])
    assert verdict.rates == (0.01, 0.01 / 3)
    assert verdict.comparison.difference == pytest.approx(0)


def test_pairing_by_seed_removes_what_seeds_share():
    """Seeds differ by 0.05, arms by 0.01 with noise 0.001: hopeless unpaired, clear in pairs."""
    runs = sweep(post_is_worse(0.01), noise=0.001, seeds=5, **PLACEMENT)
    best = [
        [r["val_loss"] for r in runs if r["args"]["placement"] == p and r["args"]["lr"] == 0.01]
        for p in PLACEMENT["placement"]
    ]
    assert stats.ttest_ind(*best).pvalue > 0.2
    (verdict,) = verdicts(runs, ["placement"])
    assert verdict.sentence == "pre better than post"


def test_what_is_compared_is_each_pair_of_values_at_equal_other_settings():
    runs = sweep(lambda _: 0.0, noise=0.1, placement=("pre", "post"), norm=("rms", "layer", "none"), depth=(2, 8))
    found = {(v.axis, v.first, v.second, v.where) for v in verdicts(runs, ["placement", "norm"], ["depth"])}
    placements = {
        ("placement", "pre", "post", f"norm {n}, depth {d}") for n in ("rms", "layer", "none") for d in (2, 8)
    }
    norms = {
        ("norm", a, b, f"placement {p}, depth {d}")
        for a, b in itertools.combinations(("rms", "layer", "norm none"), 2)
        for p in ("pre", "post")
        for d in (2, 8)
    }
    assert found == placements | norms


def test_no_claim_is_made_in_95_of_100_sweeps_where_nothing_differs():
    """Eight comparisons a sweep, 200 sweeps: the share with any claim is at most 0.05, and three standard errors."""
    axes = {"placement": ("pre", "post"), "norm": ("rms", "layer"), "depth": (2, 8)}
    claims = 0
    for key in range(200):
        found = verdicts(sweep(lambda _: 0.0, noise=0.05, key=key, **axes), ["placement", "norm"], ["depth"])
        assert len(found) == 8
        claims += any("better" in v.sentence for v in found)
    assert claims / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_what_is_not_separable_says_how_many_seeds_would_do_it():
    runs = sweep(post_is_worse(0.02), noise=0.03, key=0, **PLACEMENT)
    (verdict,) = verdicts(runs, ["placement"])
    n = pairs_needed(verdict.comparison.effect)
    assert verdict.sentence == f"not separable at n = 3; about {n} seeds would be needed"


def test_diverged_runs_count_as_the_loss_at_initialisation():
    runs = sweep(post_is_worse(0.0), noise=0.01, **PLACEMENT)
    for result in runs:
        if result["args"]["placement"] == "post" and result["args"]["seed"] == 1:
            result |= {"val_loss": None, "outcome": "diverged"}
    (verdict,) = verdicts(runs, ["placement"])
    at_best = {
        p: [r for r in runs if (r["args"]["placement"], r["args"]["lr"]) == (p, lr)]
        for p, lr in zip(("pre", "post"), verdict.rates, strict=True)
    }
    capped = [[5.5 if r["val_loss"] is None else r["val_loss"] for r in at_best[p]] for p in ("pre", "post")]
    assert verdict.comparison.difference == pytest.approx(np.mean(capped[0]) - np.mean(capped[1]))
    assert verdict.outcomes == ("15 converged", "10 converged, 5 diverged")


# What is withheld, and why.


def sentence_of(runs: list[dict]) -> str:
    (verdict,) = verdicts(runs, ["placement"])
    return verdict.sentence


@pytest.mark.parametrize("edge", [RATES[0], RATES[-1]])
def test_a_best_rate_on_the_edge_of_the_grid_is_a_reason(edge):
    tilt = 1.0 if edge == RATES[0] else -1.0
    runs = sweep(lambda c: tilt * math.log10(c["lr"]) * (c["placement"] == "post"), noise=0.001, **PLACEMENT)
    assert sentence_of(runs) == f"withheld: a best rate, {edge:g}, lies on the edge of the grid"


def test_a_single_rate_is_a_reason():
    runs = [r for r in sweep(post_is_worse(0.5), **PLACEMENT) if r["args"]["lr"] == 0.01]
    assert sentence_of(runs) == "withheld: only the rate 0.01 was tried"


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_are_a_reason(seeds):
    assert (
        sentence_of(sweep(post_is_worse(0.5), seeds=seeds, **PLACEMENT)) == f"withheld: {seeds} seeds ran, 3 are needed"
    )


@pytest.mark.parametrize("budget", ["params", "tokens", "flops"])
def test_a_budget_that_differs_by_a_tenth_is_a_reason_and_by_a_hundredth_is_none(budget):
    for factor, withheld in ((1.1, True), (1.01, False), (0.9, True)):
        runs = sweep(post_is_worse(0.5), noise=0.001, **PLACEMENT)
        for result in runs:
            if result["args"]["placement"] == "post":
                result[budget] *= factor
        assert sentence_of(runs).startswith("withheld: the budgets differ") == withheld
        assert (budget in sentence_of(runs)) == withheld


def test_what_is_withheld_has_no_p_and_does_not_burden_the_others():
    """At depth 8 post is best on the edge: one claim is left, and Holm over one claim changes nothing."""

    def effect(cell: dict) -> float:
        tilted = (cell["placement"], cell["depth"]) == ("post", 8)
        return math.log10(cell["lr"]) if tilted else 0.0

    runs = sweep(effect, noise=0.02, depth=(2, 8), **PLACEMENT)
    shallow, deep = verdicts(runs, ["placement"], ["depth"])
    assert deep.sentence.startswith("withheld") and deep.p is None
    assert shallow.p == shallow.comparison.p


def test_a_side_that_works_nowhere_is_a_finding_and_no_edge():
    """Stuck everywhere, its best rate is an accident, here an edge: that is no reason to withhold."""
    runs = sweep(post_is_worse(0.0), noise=0.001, **PLACEMENT)
    for result in runs:
        if result["args"]["placement"] == "post":
            args = result["args"]
            result |= {"val_loss": 3.31 + 0.02 * args["lr"] + 0.001 * args["seed"], "outcome": "stuck"}
    (verdict,) = verdicts(runs, ["placement"])
    assert verdict.rates[1] == RATES[0]
    assert verdict.sentence == "pre better than post: every run of post is stuck (15 of 15)"
    assert (verdict.kind, verdict.outcomes) == ("claim", ("15 converged", "15 stuck"))


def test_a_side_that_works_nowhere_is_said_where_it_is_and_how_it_failed():
    """At depth 16 post diverges at the two largest rates and is stuck elsewhere; at depth 2 it is only worse."""
    runs = sweep(post_is_worse(0.5), noise=0.001, depth=(2, 16), **PLACEMENT)
    for result in runs:
        if (result["args"]["placement"], result["args"]["depth"]) == ("post", 16):
            result["outcome"] = "diverged" if result["args"]["lr"] > 0.01 else "stuck"
    shallow, deep = verdicts(runs, ["placement"], ["depth"])
    assert (shallow.sentence, shallow.failure) == ("pre better than post", "")
    assert deep.failure == "every run of post is stuck or diverged at depth 16 (15 of 15)"
    (one_rate,) = verdicts([r for r in runs if (r["args"]["depth"], r["args"]["lr"]) == (16, 0.01)], ["placement"])
    assert one_rate.sentence == "withheld: only the rate 0.01 was tried; every run of post is stuck (3 of 3)"


def test_settings_that_were_zipped_are_compared_together():
    """pre with rms against post with layer: neither setting alone can be blamed, both together can."""
    runs = [r for r in sweep(post_is_worse(0.5), noise=0.005, norm=("rms", "layer"), **PLACEMENT)
            if (r["args"]["placement"], r["args"]["norm"]) in (("pre", "rms"), ("post", "layer"))]  # fmt: skip
    (verdict,) = verdicts(runs, ["norm", "placement"])
    assert verdict.axis == "norm, placement"
    assert verdict.sentence == "rms · pre better than layer · post"


def test_an_arm_between_two_others_is_compared_in_their_place():
    """post was given its own residual scale by depth, and also none: each difference is of one setting."""
    cells = [("pre", 1.0), ("post", 1.0), ("post", 1.68)]
    runs = [r for r in sweep(lambda _: 0.0, residual_scale=(1.0, 1.68), **PLACEMENT)
            if (r["args"]["placement"], r["args"]["residual_scale"]) in cells]  # fmt: skip
    found = {(v.axis, v.first, v.second, v.where) for v in verdicts(runs, ["placement", "residual_scale"])}
    assert found == {
        ("placement", "pre", "post", "residual_scale 1.0"),
        ("residual_scale", "residual_scale 1.0", "residual_scale 1.68", "placement post"),
    }


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("norm", "rms", "rms"), ("norm", "none", "norm none"), ("width", 32, "width 32"), ("window", None, "window none")],
)
def test_what_says_nothing_alone_is_called_by_its_setting_too(name, value, text):
    assert label(name, value) == text


def test_the_interval_of_a_mean_is_student_s():
    values = [2.51, 2.47, 2.55]
    known = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert mean_interval(values) == pytest.approx((np.mean(values), *known))
    assert mean_interval([2.5]) == (2.5, 2.5, 2.5)


def test_outcomes_are_counted_the_most_frequent_first():
    assert outcomes([run(outcome=o) for o in ("stuck", "converged", "converged")]) == "2 converged, 1 stuck"


# The correction for several claims.


def test_holm_is_over_all_claims_that_are_made():
    runs = sweep(lambda _: 0.0, noise=0.05, placement=("pre", "post"), norm=("rms", "layer"), depth=(2, 8))
    found = verdicts(runs, ["placement", "norm"], ["depth"])
    made = [v for v in found if v.p is not None]
    assert len(made) > 3
    assert [v.p for v in made] == pytest.approx(holm([v.comparison.p for v in made]))


def test_more_seeds_are_needed_than_did_not_suffice():
    """p = 0.0125 alone would be a claim; among eight it is none, so 3 seeds are not what would be needed."""
    target = optimize.brentq(lambda e: paired_comparison([-e - 0.1, -e, -e + 0.1], [0, 0, 0]).p - 0.0125, 0.1, 3)
    shift = {0: -0.1, 1: 0.0, 2: 0.1}

    def effect(cell: dict) -> float:
        return target - shift[cell["seed"]] if cell["placement"] == "post" else 0.0

    runs = sweep(effect, norm=("a", "b", "c", "d", "e", "f", "g", "h"), **PLACEMENT)
    for verdict in verdicts(runs, ["placement"], ["norm"]):
        assert verdict.p == pytest.approx(0.1)
        assert int(verdict.sentence.split("about ")[1].split()[0]) > 3


def test_of_two_sides_that_both_failed_none_is_called_better():
    runs = sweep(post_is_worse(0.05), noise=0.0005, **PLACEMENT)
    for result in runs:
        result["outcome"] = "stuck"
    assert "better" not in sentence_of(runs)
