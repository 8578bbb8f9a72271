"""Drawn cells: within their ranges, even in logarithms where asked, the same at each reading; or refused."""

import tomllib

import numpy as np
import pytest
from scipy import stats

from train.config.grid import parse
from train.config.sample import METHODS, sampled

OVER = {
    "lr": {"low": 1e-4, "high": 1e-1, "scale": "log"},
    "warmup": {"low": 0, "high": 9},
    "norm": ["rms", "layer", "none"],
}


@pytest.mark.parametrize("method", METHODS)
def test_draws_are_uniform_on_their_scale(method):
    """Of 512 cells: rates uniform in the logarithm (Kolmogorov-Smirnov), each whole number and name equally often."""
    cells = sampled(OVER, count=512, most=1000, method=method)
    rates = np.array([cell["lr"] for cell in cells])
    assert np.min(rates) >= 1e-4 and np.max(rates) <= 1e-1
    assert stats.kstest(np.log10(rates), stats.uniform(-4, 3).cdf).pvalue > 0.01
    for name, values in (("warmup", range(10)), ("norm", OVER["norm"])):
        counts = [sum(cell[name] == value for cell in cells) for value in values]
        assert sum(counts) == 512 and stats.chisquare(counts).pvalue > 0.01


def test_sobol_fills_each_sixteenth_of_a_range_once():
    """What random draws do not: 16 points of each axis lie in 16 equal parts."""
    cells = sampled({"a": {"low": 0.0, "high": 16.0}, "b": {"low": 0.0, "high": 16.0}}, count=16, most=99)
    for name in "ab":
        shift = min(cell[name] for cell in cells)
        assert sorted(round(cell[name] - shift, 2) for cell in cells) == list(range(16))


def test_one_draw_is_the_same_always_and_another_is_not():
    """Keys name results on disk: what is drawn today is drawn by the next version too."""
    cells = sampled(OVER, count=4, most=99)
    assert cells == sampled(OVER, count=4, most=99, draw=0) != sampled(OVER, count=4, most=99, draw=1)
    shift = np.random.default_rng(0).random(3)
    assert cells[0] == {"lr": float(f"{1e-4 * 1000 ** shift[0]:.4g}"), "warmup": int(10 * shift[1]),
                        "norm": OVER["norm"][int(3 * shift[2])]}  # fmt: skip


def test_a_sample_is_a_factor_of_a_product_as_toml_says():
    cells = parse(tomllib.loads("""
        [grid.product]
        norm = ["rms", "layer"]
        [[grid.product.of]]
        sample = { count = 4, draw = 3, method = "random", over = { lr = { low = 1e-4, high = 1e-2, scale = "log" } } }
    """)["grid"])  # fmt: skip
    rates = [cell["lr"] for cell in sampled({"lr": {"low": 1e-4, "high": 1e-2, "scale": "log"}}, count=4, most=9,
                                            draw=3, method="random")]  # fmt: skip
    assert [(cell["lr"], cell["norm"]) for cell in cells] == [(rate, n) for rate in rates for n in ("rms", "layer")]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"count": 12}, "count=12 points of Sobol's sequence are not balanced; use 8 or 16"),
        ({"count": 0}, "count=0 is no number of cells; use 1 to 10000"),
        ({"count": 2**20}, "count=1048576 is no number of cells"),
        ({"count": "4"}, "count='4' is no number of cells"),
        ({"method": "grid"}, "method='grid' is unknown; use one of random, sobol"),
        ({"draw": -1}, "draw=-1 is no seed of draws"),
        ({"counts": 3}, "sample='counts' is unknown; did you mean 'count'"),
        ({"over": {}}, "over takes settings with lists of values, not {}"),
        ({"over": {"lr": 0.1}}, "lr takes a list of values or {low, high, scale}, not 0.1"),
        ({"over": {"lr": []}}, "lr takes a list of values or {low, high, scale}, not []"),
        ({"over": {"lr": {"low": 0.1}}}, "lr has high=None, which is no number of a range"),
        ({"over": {"lr": {"low": 0.2, "high": 0.1}}}, "lr has low=0.2 and high=0.1; let low be less"),
        ({"over": {"lr": {"low": 0.0, "high": 0.1, "scale": "log"}}}, "lr has low=0.0, which has no logarithm"),
        ({"over": {"lr": {"low": 0.0, "high": 0.1, "scale": "ln"}}}, "scale='ln' is unknown"),
        ({"over": {"lr": {"low": 0.0, "hi": 0.1}}}, "range of lr='hi' is unknown"),
        ({"over": {"lr": {"low": 0.0, "high": float("inf")}}}, "lr has high=inf, which is no number of a range"),
    ],
)
def test_samples_that_are_none(changed, sentence):
    with pytest.raises(ValueError) as refused:
        parse({"sample": {"count": 4, "over": OVER, **changed}})
    assert str(refused.value).startswith(sentence) and "\n" not in str(refused.value)


def test_a_sample_says_how_many_and_of_what():
    for missing in ("count", "over"):
        said = {name: value for name, value in {"count": 4, "over": OVER}.items() if name != missing}
        with pytest.raises(ValueError, match="sample takes count, and over"):
            parse({"sample": said})
