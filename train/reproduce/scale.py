"""What depth and width do: activations that grow (E6), and where the best rate goes (E8, E11)."""

import math
from dataclasses import replace

import numpy as np

from train.config import Config
from train.reproduce.claim import (
    ABOVE_0,
    Claim,
    Expected,
    Interval,
    exactly,
    of_mean,
)
from train.reproduce.reading import (
    Curve,
    Found,
    Results,
    best_rate,
    difference,
    exponents,
    where,
)
from train.sweep.coords import FLAT, coordinates
from train.verdict.runs import Result
from train.verdict.stats import loglog_slope
from train.verdict.transfer import step_of, transfers


def activation_growth(config: Config, results: Results) -> Found:
    """E6. The residual stream by depth after training, pre against sandwich."""
    source = "Kim et al. 2025 (Peri-LN), section 3"
    arms = {name: where(results, placement=name) for name in ("pre", "sandwich")}
    rate = min(best_rate(runs) for runs in arms.values())
    same = {name: where(runs, lr=rate) for name, runs in arms.items()}
    levels = {name: np.array([r["stats_final"]["residual_rms"] for r in runs], float) for name, runs in same.items()}

    def growth(result: Result) -> float:
        rms = result["stats_final"]["residual_rms"]
        return loglog_slope(range(1, len(rms) + 1), rms).slope

    def level(result: Result) -> float:
        return result["stats_final"]["residual_rms"][-1]

    return Found(
        claims=[
            Claim(
                "after training the stream grows faster by depth in pre-norm than in sandwich, difference of exponents",
                source,
                ABOVE_0,
                difference(same["pre"], same["sandwich"], growth),
            ),
            Claim(
                "its last layer stands higher in pre-norm, log of the ratio",
                source,
                ABOVE_0,
                difference(same["pre"], same["sandwich"], lambda result: math.log(level(result))),
            ),
            Claim(
                "its last layer grows faster with the rate in pre-norm, difference of exponents",
                source,
                ABOVE_0,
                of_mean(exponents(arms["pre"], "lr", level) - exponents(arms["sandwich"], "lr", level)),
            ),
        ],
        axes=("layer", "RMS of the stream after training"),
        curves=[Curve(name, range(1, rms.shape[1] + 1), rms.mean(0).tolist()) for name, rms in levels.items()],
        note=f"Both at the rate {rate:g}, the smaller of their best ones.",
    )


def transfer(config: Config, results: Results, *, across: str, still: str, moving: str, source: str) -> Found:
    """E8, E11. Where the best rate goes as a model grows, in steps of the grid of rates."""
    found = {each.arm["parametrization"]: each for each in transfers(results, across)}
    sizes = [best.size for best in found[still].best]
    span = f"from {across} {sizes[0]} to {sizes[-1]}, in steps of the grid"
    return Found(
        claims=[
            Claim(
                f"under {still} the best rate stays {span}",
                source,
                Expected("one step at most, either way", low=-1.0, high=1.0),
                Interval(*found[still].shift),
            ),
            Claim(
                f"under {moving} it falls {span}",
                source,
                Expected("by more than one step", high=-1.0),
                Interval(*found[moving].shift),
            ),
        ],
        axes=(across, "best rate"),
        curves=[Curve(name, sizes, [best.rate for best in each.best]) for name, each in found.items()],
        note=f"A step of the grid is a factor of {step_of(results):.3g}.",
    )


def mup(config: Config, results: Results) -> Found:
    """E8. Where the best rate goes as a model widens, and how much a few steps change every activation of it."""
    source = "Yang et al. 2022 (Tensor Programs V)"
    found = transfer(config, results, across="width", still="mup", moving="standard", source=source)
    slopes: dict[str, list[float]] = {"mup": [], "standard": []}
    for each in coordinates(config, say=lambda line: None):
        if each.slopes.change is not None:
            slopes[each.arm["parametrization"]].append(each.slopes.change.slope)
    checked = [
        Claim(
            "under mup a few steps change every activation by as much at every width, the largest exponent",
            f"{source}, appendix D.1",
            Expected(f"within {FLAT} of 0", low=-FLAT, high=FLAT),
            exactly(max(slopes["mup"], key=abs)),
        ),
        Claim(
            "under standard they change every activation by more in a wider model, the smallest exponent",
            f"{source}, appendix D.1",
            Expected(f"more than {FLAT}", low=FLAT),
            exactly(min(slopes["standard"])),
        ),
    ]
    return replace(found, claims=[*found.claims, *checked])
