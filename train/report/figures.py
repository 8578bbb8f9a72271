"""The figures of a report: each a function of results that returns a plotly figure, or one sentence why it has none."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from train.verdict.estimate import Estimate, contrast
from train.verdict.measures import Readings, Side, alive, at_best, chosen, largest_rate, sensitivity
from train.verdict.question import label
from train.verdict.runs import Result, by, loss_of
from train.verdict.stats import loglog_slope

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f", "#666666")  # Okabe & Ito 2008
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")  # five and eight: forty arms before two look the same
SYMBOLS = ("circle", "square-open", "triangle-up", "diamond-open", "star", "pentagon-open", "hexagram")
REFERENCES = {"log_vocab": "log V", "unigram_entropy": "unigram entropy", "bigram_entropy": "bigram entropy"}
FAINT = "rgba(128,128,128,0.5)"
STATISTICS = {
    "residual_rms": "residual RMS",
    "attention_branch_ratio": "attention branch / stream",
    "ffn_branch_ratio": "feed-forward branch / stream",
    "attention_logit_max": "largest attention logit",
    "attention_entropy": "attention entropy, nats",
}


class Style(NamedTuple):
    """How an arm looks. Later ones are thinner and broken: an earlier one shows beneath where curves coincide."""

    colour: str
    dash: str
    symbol: str
    width: float

    def line(self) -> dict[str, Any]:
        return {"color": self.colour, "dash": self.dash, "width": self.width}

    def marker(self, **more: Any) -> dict[str, Any]:
        return {"color": self.colour, "symbol": self.symbol, "size": 7, **more}


class Arms:
    """What is compared: one arm for each combination of the compared settings, with a name and a look of its own."""

    def __init__(self, results: Sequence[Result], axes: Sequence[str]) -> None:
        self.results, self.axes = results, axes
        distinct = dict.fromkeys(self.name(result) for result in results)
        widths = np.linspace(3.5, 1.5, len(distinct)).round(2).tolist()
        looks = zip(itertools.cycle(COLOURS), itertools.cycle(DASHES), itertools.cycle(SYMBOLS), strict=False)
        self.styles = {name: Style(*look, width) for name, look, width in zip(distinct, looks, widths, strict=False)}

    def name(self, result: Result) -> str:
        """Like "pre · width 32"."""
        return " · ".join(label(axis, result["args"].get(axis)) for axis in self.axes) or "all runs"

    def of(self, results: Sequence[Result]) -> dict[str, list[Result]]:
        """Results by arm, in the order of the styles; an arm without results is left out."""
        arms: dict[str, list[Result]] = {name: [] for name in self.styles}
        for result in results:
            arms[self.name(result)].append(result)
        return {name: runs for name, runs in arms.items() if runs}


def losses_by_depth(arms: Arms) -> go.Figure:
    """Validation loss against the learning rate, a panel a depth: mean over seeds as a line, seeds as points."""
    depths = by_depth(arms.results)
    figure = make_subplots(
        cols=len(depths),
        shared_yaxes=True,
        subplot_titles=["all runs" if depth is None else f"depth {depth}" for depth, _ in depths],
        x_title="learning rate",
    )
    for column, (_, group) in enumerate(depths, 1):
        for name, runs in arms.of(group).items():
            rates = sorted(by(runs, "lr").items())
            means = [np.mean([loss_of(r) for r in alive(each)] or [np.nan]) for _, each in rates]
            points = [(lr, loss_of(r)) for (lr,), each in rates for r in each]
            style = arms.styles[name]
            _line(figure, [lr for (lr,), _ in rates], means, name, style, column, marked=True)
            _points(figure, points, name, style, column)
        _references(figure, group[0], column)
    figure.update_xaxes(type="log")
    shown = [loss_of(r) for r in arms.results] + [r["corpus"]["unigram_entropy"] for r in arms.results]
    shown += [r["corpus"]["bigram_entropy"] for r in arms.results]
    figure.update_yaxes(range=_range(shown))
    figure.update_yaxes(title="validation loss, nats per byte", col=1)
    return figure


def usable_rates(arms: Arms) -> go.Figure | str:
    """The largest usable rate against depth: mean over seeds in octaves, with its interval."""
    if len(rates := by(arms.results, "lr")) < 2:
        return f"Only one rate was tried, {next(iter(rates))[0]:g}."
    figure = go.Figure()
    for name, runs in arms.of(arms.results).items():
        told = _with_intervals(runs, lambda own: largest_rate(Side(own, own, {})))
        y = [2**e.value for _, e, _ in told]
        low, high = ([2 ** e.interval()[end] for _, e, _ in told] for end in (0, 1))
        figure.add_scatter(
            x=[depth for depth, _, _ in told],
            y=y,
            name=name,
            mode="lines+markers+text",
            text=["≥" if bound else "" for _, _, bound in told],
            textposition="top center",
            line=arms.styles[name].line(),
            marker=arms.styles[name].marker(),
            error_y={"array": np.subtract(high, y), "arrayminus": np.subtract(y, low)},
        )
    figure.update_xaxes(title="depth, blocks", type="category")
    figure.update_yaxes(title="largest usable rate", type="log")
    return figure


def sensitivities(arms: Arms) -> go.Figure | str:
    """What a wrong rate costs an arm, over the rates at which every run of all arms works."""
    if len(rates := by(arms.results, "lr")) < 2:
        return f"Only one rate was tried, {next(iter(rates))[0]:g}."
    figure = go.Figure()
    everyone = dict(by_depth(arms.results))
    for name, runs in arms.of(arms.results).items():
        told = _with_intervals(
            runs, lambda own: sensitivity(Side(own, everyone[own[0]["args"].get("depth")], at_best(own, ("lr",))))
        )
        y = [e.value for _, e, _ in told]
        figure.add_bar(
            x=[depth for depth, _, _ in told],
            y=y,
            name=name,
            marker={"color": arms.styles[name].colour},
            text=[f"{value:.2f}" for value in y],
            error_y={"array": [e.interval()[1] - e.value for _, e, _ in told]},
        )
    if not any(len(trace.y) for trace in figure.data):
        return "At no depth are there two rates at which every run of all arms works."
    figure.update_xaxes(title="depth, blocks", type="category")
    figure.update_yaxes(title="LR sensitivity, nats per byte")
    return figure


def _with_intervals(
    runs: Sequence[Result], read: Callable[[Sequence[Result]], Readings]
) -> list[tuple[str, Estimate, bool]]:
    """(depth, mean over seeds, does the grid end there) for each depth at which two seeds or more say something."""
    told = []
    for depth, group in by_depth(runs):
        readings = list(read(group).values())
        if len(readings) > 1:
            estimate = contrast(np.array([[reading.value for reading in readings]]), [1.0])
            told.append((str(depth), estimate, any(reading.bound for reading in readings)))
    return told


def gradients_by_depth(arms: Arms) -> go.Figure | str:
    """Gradient norm of the last feed-forward matrix at initialisation against depth, with the fitted exponent."""
    figure = go.Figure()
    for name, runs in arms.of(arms.results).items():
        groups = by_depth(runs)
        if len(groups) < 3:
            return f"An exponent needs three depths; {name} ran at {len(groups)}."
        x = [depth for depth, _ in groups]
        norms = [[np.nan if (g := r["last_ffn_grad_norm"]) is None else g for r in each] for _, each in groups]
        y = [float(np.mean(each)) for each in norms]
        if not all(value > 0 for value in y):
            return f"An exponent needs gradients above 0, those of {name} are not all such numbers."
        slope = loglog_slope(x, y)
        text = f"{name}: depth^{slope.slope:.2f} ± {slope.error:.2f}"
        style = arms.styles[name]
        figure.add_scatter(x=x, y=y, name=text, legendgroup=name, mode="markers", marker=style.marker(size=9))
        fitted = np.exp(slope.intercept) * np.asarray(x, float) ** slope.slope
        figure.add_scatter(
            x=x, y=fitted, legendgroup=name, showlegend=False, hoverinfo="skip", mode="lines", line=style.line()
        )
    figure.update_xaxes(type="log", title="depth, blocks", tickvals=x)
    figure.update_yaxes(type="log", title="gradient norm")
    return figure


def gradients_by_layer(arms: Arms) -> go.Figure:
    """Gradient norm of each block at initialisation, at the largest depth."""
    return _by_layer(arms, _deepest(arms), {"gradient norm": lambda r: r["grad_norm"]}, log=True)


def curves(arms: Arms) -> go.Figure | str:
    """Training loss at the largest depth, a panel a rate: mean over seeds, and a band from the lowest to the highest.

    A cross marks where a run left its course.
    """
    told = [r for r in _deepest(arms) if len(r["loss"])]
    if not told:
        return "No run at the largest depth has a loss curve in its record."
    rates = sorted(by(told, "lr").items())
    figure = make_subplots(
        cols=len(rates), shared_yaxes=True, subplot_titles=[f"rate {lr:g}" for (lr,), _ in rates], x_title="step"
    )
    for column, (_, group) in enumerate(rates, 1):
        for name, runs in arms.of(group).items():
            for run_step, same in _by_spacing(runs):
                _band(figure, run_step, [_smooth(run["loss"]) for run in same], name, arms.styles[name], column)
            for run in runs:
                if run["outcome"] in ("diverged", "spiked"):
                    _cross(figure, run, _smooth(run["loss"]), arms.styles[name].colour, column)
        _references(figure, group[0], column)
    figure.update_yaxes(title="training loss, nats per byte", col=1)
    return figure


def statistics_by_layer(arms: Arms) -> go.Figure | str:
    """What flows where, by block at the largest depth, after training at each arm's best rate."""
    best = []
    for runs in arms.of(_deepest(arms)).values():
        (rate,) = chosen(runs, ("lr",))
        best += [r for r in runs if r["args"]["lr"] == rate]
    shown = {title: name for name, title in STATISTICS.items() if all(name in r["stats_final"] for r in best)}
    if not shown:
        return f"The runs at the largest depth share none of the statistics {', '.join(STATISTICS)}."

    def taken(name: str) -> Callable[[Result], Sequence[float]]:
        return lambda r: r["stats_final"][name]

    return _by_layer(arms, best, {title: taken(name) for title, name in shown.items()}, log=False)


