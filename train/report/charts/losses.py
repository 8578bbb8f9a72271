"""Losses after training: by size at each arm's best learning rate, by learning rate, and what a wrong rate costs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from train.report.arms import Sweep, rate
from train.report.charts.chart import (
    Chart,
    Mark,
    Panel,
    Plot,
    add_marks,
    levels,
    log_rates,
    of_run,
    references,
    titled,
    with_room,
)  # fmt: skip
from train.verdict.cells import alone, estimate_of
from train.verdict.choice import alive, chosen, is_usable
from train.verdict.outcome import FAILED
from train.verdict.runs import Result, by, loss_of
from train.verdict.stats import mean_interval

LOSS = "validation loss, nats per token"
HEIGHT_OF_MARKS = 0.02  # between the marks of usable rates of two arms, as a share of the panel


class Best(NamedTuple):
    """An arm of one size at its best rate: mean loss over seeds, its 95 % interval, and did all of its runs fail."""

    size: int | None
    rate: float
    mean: float
    low: float
    high: float
    seeds: int
    failed: bool


def best_of(sweep: Sweep, runs: Sequence[Result]) -> list[Best]:
    """One for each size, the smallest first; of what did not fail at the best rate, or of all where all did."""
    told = []
    for size, group in sweep.by_size(runs):
        (lr,) = chosen(group, ("lr",))
        at = [r for r in group if r["args"]["lr"] == lr]
        losses = [value for value in map(loss_of, alive(at) or at) if np.isfinite(value)]
        if losses:
            told.append(Best(size, lr, *mean_interval(losses), len(losses), not alive(at)))
    return told


def by_size(sweep: Sweep) -> Chart:
    """The shortest answer: the loss of each arm at its best learning rate against the size, with 95 % intervals."""
    plot, arms = Plot(), sweep.arms.of(sweep.results)
    (axis, places), last_size = sweep.stand(0.5), sweep.sizes[-1][0]
    best = {name: best_of(sweep, runs) for name, runs in arms.items()}
    for name, told in best.items():
        marks = [Mark(places[name, b.size], b.mean, b.low, b.high, _said(sweep, name, b), b.failed) for b in told]
        add_marks(plot, name, sweep.arms.styles[name], marks)
    references(plot, sweep.results[0])
    heights = [end for told in best.values() for b in told for end in (b.low, b.high)]
    plot.axes(x=axis, y={**titled(LOSS), "range": with_room([*heights, *levels(sweep.results[0], heights)])})
    where = f" at {sweep.called(last_size)}" if sweep.size else ""
    last = [(b.mean, name) for name, told in best.items() for b in told if not b.failed and b.size == last_size]
    least = f"lowest validation loss{where}: {min(last)[1]} {min(last)[0]:.3f} nats" if last else ""
    return Chart(panels=[Panel(place=(), plot=plot)], finding=least or f"every run failed{where}")


def _said(sweep: Sweep, name: str, best: Best) -> str:
    at = f"{sweep.called(best.size)}, best learning rate {rate(best.rate)}"
    dead = "<br>every run failed" if best.failed else ""
    return f"{name}<br>{at}<br>{best.mean:.4f} [{best.low:.4f}, {best.high:.4f}], n = {best.seeds}{dead}"


def by_rate(sweep: Sweep) -> Chart | str:
    """Validation loss against the learning rate, a panel a size: means of those alive, every run, usable rates."""
    if len(sweep.rates) < 2:
        return f"Only one learning rate was tried, {rate(sweep.rates[0])}."
    panels, said = [], []
    for size, group in sweep.sizes:
        plot = Plot()
        arms = sweep.arms.of(group)
        low, high = with_room([*map(loss_of, sweep.results), *levels(sweep.results[0])]) or (0.0, 1.0)
        for k, (name, runs) in enumerate(arms.items()):
            _add_arm(plot, sweep, name, runs)
            _add_usable(plot, sweep, name, runs, low - k * HEIGHT_OF_MARKS * (high - low))
        references(plot, group[0])
        plot.axes(
            x={**titled("learning rate"), **log_rates(sweep.rates)},
            y={**titled(LOSS), "range": [low - len(arms) * HEIGHT_OF_MARKS * (high - low), high]},
        )
        panels.append(Panel(place=(sweep.called(size),), plot=plot))
        best = min((b for runs in arms.values() for b in best_of(sweep, runs) if not b.failed), default=None,
                   key=lambda b: b.mean)  # fmt: skip
        said.append(f"{sweep.called(size)}: " + (f"lowest loss at {rate(best.rate)}" if best else "every run failed"))
    return Chart(panels=panels, controls=(sweep.size or "runs",), together=True, finding="; ".join(said))


def _add_arm(plot: Plot, sweep: Sweep, name: str, runs: Sequence[Result]) -> None:
    """The mean of what did not fail at each rate, with its interval, and each run: a cross where it failed."""
    style, marks = sweep.arms.styles[name], []
    for (lr,), each in sorted(by(runs, "lr").items()):
        if losses := [loss_of(r) for r in alive(each)]:
            mean, low, high = mean_interval(losses)
            said = f"{mean:.4f} [{low:.4f}, {high:.4f}]<br>{len(each) - len(losses)} of {len(each)} seeds failed"
            marks.append(Mark(lr, mean, low, high, f"{name}<br>learning rate {rate(lr)}: {said}"))
    add_marks(plot, name, style, marks)
    plot.add(
        type="scatter",
        x=[r["args"]["lr"] for r in runs],
        y=[loss_of(r) for r in runs],
        mode="markers",
        marker=style.marker(
            size=[8 if r["outcome"] in FAILED else 5 for r in runs],
            symbol=["x-thin-open" if r["outcome"] in FAILED else style.symbol for r in runs],
            opacity=0.6,
        ),
        hovertext=[of_run(sweep, r) for r in runs],
        hoverinfo="text",
        meta={"arm": name, "runs": [sweep.place[id(r)] for r in runs]},
    )


def _add_usable(plot: Plot, sweep: Sweep, name: str, runs: Sequence[Result], height: float) -> None:
    """A bar over the rates at which at least half of the seeds did not fail."""
    usable = sorted(lr for (lr,), each in by(runs, "lr").items() if is_usable(each))
    if not usable:
        return
    style = sweep.arms.styles[name]
    plot.add(
        type="scatter",
        x=[usable[0], usable[-1]],
        y=[height, height],
        mode="lines",
        line={"color": style.colour, "width": 4},
        hovertext=f"{name}<br>at least half of the seeds did not fail from {rate(usable[0])} to {rate(usable[-1])}",
        hoverinfo="text",
        meta={"arm": name},
    )


def sensitivities(sweep: Sweep) -> Chart | str:
    """What a wrong learning rate costs an arm, over the rates at which no run of any arm fails."""
    if len(sweep.rates) < 2:
        return f"Only one learning rate was tried, {rate(sweep.rates[0])}."
    (axis, places), plot, said = sweep.stand(0.5), Plot(), []
    for name, style in sweep.arms.styles.items():
        if marks := [mark._replace(x=places[name, mark.x]) for mark in _sensitivity(sweep, name)]:
            add_marks(plot, name, style, marks)
            said.append(f"{name} {marks[-1].y:.2f}")
    if not said:
        return "Nowhere are there two learning rates at which no run of any arm fails."
    plot.axes(x=axis, y={**titled("LR sensitivity, nats per token"), "rangemode": "tozero"})
    return Chart(panels=[Panel(place=(), plot=plot)], finding=f"in nats, at the largest size it has: {', '.join(said)}")


def _sensitivity(sweep: Sweep, name: str) -> list[Mark]:
    """What a wrong rate costs an arm at each size where that can be said; x is the size."""
    marks = []
    for size, everyone in sweep.sizes:
        own, at = sweep.arms.of(everyone).get(name, []), sweep.called(size)
        cell = alone("lr sensitivity", own, everyone, ("lr",)) if own else None
        if cell is not None and len(cell.first) > 1:
            estimate = estimate_of([cell], [1.0])
            low, high = estimate.interval()
            said = f"{name}<br>{at}: {estimate.value:.3f} [{low:.3f}, {high:.3f}] nats, n = {len(cell.first)}"
            marks.append(Mark(size, estimate.value, low, high, said))
    return marks
