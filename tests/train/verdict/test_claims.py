"""What is said of planted sweeps: the three answers, what is withheld and why, and in which words."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.train.verdict.simulated import RATES, run, sweep
from train.verdict.cells import alone
from train.verdict.claims import claims, draw
from train.verdict.question import Question
from train.verdict.runs import by
from train.verdict.words import WORDS, sentence

PLACEMENT = Question(compare=("placement",))
AXES = {"placement": ("pre", "post")}


def effects(results, question=PLACEMENT, kind="effect", measure="loss", **more):
    return [c for c in claims(results, question, **more) if c.kind == kind and c.measure == measure]


def the_effect(results, question=PLACEMENT, **more):
    (claim,) = effects(results, question, **more)
    return claim


def post_is_worse(by):
    return lambda cell: by * (cell["placement"] == "post")


def test_a_large_effect_is_found_and_named_whichever_side_it_is_on():
    claim = the_effect(sweep(post_is_worse(0.2), **AXES))
    assert claim.answer == "better"
    assert claim.value == pytest.approx(-0.2, abs=0.01)
    assert claim.low < claim.value < claim.high < 0
    assert sentence(claim).startswith("pre is better than post: -0.2")
    assert sentence(the_effect(sweep(post_is_worse(-0.2), **AXES))).startswith("pre is worse than post: 0.")


def test_what_differs_by_less_than_matters_is_the_same_though_it_is_separated():
    claim = the_effect(sweep(post_is_worse(0.004), noise=0.0002, seeds=6, **AXES))
    assert claim.high < 0
    assert claim.answer == "same"
    assert "are the same in loss, within 0.020 nats" in sentence(claim)


def test_what_is_neither_is_not_separable_and_says_how_many_seeds_would_show_it():
    claim = the_effect(sweep(noise=0.03, seeds=3, **AXES))
    assert claim.answer == "open"
    assert claim.needed.few <= claim.needed.likely
    assert sentence(claim).endswith("seeds a cell would show 0.020 nats")
    assert "not separable in loss" in sentence(claim)


def test_runs_that_are_equal_to_the_bit_are_the_same_and_never_better():
    claim = the_effect(sweep(noise=0.0, **AXES))
    assert (claim.answer, claim.value) == ("same", 0.0)
    tiny = the_effect(sweep(post_is_worse(1e-6), noise=0.0, **AXES))
    assert tiny.answer == "same"
    assert tiny.p > 0.01


def test_an_effect_is_pooled_over_cells_and_over_what_else_is_compared():
    question = Question(compare=("placement", "norm"), across=("depth",))
    runs = sweep(post_is_worse(0.1), placement=("pre", "post"), norm=("rms", "layer"), depth=(2, 4, 8))
    placement, norm = effects(runs, question)
    assert (placement.first, placement.second, placement.cells) == ("pre", "post", 6)
    assert (norm.first, norm.second, norm.answer) == ("rms", "layer", "same")
    assert placement.where == "norm rms, layer; depth 2, 4, 8"
    assert len(effects(runs, question, kind="cell")) == 12


def test_a_gap_that_grows_with_depth_is_a_trend_per_doubling():
    grows = lambda c: 0.05 * (c["placement"] == "post") * math.log2(c["depth"])  # noqa: E731
    runs = sweep(grows, key=1, depth=(2, 4, 8, 16), **AXES)
    (trend,) = effects(runs, Question(compare=("placement",), across=("depth",)), kind="trend")
    assert trend.value == pytest.approx(-0.05, abs=0.004)
    assert trend.high < 0
    assert sentence(trend).startswith("loss of pre against post falls with each doubling of depth: -0.0")


def test_settings_that_were_zipped_are_one_arm():
    runs = [r for w, h in ((32, 2), (64, 4)) for r in sweep(lambda c, w=w: 0.1 * (w == 32), width=(w,), heads=(h,))]
    claim = the_effect(runs, Question(compare=("width", "heads")))
    assert (claim.answer, claim.cells) == ("better", 1)


def test_any_two_arms_may_be_compared_whatever_lies_between():
    worse = {"pre": 0.0, "sandwich": 0.1, "post": 0.2}
    runs = sweep(lambda c: worse[c["placement"]], placement=tuple(worse))
    versus = effects(runs, Question(compare=("placement",), versus="post"))
    assert [(c.first, c.second) for c in versus] == [("pre", "post"), ("sandwich", "post")]
    assert {c.answer for c in versus} == {"better"}


def test_two_arms_may_be_compared_at_one_fixed_rate():
    runs = sweep(post_is_worse(0.1), rates=(0.01,), **AXES)
    claim = the_effect(runs, Question(compare=("placement",), at="the same rate"))
    assert claim.answer == "better"


def test_of_one_rate_for_both_arms_that_one_is_told():
    worse = lambda c: 0.5 * (c["placement"] == "post") * (c["lr"] == 0.01)  # noqa: E731
    assert the_effect(sweep(worse, **AXES)).rates == ("0.01", "0.03")
    same = Question(compare=("placement",), at="the same rate")
    assert the_effect(sweep(worse, **AXES), same).rates == ("0.03", "0.03")


def test_at_each_rate_the_rate_is_a_cell():
    runs = sweep(lambda c: 0.3 * (c["placement"] == "post") * (c["lr"] > 0.02), **AXES)
    cells = effects(runs, Question(compare=("placement",), at="each rate"), kind="cell")
    assert {c.where: c.answer for c in cells}["lr 0.1"] == "better"
    assert len(cells) == len(RATES)
    (trend,) = effects(runs, Question(compare=("placement",), at="each rate"), kind="trend")
    assert trend.axis == "doubling of lr"


def test_where_rates_are_close_the_choice_of_one_is_paid_for():
    """Three rates that are as good as each other, chosen by noise: seeds sway each other's choice, and the spread of
    the differences alone says too little."""
    held, by_spread_alone = [], []
    for key in range(150):
        random = np.random.default_rng(key)
        runs = [
            run(random.normal(2.5, 0.02) + 0.3 * (lr in (RATES[0], RATES[-1])), placement=placement, lr=lr, seed=seed)
            for placement in AXES["placement"]
            for lr in RATES
            for seed in range(8)
        ]
        (drawn,) = [each for each in draw(runs, PLACEMENT) if each.evidence is not None]
        low, high = drawn.evidence.interval(0.05)
        held.append(low <= 0 <= high)
        pre, post = (alone("loss", own, own, ("lr",)).first for own in by(runs, "placement").values())
        differences = [pre[seed].value - post[seed].value for seed in range(8)]
        by_spread_alone.append(stats.ttest_1samp(differences, 0).pvalue > 0.05)
    assert np.mean(held) >= 0.94 > np.mean(by_spread_alone)


# Where arms fail.


def test_how_often_arms_fail_and_how_good_what_works_is_are_two_claims():
    runs = sweep(fails=lambda c: c["placement"] == "post" and c["seed"] < 2, seeds=6, noise=0.002, **AXES)
    failure, loss = the_effect(runs, measure="failure"), the_effect(runs)
    assert (failure.counts.first, failure.counts.second) == (0, 2)
    assert loss.answer == "same"
    assert loss.runs == 4


def test_an_arm_that_works_nowhere_is_a_finding_and_no_loss_is_compared():
    runs = sweep(fails=lambda c: c["placement"] == "post", seeds=8, **AXES)
    assert sentence(the_effect(runs, measure="failure")).startswith(
        "pre fails less often than post, 0 of 8 runs against 8 of 8"
    )
    assert sentence(the_effect(runs)) == "withheld: too few runs of both did not fail"


def test_of_two_arms_that_both_fail_everywhere_none_is_called_better():
    runs = sweep(fails=lambda c: True, **AXES)
    assert {c.answer for c in claims(runs, PLACEMENT) if c.measure == "loss"} == {"withheld"}
    assert the_effect(runs, measure="failure").answer == "open"


def test_where_nothing_fails_nothing_is_said_of_failing():
    assert not effects(sweep(**AXES), measure="failure")


# What is withheld.


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        (sweep(seeds=2, **AXES), "2 seeds ran, 3 are needed"),
        (sweep(rates=(0.01,), **AXES), "only one rate was tried"),
        (sweep(rates=(0.001, 0.003, 0.01), **AXES), "a best rate, 0.01, lies on the edge of the grid"),
        (sweep(rates=(0.01, 0.03, 0.1), **AXES), "a best rate, 0.01, lies on the edge of the grid"),
        ([r for r in sweep(**AXES) if (r["args"]["placement"], r["args"]["lr"]) != ("post", 0.1)],
         "the arms were given different grids of lr"),
        ([{**r, "params": 60_000 if r["args"]["placement"] == "post" else 50_000} for r in sweep(**AXES)],
         "the budgets differ: 50000 and 60000 params"),
        ([{**r, "outcome": "slow"} for r in sweep(**AXES)],
         "the best runs of an arm are still slow: give them more steps"),
    ],
)  # fmt: skip
def test_a_comparison_that_would_not_be_fair_is_withheld(runs, reason):
    claim = the_effect(runs)
    assert (claim.answer, sentence(claim)) == ("withheld", f"withheld: {reason}")


def test_budgets_may_differ_where_a_size_is_asked_about_or_was_matched():
    runs = [{**r, "params": 60_000 if r["args"]["inner"] == 128 else 50_000} for r in sweep(inner=(64, 128))]
    assert the_effect(runs, Question(compare=("inner",))).answer == "same"


def test_a_size_that_was_solved_for_makes_no_cells():
    """It is another in each arm, and follows from it."""
    runs = sweep(post_is_worse(0.1), depth=(2, 4), **AXES)
    solved = [{**r, "args": {**r["args"], "inner": 128 if r["args"]["placement"] == "pre" else 85}} for r in runs]
    asked = Question(compare=("placement",), across=("depth",), match="parameters", by="inner")
    assert the_effect(solved, asked).answer == "better"


def test_gains_that_follow_from_arm_and_depth_make_no_cells():
    """As DeepNorm's do: arms meet at a depth, each with its own."""
    runs = sweep(post_is_worse(0.1), depth=(2, 4), **AXES)
    gained = [
        {**r, "args": {**r["args"], "residual_scale": r["args"]["depth"] ** 0.25 * (r["args"]["placement"] == "post")}}
        for r in runs
    ]
    claim = the_effect(gained, Question(compare=("placement",), across=("depth",)))
    assert (claim.answer, claim.where, claim.cells) == ("better", "depth 2, 4", 2)