def _by_layer(
    arms: Arms, results: Sequence[Result], panels: dict[str, Callable[[Result], Sequence[float]]], *, log: bool
) -> go.Figure:
    figure = make_subplots(cols=len(panels), subplot_titles=list(panels), x_title="block")
    for column, take in enumerate(panels.values(), 1):
        for name, runs in arms.of(results).items():
            profiles = [[np.nan if v is None else v for v in take(r)] for r in runs]
            mean = _mean(profiles)
            _line(figure, list(range(1, len(mean) + 1)), mean, name, arms.styles[name], column, marked=True)
    figure.update_yaxes(type="log" if log else "linear")
    return figure


def _line(figure: go.Figure, x: ArrayLike, y: ArrayLike, name: str, style: Style, column: int, *, marked: bool) -> None:
    figure.add_scatter(
        x=x,
        y=y,
        name=name,
        legendgroup=name,
        showlegend=all(trace.name != name for trace in figure.data),
        mode="lines+markers" if marked else "lines",
        line=style.line(),
        marker=style.marker(),
        col=column,
        row=1,
    )


def _band(figure: go.Figure, step: int, losses: list[np.ndarray], name: str, style: Style, column: int) -> None:
    """The mean of several curves over the range that they span; a curve counts as long as it is a number."""
    x = np.arange(1, len(losses[0]) + 1) * step
    known = np.isfinite(losses).any(axis=0)
    low, high = np.nanmin(np.array(losses)[:, known], axis=0), np.nanmax(np.array(losses)[:, known], axis=0)
    figure.add_scatter(
        x=np.concatenate([x[known], x[known][::-1]]),
        y=np.concatenate([high, low[::-1]]),
        legendgroup=name,
        showlegend=False,
        hoverinfo="skip",
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=_faint(style.colour),
        col=column,
        row=1,
    )
    _line(figure, x, _mean(losses), name, style, column, marked=False)


