"""The figures of a report: each a function of results that returns a plotly figure, or None where it has no data."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from train.outcome import WORKED
from train.stats import Result, by, largest_stable_lr, loglog_slope, loss_of, lr_sensitivity

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f", "#666666")  # Okabe & Ito 2008
REFERENCES = {"log_vocab": "log V", "unigram_entropy": "unigram entropy", "bigram_entropy": "bigram entropy"}
FAINT = "rgba(128,128,128,0.35)"


class Arms:
    """What is compared: one arm for each combination of the compared settings, with a name and a colour of its own."""

    def __init__(self, results: Sequence[Result], axes: Sequence[str]) -> None:
        self.results, self.axes = results, axes
        distinct = dict.fromkeys(self.name(result) for result in results)
        self.colours = dict(zip(distinct, itertools.cycle(COLOURS), strict=False))

    def name(self, result: Result) -> str:
        """Like "pre · rms"."""
        return " · ".join(str(result["args"][axis]) for axis in self.axes) or "all runs"

    def of(self, results: Sequence[Result]) -> dict[str, list[Result]]:
        """Results by arm, in the order of the colours; an arm without results is left out."""
        arms: dict[str, list[Result]] = {name: [] for name in self.colours}
        for result in results:
            arms[self.name(result)].append(result)
        return {name: runs for name, runs in arms.items() if runs}


def losses_by_depth(arms: Arms) -> go.Figure:
    """Validation loss against the peak rate, a panel a depth: mean over seeds as a line, seeds as points."""
    depths = sorted(by(arms.results, "depth").items())
    figure = make_subplots(
        cols=len(depths), shared_yaxes=True, subplot_titles=[f"depth {d}" for (d,), _ in depths], x_title="peak rate"
    )
    for column, (_, group) in enumerate(depths, 1):
        for name, runs in arms.of(group).items():
            rates = sorted(by(runs, "lr").items())
            x = [lr for (lr,), _ in rates]
            line = {"color": arms.colours[name]}
            means = [np.mean([loss_of(r) for r in each]) for _, each in rates]
            figure.add_scatter(
                x=x, y=means, name=name, legendgroup=name, showlegend=column == 1, line=line, col=column, row=1
            )
            points = [(lr, loss_of(r)) for (lr,), each in rates for r in each]
            _points(figure, points, name, arms.colours[name], column)
        _reference(figure, group[0], "unigram_entropy", column)
    figure.update_xaxes(type="log")
    figure.update_yaxes(title="validation loss, nats per byte", col=1)
    return figure


def stable_rates(arms: Arms) -> go.Figure | None:
    """The largest rate at which at least half of the seeds worked, against depth."""
    return _against_depth(arms, largest_stable_lr, "largest stable rate", log=True)


def sensitivities(arms: Arms) -> go.Figure | None:
    """What a wrong rate costs: mean loss over the grid of rates, less the best."""
    return _against_depth(arms, lr_sensitivity, "LR sensitivity, nats per byte", log=False)


def gradients_by_depth(arms: Arms) -> go.Figure | None:
    """Gradient norm of the last feed-forward matrix at initialisation against depth, with the fitted exponent."""
    figure = go.Figure()
    for name, runs in arms.of(arms.results).items():
        groups = sorted(by(runs, "depth").items())
        if len(groups) < 3:
            return None
        x = [depth for (depth,), _ in groups]
        y = [np.mean([r["last_ffn_grad_norm"] for r in each]) for _, each in groups]
        slope = loglog_slope(x, y)
        label = f"{name}: depth^{slope.slope:.2f} ± {slope.error:.2f}"
        colour = arms.colours[name]
        figure.add_scatter(x=x, y=y, name=label, legendgroup=name, mode="markers", marker={"color": colour})
        fitted = np.exp(slope.intercept) * np.asarray(x, float) ** slope.slope
        figure.add_scatter(
            x=x, y=fitted, legendgroup=name, showlegend=False, hoverinfo="skip", line={"color": colour, "dash": "dot"}
        )
    figure.update_xaxes(type="log", title="depth, blocks", tickvals=x)
    figure.update_yaxes(type="log", title="gradient norm")
    return figure


def gradients_by_layer(arms: Arms) -> go.Figure:
    """Gradient norm of each block at initialisation, at the largest depth."""
    return _by_layer(arms, _deepest(arms), {"gradient norm": lambda r: r["grad_norm"]}, log=True)


def curves(arms: Arms) -> go.Figure:
    """Training loss of every run at the largest depth, a panel a rate; a cross marks where a run left its course."""
    rates = sorted(by(_deepest(arms), "lr").items())
    figure = make_subplots(
        cols=len(rates), shared_yaxes=True, subplot_titles=[f"rate {lr:g}" for (lr,), _ in rates], x_title="step"
    )
    for column, (_, group) in enumerate(rates, 1):
        for name, runs in arms.of(group).items():
            for k, run in enumerate(runs):
                x = np.arange(1, len(run["loss"]) + 1) * run["loss_every"]
                line = {"color": arms.colours[name], "width": 1}
                show = column == 1 and k == 0
                y = _smooth(run["loss"])
                figure.add_scatter(
                    x=x, y=y, name=name, legendgroup=name, showlegend=show, line=line, opacity=0.8, col=column, row=1
                )
                if run["outcome"] in ("diverged", "spiked"):
                    _cross(figure, run, y, arms.colours[name], column)
        for reference in REFERENCES:
            _reference(figure, group[0], reference, column)
    figure.update_yaxes(title="training loss, nats per byte", col=1)
    return figure


def statistics_by_layer(arms: Arms) -> go.Figure:
    """What flows where, by block at the largest depth, after training at each arm's best rate."""
    shown = {
        "residual RMS": "residual_rms",
        "attention branch / stream": "attention_branch_ratio",
        "feed-forward branch / stream": "ffn_branch_ratio",
        "largest attention logit": "attention_logit_max",
        "attention entropy, nats": "attention_entropy",
    }
    best = []
    for runs in arms.of(_deepest(arms)).values():
        worked = [r for r in runs if r["outcome"] in WORKED] or runs
        rate = min(by(worked, "lr").items(), key=lambda item: np.mean([loss_of(r) for r in item[1]]))[0][0]
        best += [r for r in runs if r["args"]["lr"] == rate]

    def taken(name: str) -> Callable[[Result], Sequence[float]]:
        return lambda r: r["stats_final"][name]

    return _by_layer(arms, best, {title: taken(name) for title, name in shown.items()}, log=False)


