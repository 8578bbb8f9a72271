"""A ladder of sizes: the law L = E + A C^-a that losses follow in compute, and how much compute one arm is worth.

Two arms share E and a: E is the entropy of the text, which no arm changes, and one exponent makes the gain one number,

    L_first = E + A C^-a        L_second = E + A (g C)^-a

so that the second arm needs 1/g of the compute of the first. Whether the losses allow that is tested, and no gain is
stated where they do not. Hoffmann et al. 2022, section 3.3 (the law); Davidson et al. 2023 (compute-equivalent gain).

For a given exponent and gain the law is linear in E and A, so both are solved for, and an interval holds the values
whose best fit is not significantly worse (a profile). The noise is that between seeds, at each rung and for both arms
together: runs of one seed saw the same text. Least squares, not Huber's loss: means over seeds are no outliers.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import stdtrit
from scipy.stats import f as f_distribution

LEVEL = 0.05  # the chance that an interval misses
LEAST_FIT = 0.01  # below this p the losses do not lie on the law
FEWEST_RUNGS, FEWEST_SEEDS = 4, 2
EXPONENTS = np.geomspace(0.01, 4.0, 40)
ZOOMS = 3  # each makes the grid of exponents ten times finer
LARGEST_GAIN = 64.0  # in either direction


class Bounds(NamedTuple):
    """A number and the ends of its interval; an end is infinite where the losses do not bound it."""

    value: float
    low: float
    high: float


class Law(NamedTuple):
    """L = E + A C^-a, its numbers in nats and FLOPs, and p of losses that lie further from it than these."""

    floor: Bounds
    amplitude: float
    exponent: Bounds
    p: float


class Gain(NamedTuple):
    """Of the second arm over the first: compute of the first for the same loss, as a multiple of the second's.

    p: of losses that lie further from one law than these, where one holds.
    """

    factor: Bounds
    p: float


def fit(flops_R: np.ndarray, losses_RS: np.ndarray) -> Law:
    """The law of one arm, from the losses of seeds at each rung. Raises ValueError for too few rungs or seeds."""
    noise = _Noise(np.asarray(losses_RS, float)[None], LEVEL)
    centre = _geometric_mean(flops_R)
    x_1R = np.asarray(flops_R, float)[None] / centre
    target_R, one_R = noise.whiten(noise.means_KR), noise.whiten(np.ones_like(x_1R))

    def solved(exponents_A: np.ndarray) -> tuple[np.ndarray, ...]:
        return _solve(target_R, one_R, noise.whiten(_powers(x_1R, exponents_A)))

    exponent, least = _lowest(lambda exponents_A: solved(exponents_A)[0])

    def excess(log_exponent: float) -> float:
        return float(solved(np.exp([log_exponent]))[0][0]) - least - noise.threshold

    low, high = (_crossing(excess, math.log(exponent), math.log(end)) for end in (EXPONENTS[0], EXPONENTS[-1]))
    squares_A, floors_A, _, variances_A = solved(np.exp(np.linspace(low, high, 101)))
    half_A = np.sqrt(np.maximum(least + noise.threshold - squares_A, 0) * variances_A)
    _, floors, amplitudes, _ = solved(np.array([exponent]))
    return Law(
        floor=Bounds(float(floors[0]), max(0.0, float(np.min(floors_A - half_A))), float(np.max(floors_A + half_A))),
        amplitude=float(amplitudes[0]) * centre**exponent,
        exponent=Bounds(exponent, _open(low, EXPONENTS[0], 0.0), _open(high, EXPONENTS[-1], math.inf)),
        p=noise.p(least, x_1R.size - 3),
    )


def gain(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], *, level: float = LEVEL) -> Gain:
    """How much compute the second arm is worth, from (FLOPs [R], losses [R, seeds]) of both, seeds in one order.

    level: the chance that the interval misses. Raises ValueError for too few rungs or seeds, and for losses that are
    not equally many.
    """
    losses_KRS = np.stack([np.asarray(losses_RS, float) for _, losses_RS in (first, second)])
    noise = _Noise(losses_KRS, level)
    centre = _geometric_mean(first[0])
    x_KR = np.stack([np.asarray(flops_R, float) / centre for flops_R, _ in (first, second)])
    target = noise.whiten(noise.means_KR)
    one = noise.whiten(np.ones_like(x_KR))

    def squares(log_gain: float, zooms: int = ZOOMS) -> float:
        scaled_KR = x_KR * np.exp([[0.0], [log_gain]])

        def of(exponents_A: np.ndarray) -> np.ndarray:
            return _solve(target, one, noise.whiten(_powers(scaled_KR, exponents_A)))[0]

        return _lowest(of, zooms)[1]

    edge = math.log(LARGEST_GAIN)
    grid = np.linspace(-edge, edge, 49)
    near = float(grid[int(np.argmin([squares(each, zooms=0) for each in grid]))])
    step = float(grid[1] - grid[0])
    best = float(minimize_scalar(squares, bounds=(near - step, near + step), method="bounded").x)
    least = squares(best)
    low, high = (_crossing(lambda g: squares(g) - least - noise.threshold, best, end) for end in (-edge, edge))
    return Gain(
        factor=Bounds(
            math.exp(best), math.exp(low) if low > -edge else 0.0, math.exp(high) if high < edge else math.inf
        ),
        p=noise.p(least, x_KR.size - 4),
    )


class _Noise:
    """The covariance of K arms' losses between seeds, the same at every rung, and what follows from it."""

    def __init__(self, losses_KRS: np.ndarray, level: float) -> None:
        arms, rungs, seeds = losses_KRS.shape
        if rungs < FEWEST_RUNGS:
            raise ValueError(f"a law has 3 numbers, and there are {rungs} sizes; use {FEWEST_RUNGS} or more")
        if seeds < FEWEST_SEEDS:
            raise ValueError(f"the noise between seeds needs {FEWEST_SEEDS} of them or more, there is {seeds}")
        self.means_KR = losses_KRS.mean(axis=2)
        residuals_KN = (losses_KRS - self.means_KR[..., None]).reshape(arms, -1)
        self.dof = rungs * (seeds - 1) - (arms - 1)  # of what is left of an arm when the others are known
        covariance_KK = residuals_KN @ residuals_KN.T / (rungs * (seeds - 1))
        self._whitening_KK = np.linalg.inv(np.linalg.cholesky(covariance_KK / seeds + 1e-18 * np.eye(arms)))
        self.threshold = float(stdtrit(self.dof, 1 - level / 2)) ** 2

    def whiten(self, values_KR: np.ndarray) -> np.ndarray:
        """[..., K, R] -> [..., K * R]: numbers whose noise is independent and of variance 1."""
        return (self._whitening_KK @ values_KR).reshape(*values_KR.shape[:-2], -1)

    def p(self, squares: float, left: int) -> float:
        """The chance of a worse fit where the law holds; `left`: means less numbers of the law."""
        return float(f_distribution.sf(squares / left, left, self.dof))


