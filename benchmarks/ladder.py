"""How often the interval of a compute-equivalent gain holds the truth: simulated laws of the shapes that are seen.

    python -m benchmarks.ladder [laws]

Each law has its own floor, exponent, gain and noise. Every rung has three rates, whose best one is chosen on the runs
that are judged, as the command does; runs of one seed share half of their variance between arms.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fxformer.table import columns
from train.verdict.ladder import LEAST_FIT, gain

SHAPES = {  # (rungs, seeds, degrees of freedom of the noise's tails, decades of compute)
    "4 sizes, 3 seeds": (4, 3, np.inf, 1.2),
    "4 sizes, 5 seeds": (4, 5, np.inf, 1.2),
    "6 sizes, 3 seeds": (6, 3, np.inf, 2.0),
    "5 sizes, 8 seeds": (5, 8, np.inf, 1.5),
    "4 sizes, 5 seeds, heavy tails": (4, 5, 4, 1.2),
}


class Coverage(NamedTuple):
    """Of the laws of a shape: how many intervals hold the truth, how many were withheld, and the median width."""

    shape: str
    held: float
    withheld: float
    unbounded: float
    width: float


def simulated(rng: np.random.Generator, rungs: int, seeds: int, tails: float, decades: float) -> tuple:
    """(first arm, second arm, true gain); an arm is (FLOPs [R], losses [R, seeds])."""
    floor, exponent, factor = rng.uniform(1.0, 2.2), rng.uniform(0.1, 0.5), np.exp(rng.uniform(-0.4, 0.4))
    flops_R = 1e12 * 10 ** np.linspace(0, decades, rungs)
    sigma = rng.uniform(0.004, 0.02)

    def noise(*shape: int) -> np.ndarray:
        return (
            rng.normal(size=shape) if np.isinf(tails) else rng.standard_t(tails, shape) / np.sqrt(tails / (tails - 2))
        )

    shared_RS = noise(rungs, seeds)
    arms = []
    for scale in (1.0, factor):
        law_R = floor + 1.2 * (scale * flops_R / 1e12) ** -exponent
        centre_R = rng.uniform(-0.3, 0.3, rungs)  # of the best rate, in steps of the grid
        costs_LR = 0.08 * (np.array([[-1.0], [0.0], [1.0]]) - centre_R) ** 2
        own_LRS = (shared_RS + noise(3, rungs, seeds)) / np.sqrt(2) * sigma
        losses_LRS = law_R[:, None] + costs_LR[..., None] - (0.08 * centre_R**2)[:, None] + own_LRS
        best_R = losses_LRS.mean(axis=2).argmin(axis=0)
        arms.append((flops_R, losses_LRS[best_R, np.arange(rungs)]))
    return *arms, factor


def coverage(shape: str, laws: int, seed: int = 0) -> Coverage:
    """What `gain` says of so many simulated laws."""
    rng = np.random.default_rng(seed)
    held, widths, withheld, unbounded = 0, [], 0, 0
    for _ in range(laws):
        first, second, truth = simulated(rng, *SHAPES[shape])
        found = gain(first, second)
        if found.p < LEAST_FIT:
            withheld += 1
            continue
        held += found.factor.low <= truth <= found.factor.high
        unbounded += not np.isfinite(np.log(found.factor.high)) or found.factor.low <= 0
        widths.append(found.factor.high / max(found.factor.low, 1e-9))
    return Coverage(shape, held / len(widths), withheld / laws, unbounded / laws, float(np.median(widths)))


def table(laws: int) -> Iterator[tuple[str, ...]]:
    yield "shape", "coverage", "withheld", "unbounded", "high / low, median"
    for shape in SHAPES:
        row = coverage(shape, laws)
        yield (shape, f"{row.held:.1%}", f"{row.withheld:.1%}", f"{row.unbounded:.1%}", f"{row.width:.3f}")


if __name__ == "__main__":
    print(columns(list(table(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))))
