"""Records of runs that never were, for tests of what is said of them."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
BEST = 0.01


def run(val_loss: float | None = 2.5, outcome: str = "worked", **args: Any) -> dict[str, Any]:
    settings = {"placement": "pre", "norm": "rms", "depth": 4, "lr": BEST, "seed": 0, **args}
    budget = {"params": 50_000, "tokens": 51_200, "flops": 1.5e10}
    return {"args": settings, "val_loss": val_loss, "outcome": outcome, "initial_loss": 5.5, **budget}


def bowl(lr: float) -> float:
    """Loss against rate, best at BEST, a middle rate of the grid."""
    return 2.5 + 0.3 * math.log10(lr / BEST) ** 2


def sweep(
    effect: Callable[[dict], float] = lambda cell: 0.0,
    *,
    noise: float = 0.005,
    key: int = 0,
    seeds: int = 4,
    rates: Sequence[float] = RATES,
    fails: Callable[[dict], bool] = lambda cell: False,
    **axes: Sequence[Any],
) -> list[dict[str, Any]]:
    """One run for each combination of the axes, rates and seeds: bowl + effect + what a seed has + noise of its own.

    Where it fails the run is stuck at 3.3 nats.
    """
    random = np.random.default_rng(key)
    common = random.normal(0, 0.05, seeds)
    runs = []
    for values in itertools.product(*axes.values(), rates, range(seeds)):
        cell = dict(zip([*axes, "lr", "seed"], values, strict=True))
        loss = bowl(cell["lr"]) + effect(cell) + common[cell["seed"]] + noise * random.standard_normal()
        runs.append(run(3.3, "stuck", **cell) if fails(cell) else run(loss, **cell))
    return runs