def _against_depth(arms: Arms, reduce: Callable[[Sequence[Result]], Any], title: str, *, log: bool) -> go.Figure | None:
    if len(by(arms.results, "lr")) < 2:
        return None
    figure = go.Figure()
    for name, runs in arms.of(arms.results).items():
        groups = sorted(by(runs, "depth").items())
        x = [str(depth) for (depth,), _ in groups]
        y = [reduce(each) for _, each in groups]
        if log:
            figure.add_scatter(x=x, y=y, name=name, mode="lines+markers", line={"color": arms.colours[name]})
        else:
            text = [f"{value:.2f}" for value in y]
            figure.add_bar(x=x, y=y, name=name, marker={"color": arms.colours[name]}, text=text)
    figure.update_xaxes(title="depth, blocks", type="category")
    figure.update_yaxes(title=title, type="log" if log else "linear")
    return figure


def _by_layer(
    arms: Arms, results: Sequence[Result], panels: dict[str, Callable[[Result], Sequence[float]]], *, log: bool
) -> go.Figure:
    figure = make_subplots(cols=len(panels), subplot_titles=list(panels), x_title="block")
    for column, take in enumerate(panels.values(), 1):
        for name, runs in arms.of(results).items():
            profiles = [[np.nan if v is None else v for v in take(r)] for r in runs]
            if profiles:
                mean = np.nanmean(profiles, axis=0) if np.isfinite(profiles).any() else np.mean(profiles, axis=0)
                figure.add_scatter(
                    x=list(range(1, len(mean) + 1)),
                    y=mean,
                    name=name,
                    legendgroup=name,
                    showlegend=column == 1,
                    line={"color": arms.colours[name]},
                    col=column,
                    row=1,
                )
    figure.update_yaxes(type="log" if log else "linear")
    return figure


def _deepest(arms: Arms) -> list[Result]:
    return max(by(arms.results, "depth").items())[1]


def _smooth(losses: Sequence[float | None], span: int = 5) -> np.ndarray:
    """A running mean; what is no number stays none."""
    values = np.array([np.nan if value is None else value for value in losses])
    padded = np.pad(values, (span // 2, span - 1 - span // 2), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, span).mean(axis=1)


def _points(figure: go.Figure, points: Sequence[tuple], name: str, colour: str, column: int) -> None:
    x, y = zip(*points, strict=True)
    marker = {"color": colour, "size": 5, "opacity": 0.6}
    figure.add_scatter(
        x=x, y=y, legendgroup=name, showlegend=False, mode="markers", marker=marker, hoverinfo="y", col=column, row=1
    )


def _cross(figure: go.Figure, run: Result, y: np.ndarray, colour: str, column: int) -> None:
    step = min(run["outcome_step"], len(y))
    height = y[np.isfinite(y)][-1] if not np.isfinite(y[step - 1]) else y[step - 1]
    marker = {"symbol": "x", "color": colour, "size": 9}
    figure.add_scatter(
        x=[step],
        y=[height],
        showlegend=False,
        mode="markers",
        marker=marker,
        hovertext=run["outcome"],
        col=column,
        row=1,
    )


def _reference(figure: go.Figure, result: Result, name: str, column: int) -> None:
    text = REFERENCES[name] if column == 1 else ""
    figure.add_hline(
        y=result["corpus"][name], line={"color": FAINT, "dash": "dash"}, annotation_text=text, col=column, row=1
    )
