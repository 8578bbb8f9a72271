"""What a chart is: panels, the controls that choose among them, and what it shows, in a sentence.

A trace says in its `meta` what it is of, so that a page can hide it: `arm`; `run`, the place of the run it draws; or
`runs`, that of each of its points.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from train.report.arms import Style, Sweep, rate
from train.verdict.runs import Result

REFERENCES = {"log_vocab": "log V", "unigram_entropy": "unigram entropy", "bigram_entropy": "bigram entropy"}
FAINT = "rgba(128,128,128,0.6)"
MOST_LEVEL = 5  # rates whose names fit side by side
MOST_WHOLE = 12  # ticks of an axis of counts
FREE: Mapping[str, Any] = {}


class Plot:
    """Traces and layout in plotly's words, without its checks, which would take a minute: the tests make them."""

    def __init__(self) -> None:
        self.traces: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = {"xaxis": {}, "yaxis": {}, "shapes": [], "annotations": []}

    def add(self, **trace: Any) -> None:
        """One more trace."""
        self.traces.append(trace)

    def axes(self, *, x: Mapping[str, Any] = FREE, y: Mapping[str, Any] = FREE) -> None:
        """More about the axes."""
        self.layout["xaxis"].update(x)
        self.layout["yaxis"].update(y)

    def level(self, height: float, text: str) -> None:
        """A faint dashed line at a height, with its name at the right."""
        line = {"color": FAINT, "dash": "dash", "width": 1}
        across = {"xref": "x domain", "x0": 0, "x1": 1, "yref": "y", "y0": height, "y1": height}
        self.layout["shapes"].append({"type": "line", "line": line, "layer": "below", **across})
        place = {"xref": "x domain", "x": 1, "xanchor": "right", "yref": "y", "y": height, "yanchor": "bottom"}
        self.layout["annotations"].append({"text": text, "showarrow": False, "font": {"size": 11}, **place})


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A plot, and which one it is: a value of each control."""

    place: tuple[str, ...]
    plot: Plot


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Panels by the values of `controls`. finding: what they show. together: side by side where the page is wide,
    instead of one at a time. start: the place that is shown first. slides: is the last control a course of time?"""

    panels: list[Panel]
    finding: str
    controls: tuple[str, ...] = ()
    together: bool = False
    start: tuple[str, ...] = ()
    slides: bool = False


def log_rates(rates: Sequence[float]) -> dict[str, Any]:
    """An axis of learning rates, whose ticks are the rates that were tried, with room for a mark at either end."""
    room = 0.06 * (np.log10(rates[-1] / rates[0]) or 2.0)
    ends = [float(np.log10(rates[0]) - room), float(np.log10(rates[-1]) + room)]
    ticks = {"tickmode": "array", "tickvals": list(rates), "ticktext": [rate(value) for value in rates]}
    return {"type": "log", "range": ends, "tickangle": -40 if len(rates) > MOST_LEVEL else 0, **ticks}


def whole(last: int) -> dict[str, Any]:
    """Ticks of an axis of counts from 1 to `last`: whole numbers, MOST_WHOLE at most."""
    apart = next(step for power in itertools.count() for step in (10**power, 2 * 10**power, 5 * 10**power)
                 if last <= step * MOST_WHOLE)  # fmt: skip
    ticks = list(range(1, last + 1)) if apart == 1 else list(range(apart, last + 1, apart))
    return {"tickmode": "array", "tickvals": ticks, "ticktext": [str(tick) for tick in ticks]}


def titled(text: str) -> dict[str, Any]:
    """An axis with a title."""
    return {"title": {"text": text}}


def of_run(sweep: Sweep, run: Result) -> str:
    """What a run is, for who points at it."""
    args = run["args"]
    where = [sweep.called(args[sweep.size])] if sweep.size and args.get(sweep.size) is not None else []
    where += [f"learning rate {rate(args['lr'])}", f"seed {args['seed']}"]
    stopped = f", stopped after {run['stopped']} steps" if run.get("stopped") else ""
    loss = "no loss" if run["val_loss"] is None else f"loss {run['val_loss']:.4f}"
    return f"{sweep.arms.name(run)}<br>{', '.join(where)}<br>{run['outcome']}{stopped}, {loss}<br>run {run['key']}"


class Mark(NamedTuple):
    """A number at a place with its 95 % interval, what is said of it to who points at it, and is it hollow?"""

    x: Any
    y: float
    low: float
    high: float
    said: str
    hollow: bool = False


def add_marks(plot: Plot, arm: str, style: Style, marks: Sequence[Mark]) -> None:
    """A line through marks with error bars, in the looks of an arm."""
    bars = {"array": [m.high - m.y for m in marks], "arrayminus": [m.y - m.low for m in marks]}
    symbols = [f"{style.symbol}-open" if m.hollow else style.symbol for m in marks]
    plot.add(
        type="scatter",
        x=[m.x for m in marks],
        y=[m.y for m in marks],
        error_y={**bars, "color": style.colour, "thickness": 1.5, "width": 4},
        mode="lines+markers",
        line=style.line(),
        marker=style.marker(symbol=symbols),
        hovertext=[m.said for m in marks],
        hoverinfo="text",
        meta={"arm": arm},
    )


def references(plot: Plot, result: Result) -> None:
    """What a model would lose that knows nothing, the frequency of tokens, or the one token before."""
    for name, text in REFERENCES.items():
        plot.level(result["corpus"][name], text)


def with_room(values: Sequence[float]) -> list[float] | None:
    """From the least to the largest that is a number, and a twentieth more on both sides; None where none is."""
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return None
    room = 0.05 * (max(known) - min(known)) or 1.0
    return [min(known) - room, max(known) + room]


def levels(result: Result, near: Sequence[float] = ()) -> list[float]:
    """The references that losses lie between, where a run works; with `near`, those as near to it as it is wide."""
    told = [result["corpus"][name] for name in ("unigram_entropy", "bigram_entropy")]
    if not near:
        return told
    low, high = min(near), max(near)
    return [level for level in told if 2 * low - high <= level <= 2 * high - low]


def faint(colour: str) -> str:
    """The same colour, half transparent."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.5)"
