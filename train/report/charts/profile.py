"""What flows where: numbers by layer through training, and gradients at initialisation."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from train.report.arms import Sweep, rate
from train.report.charts.chart import Chart, Panel, Plot, titled, whole, with_room
from train.verdict.choice import chosen
from train.verdict.runs import Result
from train.verdict.stats import loglog_slope

STATISTICS = {
    "residual_rms": "residual stream, RMS",
    "grad_norm": "gradient norm",
    "update_ratio": "update / parameters",
    "attention_branch_ratio": "attention branch / stream",
    "ffn_branch_ratio": "feed-forward branch / stream",
    "attention_logit_max": "largest attention logit",
    "attention_entropy": "attention entropy, nats",
    "log_z": "log Z of the logits",
    "logit_mean": "mean of the logits",
}


def by_layer(sweep: Sweep) -> Chart | str:
    """Each statistic by block, at each look through training, for the runs of each arm at its best learning rate."""
    panels: list[Panel] = []
    for size, everyone in sweep.sizes:
        best = []
        for runs in sweep.arms.of(everyone).values():
            (lr,) = chosen(runs, ("lr",))
            best += [r for r in runs if r["args"]["lr"] == lr]
        panels += _of_size(sweep, sweep.called(size), best)
    if not panels:
        return f"The runs share none of the statistics {', '.join(STATISTICS)}."
    first = next((p.place[1] for p in panels if p.place[1] == STATISTICS["residual_rms"]), panels[-1].place[1])
    start = [p.place for p in panels if p.place[1] == first][-1]
    return Chart(
        panels=panels, controls=(sweep.size or "runs", "statistic", "step"), start=start, slides=True,
        finding=f"{first} by block after training, {start[0]}: {_ends(panels, start)}",
    )  # fmt: skip


def _of_size(sweep: Sweep, called: str, best: Sequence[Result]) -> Iterator[Panel]:
    for key, title in STATISTICS.items():
        told = {id(run): looks for run in best if (looks := _looks(run, key))}
        ends = with_room([value for looks in told.values() for values in looks.values() for value in values])
        for step in sorted({step for looks in told.values() for step in looks}):
            plot = Plot()
            seen = [run for run in best if step in told.get(id(run), {})]
            for name, runs in sweep.arms.of(seen).items():
                profiles = [told[id(run)][step] for run in runs]
                _add_profile(plot, sweep, name, profiles, rate(runs[0]["args"]["lr"]))
            deepest = max(len(trace["x"]) for trace in plot.traces)
            plot.axes(x={**titled("block"), **whole(deepest)}, y={**titled(title), "range": ends})
            yield Panel(place=(called, title, str(step)), plot=plot)


def _looks(run: Result, key: str) -> dict[int, list[float]]:
    """Numbers by layer, by the steps before each look; of a statistic that was looked at once, that look."""
    course = run["stats_curve"].get(key)
    if course:
        return {look * run["stats_every"]: [_number(v) for v in values] for look, values in enumerate(course)}
    values = run["stats_final"].get(key)
    return {len(run["loss"]) * run["loss_every"]: [_number(v) for v in values]} if values else {}


def _number(value: Any) -> float:
    return np.nan if value is None or isinstance(value, list) else value


def _add_profile(plot: Plot, sweep: Sweep, name: str, profiles: Sequence[Sequence[float]], lr: str) -> None:
    mean, style = mean_of(profiles), sweep.arms.styles[name]
    plot.add(
        type="scatter",
        x=list(range(1, len(mean) + 1)),
        y=mean.round(5),
        mode="lines+markers",
        line=style.line(),
        marker=style.marker(size=6),
        hovertemplate=f"{name}<br>block %{{x}}: %{{y:.4g}}<br>n = {len(profiles)}, learning rate {lr}<extra></extra>",
        meta={"arm": name},
    )


def _ends(panels: Sequence[Panel], place: tuple[str, ...]) -> str:
    """Of each arm the number at the first and at the last block."""
    (plot,) = (p.plot for p in panels if p.place == place)
    return ", ".join(f"{t['meta']['arm']} {t['y'][0]:.3g} to {t['y'][-1]:.3g}" for t in plot.traces)


def gradients(sweep: Sweep) -> Chart | str:
    """Gradient norm of the last feed-forward matrix at initialisation against depth, with the fitted exponent."""
    if sweep.size != "depth":
        return "The depth does not vary."
    plot, said = Plot(), []
    for name, runs in sweep.arms.of(sweep.results).items():
        groups = sweep.by_size(runs)
        if len(groups) < 3:
            return f"An exponent needs three depths; {name} ran at {len(groups)}."
        x = [depth for depth, _ in groups]
        y = [float(np.mean([_number(r["last_ffn_grad_norm"]) for r in each])) for _, each in groups]
        if not all(value > 0 for value in y):
            return f"An exponent needs gradients above 0, those of {name} are not all such numbers."
        slope, style = loglog_slope(x, y), sweep.arms.styles[name]
        said.append(f"{name} depth^{slope.slope:.2f} ± {slope.error:.2f}")
        plot.add(
 type="scatter",
            x=x, y=y, mode="markers", marker=style.marker(size=9), meta={"arm": name},
            hovertemplate=f"{said[-1]}<br>depth %{{x}}: %{{y:.4g}}<extra></extra>",
        )  # fmt: skip
        fitted = np.exp(slope.intercept) * np.asarray(x, float) ** slope.slope
        plot.add(type="scatter", x=x, y=fitted, hoverinfo="skip", mode="lines", line=style.line(), meta={"arm": name})
    ticks = {"tickvals": x, "ticktext": [str(depth) for depth in x]}
    plot.axes(x={**titled("depth, blocks"), "type": "log", **ticks}, y={**titled("gradient norm"), "type": "log"})
    return Chart(panels=[Panel(place=(), plot=plot)], finding=", ".join(said))


def mean_of(profiles: Sequence[Sequence[float] | np.ndarray]) -> np.ndarray:
    """Mean over runs, of one length or several, of what is a number; NaN where none is."""
    values = np.array(list(itertools.zip_longest(*profiles, fillvalue=np.nan)), float).reshape(-1, len(profiles))
    count = np.isfinite(values).sum(axis=1)
    return np.where(count, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan)
