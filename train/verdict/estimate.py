"""How large a difference is, and how sure that is: contrasts of cells with their error, and intervals.

A difference is one number a block, the runs of one seed in one cell. A contrast weighs the cells: equal weights are an
effect pooled over them, weights that sum to zero say how the difference changes from cell to cell.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

LEVEL = 0.05  # the chance that any interval of a family misses what is true


class Estimate(NamedTuple):
    """A number and its standard error, with degrees of freedom. text: the variance that the windows of text add to it,
    of which there are many: more seeds do not lessen it. fair: the degrees of freedom without the bias by which `dof`
    is too few where many cells have few seeds each; None: there is no such bias."""

    value: float
    error: float
    dof: float
    text: float = 0.0
    fair: float | None = None

    @property
    def unbiased_dof(self) -> float:
        """`fair`, or `dof` where that has no bias."""
        return self.dof if self.fair is None else self.fair

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """What it may be, wrong with chance `level`: Student's t, exact for one cell whose text adds nothing.

        Where few seeds tell several variances, or a known one of the text is added, no interval is exact. One errs on
        the safe side: seeds and text each with its own quantile, their squares added (Howe 1974). One t for the whole
        of the variance (Welch 1947) errs on the other, since few seeds that agree by chance then look like many. Half
        of the interval is the mean of both, and never less than without the text.
        """
        half = self._half(level)
        return self.value - half, self.value + half

    @property
    def p(self) -> float:
        """The level whose interval just reaches zero: of a difference as large where there is none; two-sided."""
        return level_at(self._half, self.value)

    def _half(self, level: float) -> float:
        text = float(ndtri(1 - level / 2)) * math.sqrt(self.text)
        if self.error == 0:
            return text
        whole = self.error**2 + self.text
        seeds, unbiased = (student(dof, level) * self.error for dof in (self.dof, self.unbiased_dof))
        together = student(self.unbiased_dof * (whole / self.error**2) ** 2, level) * math.sqrt(whole)
        return max(math.hypot(seeds, text) + together, seeds + unbiased) / 2


def student(dof: float, level: float) -> float:
    """Half of Student's interval, in standard errors."""
    return float(stdtrit(dof, 1 - level / 2))


SMALLEST = 1e-12  # of all p


def level_at(half: Callable[[float], float], value: float, *, least: float = SMALLEST) -> float:
    """The level, `least` or more, at which half of an interval is as long as `value`: its p. half: falls with it."""
    if half(least) < abs(value):
        return least
    if half(1.0) >= abs(value):
        return 1.0
    return float(brentq(lambda level: half(level) - abs(value), least, 1.0, xtol=1e-15))


def contrast(
    differences_CN: np.ndarray,
    weights_C: Sequence[float],
    *,
    seeds_CN: np.ndarray | None = None,
    windows_CNW: np.ndarray | None = None,
    away_CN: np.ndarray | None = None,
    mutual_C: Sequence[float] | None = None,
    resolution: float = 0.0,
) -> Estimate:
    """sum_c weight_c * mean_n difference_cn, with an error by seeds and, where they are known, by windows of text.

    differences_CN: NaN where a block is missing; a cell needs two. seeds_CN: which seed a block is of: blocks of one
    seed are one cluster, in however many cells it stands, since they began alike. None: every column is one seed.
    windows_CNW: the same differences on each window of the held-out text; the same windows stand in every block, and
    the error is that of another text as well as of other seeds. away_CN: the error of each block beside the mean of its
    cell, None: the difference beside it. mutual_C: the covariance of the errors of two blocks (`spread`), which cells
    of the same seeds are taken to share as far as they share the rest. resolution: the standard deviation that rounding
    gives one difference: runs that agree to the last rung are not without error.

    The error is cluster-robust with the CR2 correction, its degrees of freedom Satterthwaite's; for one cell it is that
    of Student's paired t. Bell & McCaffrey 2002; seeds and windows are crossed, and their variances add (Owen 2007).
    Raises ValueError for a cell with fewer than two differences.
    """
    known_CN = np.isfinite(differences_CN)
    counts_C = known_CN.sum(axis=1)
    if counts_C.min(initial=2) < 2:
        raise ValueError(f"a cell needs 2 differences or more, one has {counts_C.min()}")
    w_C1 = np.asarray(weights_C, float)[:, None]
    n_C1 = counts_C[:, None]
    d_CN = np.where(known_CN, differences_CN, 0.0)
    means_C1 = d_CN.sum(axis=1, keepdims=True) / n_C1
    residuals_CN = np.where(known_CN, d_CN - means_C1 if away_CN is None else away_CN, 0.0)
    together_C = np.zeros(len(d_CN)) if mutual_C is None else np.asarray(mutual_C, float)
    share_CN = known_CN * w_C1 / np.sqrt(n_C1 * (n_C1 - 1))
    cluster_CN = np.broadcast_to(np.arange(d_CN.shape[1]), d_CN.shape) if seeds_CN is None else seeds_CN
    _, cluster_CN = np.unique(cluster_CN, return_inverse=True)
    cluster_CN = cluster_CN.reshape(d_CN.shape)
    scores = np.bincount(cluster_CN.ravel(), (share_CN * residuals_CN).ravel())
    own_C, beside_C = (residuals_CN**2).sum(axis=1) / (counts_C - 1), together_C * (counts_C - 1)
    own, beside = (float(np.sum(w_C1[:, 0] ** 2 * each_C / counts_C)) for each_C in (own_C, beside_C))
    by_seed = float(np.sum(scores**2)) * (1 + beside / own if own else 1.0)
    spread_C = np.maximum(own_C + beside_C, resolution**2)
    floor = resolution**2 * float(np.sum(w_C1[:, 0] ** 2 / counts_C))
    by_seed, (dof, fair) = max(by_seed, floor), _dof(share_CN, known_CN, cluster_CN, spread_C)
    value = float(np.sum(w_C1 * means_C1))
    if windows_CNW is None:
        return Estimate(value, math.sqrt(by_seed), dof, fair=fair)
    text = _by_window(windows_CNW, known_CN, w_C1 / n_C1, share_CN, cluster_CN)
    return Estimate(value, math.sqrt(by_seed), dof, text, fair)