def _by_spacing(runs: Sequence[Result]) -> list[tuple[int, list[Result]]]:
    """Runs whose curves have equally many points, equally far apart: only those can be averaged."""
    groups: dict[tuple[int, int], list[Result]] = {}
    for run in runs:
        groups.setdefault((run["loss_every"], len(run["loss"])), []).append(run)
    return [(spacing, same) for (spacing, _), same in groups.items()]


def _mean(profiles: Sequence[Sequence[float] | np.ndarray]) -> np.ndarray:
    """Mean over runs, of one length or several, of what is a number; NaN where none is."""
    values = np.array(list(itertools.zip_longest(*profiles, fillvalue=np.nan)), float).reshape(-1, len(profiles))
    count = np.isfinite(values).sum(axis=1)
    return np.where(count, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan)


def by_depth(results: Sequence[Result]) -> list[tuple[Any, list[Result]]]:
    """Results by depth, the shallowest first; a published model has none of its own, and goes before all."""
    return sorted(((depth, group) for (depth,), group in by(results, "depth").items()), key=lambda item: item[0] or 0)


def _range(values: Sequence[float]) -> list[float]:
    """From the least to the largest that is a number, and a twentieth more on both sides."""
    known = [value for value in values if np.isfinite(value)]
    low, high = min(known), max(known)
    return [low - 0.05 * (high - low), high + 0.05 * (high - low)]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def _deepest(arms: Arms) -> list[Result]:
    return by_depth(arms.results)[-1][1]


def _smooth(losses: Sequence[float | None], span: int = 5) -> np.ndarray:
    """A running mean; what is no number stays none."""
    values = np.array([np.nan if value is None else value for value in losses])
    padded = np.pad(values, (span // 2, span - 1 - span // 2), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, span).mean(axis=1)


def _points(figure: go.Figure, points: Sequence[tuple], name: str, style: Style, column: int) -> None:
    x, y = zip(*points, strict=True)
    marker = style.marker(size=5, opacity=0.5)
    figure.add_scatter(
        x=x, y=y, legendgroup=name, showlegend=False, mode="markers", marker=marker, hoverinfo="y", col=column, row=1
    )


def _cross(figure: go.Figure, run: Result, y: np.ndarray, colour: str, column: int) -> None:
    step = min(run["outcome_step"], len(y))
    known = y[:step][np.isfinite(y[:step])]
    height = known[-1] if known.size else run["initial_loss"]
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


def _references(figure: go.Figure, result: Result, column: int) -> None:
    """What a model would lose that knows nothing, the frequency of bytes, or the one byte before."""
    for name, text in REFERENCES.items():
        figure.add_hline(
            y=result["corpus"][name],
            line={"color": FAINT, "dash": "dash", "width": 1},
            annotation={"text": text, "font": {"size": 11}} if column == 1 else None,
            col=column,
            row=1,
        )
