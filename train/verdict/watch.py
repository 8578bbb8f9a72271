"""Has a loss just spiked? The rule of `outcome`, as far as it can be told while a run goes on."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import median_abs_deviation

from train.verdict.outcome import SPIKE, SUSTAINED, TREND

WATCHED = 8 * TREND  # losses that are looked back at


def has_spiked(losses: Sequence[float]) -> bool:
    """Are the last SUSTAINED losses, one a step, above the median of the TREND before them by more than SPIKE robust
    standard deviations of such rises in the last WATCHED steps?"""
    if len(losses) < 2 * TREND:
        return False
    recent, before = losses[-SUSTAINED:], losses[-SUSTAINED - TREND : -SUSTAINED]
    if min(recent) <= max(before):  # nearly every step ends here, in a microsecond
        return False
    past = np.asarray(losses[-WATCHED:-SUSTAINED], float)
    trends = np.median(np.lib.stride_tricks.sliding_window_view(past, TREND)[:-1], axis=1)
    scale = median_abs_deviation(past[TREND:] - trends, scale="normal")
    return bool(min(recent) - np.median(before) > SPIKE * max(scale, 1e-6))