def _dof(
    share_CN: np.ndarray, known_CN: np.ndarray, cluster_CN: np.ndarray, spread_C: np.ndarray
) -> tuple[float, float]:
    """Satterthwaite's degrees of freedom of the sum of squared scores, for independent differences of these variances.

    The scores are linear in the differences: with B their covariance, 2 E^2 / Var = tr(B)^2 / tr(B^2), and B is the sum
    over cells of a variance times a matrix. The second number takes each squared variance without its bias: n seeds
    tell it (n + 1) / (n - 1) times too large on average (Welch 1947).
    """
    cells, columns = np.nonzero(known_CN)
    n_C = known_CN.sum(axis=1)
    share_CS = np.zeros((len(known_CN), int(cluster_CN.max()) + 1))
    np.add.at(share_CS, (cells, cluster_CN[cells, columns]), share_CN[cells, columns])
    # A cell's matrix is diag(share^2) - share share^T / n, since residuals are differences less their mean.
    trace_C = (share_CS**2).sum(axis=1) * (1 - 1 / n_C)
    apart_CC = share_CS**2 @ (share_CS**2).T * (1 - np.add.outer(1 / n_C, 1 / n_C))
    square_CC = apart_CC + (share_CS @ share_CS.T) ** 2 / np.outer(n_C, n_C)
    products_CC = np.outer(spread_C, spread_C)
    if not np.sum(products_CC * square_CC) > 0:
        return 1.0, 1.0
    fair_CC = products_CC * np.where(np.eye(len(n_C), dtype=bool), (n_C - 1) / (n_C + 1), 1.0)
    squares_CC = np.outer(trace_C, trace_C)
    safe, fair = (np.sum(each_CC * squares_CC) / np.sum(each_CC * square_CC) for each_CC in (products_CC, fair_CC))
    return float(safe), float(fair)


def _by_window(
    windows_CNW: np.ndarray, known_CN: np.ndarray, mean_C1: np.ndarray, share_CN: np.ndarray, cluster_CN: np.ndarray
) -> float:
    """The variance that the choice of windows gives, beyond what the spread of seeds holds already."""
    w_CNW = np.where(known_CN[..., None], windows_CNW, 0.0)
    total_W = np.einsum("cn,cnw->w", known_CN * mean_C1, w_CNW)
    count = len(total_W)
    means_C1W = w_CNW.sum(axis=1, keepdims=True) / known_CN.sum(axis=1)[:, None, None]
    scores_SW = np.zeros((int(cluster_CN.max()) + 1, count))
    np.add.at(scores_SW, cluster_CN, share_CN[..., None] * (w_CNW - means_C1W))
    beside = float(np.var(total_W, ddof=1)) / count
    within = float(np.sum(np.var(scores_SW, axis=1, ddof=1))) / count
    return max(beside - within, 0.0)


def pooled(cells: int) -> np.ndarray:
    """Weights of the mean over cells."""
    return np.full(cells, 1 / cells)