def test_a_run_that_a_race_stopped_takes_no_budget_from_its_arm():
    runs = sweep(post_is_worse(0.1), **AXES)
    first = next(i for i, r in enumerate(runs) if r["args"]["placement"] == "post")
    runs[first] = {**runs[first], "tokens": runs[first]["tokens"] / 2, "flops": runs[first]["flops"] / 2}
    assert the_effect(runs).answer == "better"


def test_cells_that_are_left_out_of_an_effect_are_named_with_the_reason():
    fails = lambda c: (c["placement"], c["depth"]) == ("post", 8)  # noqa: E731
    runs = sweep(post_is_worse(0.1), fails=fails, depth=(2, 4, 8), **AXES)
    claim = the_effect(runs, Question(compare=("placement",), across=("depth",)))
    assert (claim.answer, claim.where) == ("better", "depth 2, 4")
    assert claim.reason == "without depth 8: too few runs of both did not fail"


def test_what_is_withheld_does_not_burden_the_others():
    runs = sweep(post_is_worse(0.1), depth=(2, 4), **AXES)
    deeper = [r for r in sweep(seeds=2, depth=(8,), **AXES)]
    question = Question(compare=("placement",), across=("depth",))
    alone, beside = the_effect(runs, question), the_effect(runs + deeper, question)
    assert (alone.low, alone.high) == pytest.approx((beside.low, beside.high))