def _powers(x_KR: np.ndarray, exponents_A: np.ndarray) -> np.ndarray:
    """x^-a for each exponent: [A, K, R]."""
    return np.exp(-exponents_A[:, None, None] * np.log(x_KR))


def _solve(target_N: np.ndarray, one_N: np.ndarray, power_AN: np.ndarray) -> tuple[np.ndarray, ...]:
    """Least squares of target = E one + A power for each exponent: squares left over, E, A, and the variance of E."""
    oo, op, pp = one_N @ one_N, power_AN @ one_N, np.sum(power_AN**2, axis=1)
    to, tp = target_N @ one_N, power_AN @ target_N
    determinant = oo * pp - op**2
    floors, amplitudes = (pp * to - op * tp) / determinant, (oo * tp - op * to) / determinant
    left = target_N - floors[:, None] * one_N - amplitudes[:, None] * power_AN
    return np.sum(left**2, axis=1), floors, amplitudes, pp / determinant


def _lowest(squares: Callable[[np.ndarray], np.ndarray], zooms: int = ZOOMS) -> tuple[float, float]:
    """(exponent, squares) where the squares are least: on a grid, then on finer ones about its lowest point."""
    exponents_A = EXPONENTS
    for _ in range(zooms):
        squares_A = squares(exponents_A)
        i = int(np.argmin(squares_A))
        low, high = exponents_A[max(i - 1, 0)], exponents_A[min(i + 1, len(exponents_A) - 1)]
        exponents_A = np.geomspace(low, high, len(EXPONENTS) // 2)
    squares_A = squares(exponents_A)
    i = int(np.argmin(squares_A))
    return float(exponents_A[i]), float(squares_A[i])


def _crossing(excess: Callable[[float], float], inside: float, end: float) -> float:
    """Where `excess` reaches zero between a place where it is below and `end`; `end` where it stays below."""
    nearer = min if end > inside else max
    reach, step = inside, math.copysign(1e-4, end - inside)
    while excess(reach) < 0:
        if reach == end:
            return end
        reach, step = nearer(reach + step, end), step * 2
    return float(brentq(excess, inside, reach, xtol=1e-7))


def _open(log_exponent: float, edge: float, beyond: float) -> float:
    """An exponent at the end of an interval; `beyond` where the exponents that are tried end there."""
    return beyond if math.isclose(log_exponent, math.log(edge)) else math.exp(log_exponent)


def _geometric_mean(flops_R: np.ndarray) -> float:
    return float(np.exp(np.mean(np.log(np.asarray(flops_R, float)))))
