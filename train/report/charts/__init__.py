"""The charts of a report, in the order of the page: each a function of a sweep that returns a chart, or one sentence
why there is none."""

from collections.abc import Callable
from typing import NamedTuple

from train.report.arms import Sweep
from train.report.charts.chart import Chart
from train.report.charts.curves import curves
from train.report.charts.losses import by_rate, by_size, sensitivities
from train.report.charts.profile import by_layer, gradients
from train.report.charts.rates import outcomes, usable


class Entry(NamedTuple):
    """A line of the table. caption: how to read it."""

    title: str
    caption: str
    draw: Callable[[Sweep], Chart | str]


FIRST = {  # on the first screen, beside the answer
    "best": Entry(
        "Loss at the best learning rate",
        "Mean over the seeds that did not fail with its 95 % interval; hollow where every run failed.",
        by_size,
    ),
    "usable": Entry(
        "Largest usable learning rate",
        "Up to which runs work, from the best one on: mean over seeds with its 95 % interval; hollow where the grid "
        "ends there.",
        usable,
    ),
}
CHARTS = {
    "losses": Entry(
        "Loss against learning rate",
        "Mean over the seeds that did not fail with its 95 % interval; a small mark is a run, a cross one that failed. "
        "Bars at the bottom: rates at which at least half of the seeds did not fail. Dashed: what a model would lose "
        "that knows nothing (log V), the frequency of tokens, or the one token before.",
        by_rate,
    ),
    "outcomes": Entry(
        "How runs ended",
        "A bar is an arm at one learning rate, its parts are runs. Slow: still falling, undertrained; stuck: flat at "
        "what the frequency of tokens gives; spiked: works, after a rise. Diverged and stuck runs failed.",
        outcomes,
    ),
    "sensitivity": Entry(
        "LR sensitivity",
        "Mean loss over the learning rates at which no run of any arm fails, less that at the best one: lower is more "
        "forgiving (Wortsman et al. 2023).",
        sensitivities,
    ),
    "layers": Entry(
        "By block, through training",
        "At each arm's best learning rate: mean over seeds of what flows through each block.",
        by_layer,
    ),
    "curves": Entry(
        "Loss curves",
        "Thin: a run, as the mean of five steps; thick: the mean of an arm. A cross: a run diverged or spiked.",
        curves,
    ),
    "gradients": Entry(
        "Gradient at initialisation against depth",
        "Of the last feed-forward matrix, with the exponent that fits. Theory: 0 for post-norm, -1/2 for pre-norm "
        "(Xiong et al. 2020).",
        gradients,
    ),
}