# Families, looks and words.


def test_p_is_below_5_percent_exactly_where_the_interval_leaves_out_zero():
    for much in (0.0, 0.01, 0.02, 0.05):
        runs = sweep(post_is_worse(much), noise=0.02, depth=(2, 4, 8), key=3, **AXES)
        for claim in claims(runs, Question(compare=("placement",), across=("depth",))):
            assert (claim.p < 0.05) == (not claim.low <= 0 <= claim.high)


def test_more_claims_make_wider_intervals():
    runs = sweep(post_is_worse(0.1), depth=(2, 4, 8), **AXES)
    whole = effects(runs, Question(compare=("placement",), across=("depth",)), kind="cell")
    alone = the_effect([r for r in runs if r["args"]["depth"] == 4])
    (same,) = [c for c in whole if c.where == "depth 4"]
    assert same.value == pytest.approx(alone.value)
    assert same.high - same.low > 1.5 * (alone.high - alone.low)


def test_who_looked_before_pays_for_it():
    runs = sweep(post_is_worse(0.05), seeds=8, **AXES)
    once, again = the_effect(runs), the_effect(runs, looks=1)
    assert again.high - again.low > 1.5 * (once.high - once.low)
    assert again.value == once.value


def test_seeds_that_would_show_it_are_those_of_who_looks_again_at_a_first_look_too():
    runs = sweep(noise=0.03, seeds=5, **AXES)
    assert the_effect(runs).answer == "open"
    assert the_effect(runs).needed == the_effect(runs, looks=1).needed


@pytest.mark.parametrize("measure", WORDS)
def test_every_measure_has_its_words(measure):
    stats = {"stats_final": {"residual_rms": [1.0, 1.5, 2.1, 2.9]}, "seconds_a_step": 0.2, "cache_bytes": 64}
    runs = [{**r, **stats} for r in sweep(post_is_worse(0.05), depth=(2, 4), **AXES)]
    said = claims(runs, Question(compare=("placement",), across=("depth",), measure=(measure,)))
    assert said
    for claim in said:
        assert "nan" not in sentence(claim)
        assert len(sentence(claim)) < 250


def test_a_rate_that_works_up_to_three_times_as_far_is_told_as_a_ratio():
    limit = {"pre": 0.1, "post": 0.01}
    runs = sweep(fails=lambda c: c["lr"] > limit[c["placement"]], rates=(*RATES, 0.3), seeds=5, **AXES)
    claim = the_effect(runs, Question(compare=("placement",), measure=("largest rate",)), measure="largest rate")
    assert claim.answer == "better"
    assert sentence(claim).startswith("pre works at larger learning rates than post: 10 times [")


def test_a_run_of_nothing_is_no_claim():
    assert claims([run(seed=s) for s in range(3)], PLACEMENT) == []
