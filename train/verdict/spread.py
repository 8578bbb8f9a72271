"""How far a mean over seeds may be from the truth, where each seed is judged at rates that the others chose.

Let e_s(-s) be the error of seed s at what all but s choose: fresh noise of mean zero. Yet errors of two seeds are not
independent, since each has a voice in what the other is judged at. With -st for the choice of all but both,

    E e_s(-s) e_t(-t) = E [e_s(-s) - e_s(-st)] [e_t(-t) - e_t(-st)]

exactly: in e_s(-st) the noise of t has no part, and given all else it is of mean zero in both terms of t.
So only what two seeds change in each other counts, and nothing does where the choice is clear. Over all pairs it is
the variance that a sample variance does not see: a quarter to a half of the whole where rates are as good as equal. It
needs seeds that are independent, and noise whose mean does not depend on which runs live.
"""

from typing import NamedTuple

import numpy as np

from train.verdict.choice import pairs_among


class Spread(NamedTuple):
    """How the errors of seeds spread in a cell. away_S: how far each is from the mean of all, so that their sum of
    squares over n - 1 is the variance of one error; mutual: the covariance of two."""

    away_S: np.ndarray
    mutual: float


def spread(said_SL: np.ndarray) -> Spread:
    """From what each seed says [S] at what all seeds but some choose [L]: but each one, then but each two.

    NaN: a seed says nothing there. A seed is compared with the mean of the others at the rates that it is judged at
    itself, where the true loss is the same. They chose these, so they look good there: by how much on average is taken
    off. Of a covariance that part is taken off which the noise of the mean of the others gives.
    """
    n = len(said_SL)
    if n < 2:
        return Spread(np.zeros(n), 0.0)
    alone_SS, two_SP = said_SL[:, :n], said_SL[:, n:]
    own_S = np.diag(alone_SS)
    others_S = _mean_of_known(np.where(np.eye(n, dtype=bool), np.nan, alone_SS))
    away_S = np.where(np.isfinite(others_S), (n - 1) / n * (own_S - others_S), own_S - own_S.mean())
    if n > 2:
        away_S -= away_S.mean()
    mutual = [_mutual(alone_SS[:, s] - two_S, alone_SS[:, t] - two_S, s, t)
              for two_S, (s, t) in zip(two_SP.T, pairs_among(n), strict=True)]  # fmt: skip
    return Spread(away_S, max(0.0, float(np.mean(mutual))) if n > 2 else 0.0)


def _mutual(with_t_S: np.ndarray, with_s_S: np.ndarray, s: int, t: int) -> float:
    """What s and t change in each other, multiplied. with_t_S: how what each seed says changes where t chooses too."""
    if not (with_t_S.any() and with_s_S.any()):
        return 0.0
    known_S = np.isfinite(with_t_S) & np.isfinite(with_s_S)
    others_S = known_S.copy()
    others_S[[s, t]] = False
    if not (known_S[s] and known_S[t] and others_S.any()):
        return 0.0
    changed = (with_t_S[s] - with_t_S[others_S].mean()) * (with_s_S[t] - with_s_S[others_S].mean())
    together = float(np.cov(with_t_S[known_S], with_s_S[known_S])[0, 1])
    return float(changed) - together / int(others_S.sum())


def _mean_of_known(values_SL: np.ndarray) -> np.ndarray:
    """Over seeds [L]; NaN where none is known."""
    known_SL = np.isfinite(values_SL)
    with np.errstate(invalid="ignore"):
        return np.where(known_SL, values_SL, 0.0).sum(axis=0) / known_SL.sum(axis=0)


def weighed(values_SR: np.ndarray, shares_LR: np.ndarray) -> np.ndarray:
    """What each seed says under each choice [S, L]: the mean over the rates at which it says something, by shares."""
    known_SR = np.isfinite(values_SR)
    with np.errstate(invalid="ignore"):
        return (np.where(known_SR, values_SR, 0.0) @ shares_LR.T) / (known_SR @ shares_LR.T)
