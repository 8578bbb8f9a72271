"""Loss curves: every run of a size at a learning rate, the mean of each arm over them."""

from collections.abc import Sequence

import numpy as np

from train.report.arms import Sweep, rate
from train.report.charts.chart import Chart, Panel, Plot, faint, of_run, references, titled
from train.report.charts.losses import best_of
from train.report.charts.profile import mean_of
from train.verdict.number import number_of
from train.verdict.outcome import FAILED
from train.verdict.runs import Result, by

POINTS = 130  # of a curve, at most
SPAN = 5  # points that a running mean goes over
LEFT = ("diverged", "spiked")  # outcomes whose step is where the run left its course


def curves(sweep: Sweep) -> Chart | str:
    """Training loss of each run, a panel for each size and learning rate; a cross where a run left its course."""
    told = [r for r in sweep.results if len(r["loss"])]
    if not told:
        return "No run has a loss curve in its record."
    panels = []
    for size, group in sweep.by_size(told):
        for (lr,), runs in sorted(by(group, "lr").items()):
            panels.append(Panel(place=(sweep.called(size), rate(lr)), plot=_panel(sweep, runs)))
    size, group = sweep.by_size(told)[-1]
    best = [b for runs in sweep.arms.of(group).values() for b in best_of(sweep, runs)]
    start = (sweep.called(size), rate(min(best, key=lambda b: (b.failed, b.mean)).rate)) if best else panels[-1].place
    failed = sum(r["outcome"] in FAILED for r in told)
    ran = number_of(len(told), "run")
    return Chart(
        panels=panels, controls=(sweep.size or "runs", "learning rate"), start=start,
        finding=f"{failed} of {ran} failed; first those of {start[0]} at its best learning rate",
    )  # fmt: skip


def _panel(sweep: Sweep, group: Sequence[Result]) -> Plot:
    plot = Plot()
    for name, runs in sweep.arms.of(group).items():
        style = sweep.arms.styles[name]
        smooth = [_thinned(run) for run in runs]
        for run, (x, y) in zip(runs, smooth, strict=True):
            plot.add(
 type="scatter",
                x=x, y=y, mode="lines", line={"color": faint(style.colour), "width": 1},
                hovertext=of_run(sweep, run), hoverinfo="text",
                meta={"arm": name, "run": sweep.place[id(run)]},
            )  # fmt: skip
            if run["outcome"] in LEFT:
                _add_cross(plot, sweep, run, x, y, style.colour)
        longest = max((x for x, _ in smooth), key=len)
        whole = [y for x, y in smooth if len(x) == len(longest)]
        told = f"{name}<br>step %{{x}}: mean %{{y:.3f}}, n = {len(whole)}<extra></extra>"
        plot.add(
            type="scatter", x=longest, y=mean_of(whole).round(4), mode="lines", line=style.line(), hovertemplate=told,
            meta={"arm": name},
        )  # fmt: skip
    references(plot, group[0])
    plot.axes(x=titled("step"), y=titled("training loss, nats per token"))
    return plot


def _thinned(run: Result) -> tuple[list[int], np.ndarray]:
    """Steps and the running mean of losses, as many as a chart can show; what is no number stays none."""
    values = np.array([np.nan if value is None else value for value in run["loss"]])
    padded = np.pad(values, (SPAN // 2, SPAN - 1 - SPAN // 2), mode="edge")
    mean = np.lib.stride_tricks.sliding_window_view(padded, SPAN).mean(axis=1).round(4)
    each = -(-len(mean) // POINTS)
    return [(k + 1) * run["loss_every"] for k in range(0, len(mean), each)], mean[::each]


def _add_cross(plot: Plot, sweep: Sweep, run: Result, x: Sequence[int], y: np.ndarray, colour: str) -> None:
    before = [value for step, value in zip(x, y, strict=True) if step <= run["outcome_step"] and np.isfinite(value)]
    plot.add(
        type="scatter",
        x=[run["outcome_step"]],
        y=[before[-1] if before else run["initial_loss"]],
        mode="markers",
        marker={"symbol": "x", "color": colour, "size": 9},
        hovertext=f"{of_run(sweep, run)}<br>{run['outcome']} at step {run['outcome_step']}",
        hoverinfo="text",
        meta={"arm": sweep.arms.name(run), "run": sweep.place[id(run)]},
    )
