"""Best rates by size, as one plot and one table: do they stay where they are as a model grows?"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from train.files import write_whole
from train.report.arms import DASHES, LIGHT, SYMBOLS
from train.report.page import packed_figures, rendered
from train.verdict.question import label
from train.verdict.runs import Result, by, loss_of
from train.verdict.transfer import Place, Transfer


def name_of(transfer: Transfer) -> str:
    """An arm in words."""
    return " · ".join(label(setting, value) for setting, value in transfer.arm.items()) or "all runs"


def table(told: Sequence[Transfer]) -> str:
    """For each arm its best rates by size, in steps of the grid from that of the smallest size, and what follows."""
    lines = []
    for transfer in told:
        first = transfer.best[0]
        lines += ["", f"{name_of(transfer)}: best rate by {transfer.across}, in steps of the grid"]
        lines += [
            f"  {transfer.across} {best.size:>5}   {best.rate:9.3g}   {best.place.steps - first.place.steps:+6.2f}   "
            f"place {_said(best.place)}"
            for best in transfer.best
        ]
        lines += [f"  from {first.size} to {transfer.best[-1].size}: {_said(transfer.shift)} steps: {transfer.answer}"]
    return "\n".join(lines[1:])


def as_data(told: Sequence[Transfer]) -> list[dict[str, Any]]:
    """What JSON can say of it; an end that nothing bounds is null."""
    return [
        {
            "arm": dict(transfer.arm),
            "across": transfer.across,
            "best": [{"size": best.size, "rate": best.rate, "place": _data(best.place)} for best in transfer.best],
            "shift": _data(transfer.shift),
            "answer": transfer.answer,
        }
        for transfer in told
    ]


def figure(told: Sequence[Transfer], results: Sequence[Result]) -> go.Figure:
    """Validation loss against the rate, a panel an arm and a line a size, a star where its best rate is; then those
    rates against the size."""
    titles = [name_of(transfer) for transfer in told]
    plot = make_subplots(cols=len(told) + 1, subplot_titles=[*titles, "best rate"])
    for column, transfer in enumerate(told, 1):
        runs = [r for r in results if all(r["args"].get(name) == value for name, value in transfer.arm.items())]
        for best, colour in zip(transfer.best, itertools.cycle(LIGHT), strict=False):
            rates = sorted(by([r for r in runs if r["args"][transfer.across] == best.size], "lr").items())
            x, y = [lr for (lr,), _ in rates], [float(np.mean([loss_of(r) for r in each])) for _, each in rates]
            name, style = f"{transfer.across} {best.size}", {"color": colour}
            plot.add_scatter(
                x=x, y=y, name=name, legendgroup=name, showlegend=column == 1, line=style, mode="lines+markers",
                row=1, col=column,
            )  # fmt: skip
            star = {"color": colour, "symbol": "star", "size": 12}
            lowest = float(np.interp(math.log(best.rate), np.log(x), y))
            plot.add_scatter(
                x=[best.rate], y=[lowest], showlegend=False, marker=star, mode="markers", row=1, col=column
            )
        plot.update_xaxes(type="log", title="learning rate", row=1, col=column)
    for transfer, title, dash, symbol in zip(
        told, titles, itertools.cycle(DASHES), itertools.cycle(SYMBOLS), strict=False
    ):
        plot.add_scatter(
            x=[best.size for best in transfer.best], y=[best.rate for best in transfer.best], name=title,
            line={"color": LIGHT[-1], "dash": dash}, marker={"symbol": symbol, "size": 9}, mode="lines+markers",
            row=1, col=len(told) + 1,
        )  # fmt: skip
    plot.update_xaxes(type="log", title=told[0].across, row=1, col=len(told) + 1)
    plot.update_yaxes(type="log", title="best rate", row=1, col=len(told) + 1)
    plot.update_yaxes(title="validation loss, nats per byte", row=1, col=1)
    return plot


def write_transfer(told: Sequence[Transfer], results: Sequence[Result], folder: Path) -> Path:
    """Write transfer-width.html or transfer-depth.html, one file that opens offline; returns where it is."""
    path = folder / f"transfer-{told[0].across}.html"
    across = told[0].across
    page = rendered(
        "train.report",
        "transfer.html.j2",
        title=f"Does the best learning rate stay where it is as {across} grows?",
        answers=[f"{name_of(each)}: {_said(each.shift)} steps of the grid, {each.answer}." for each in told],
        table=table(told),
        data=packed_figures({"transfer": figure(told, results)}),
    )
    write_whole(path, page.encode())
    return path


def _said(place: Place) -> str:
    low, high = ("?" if math.isinf(end) else f"{end:+.2f}" for end in (place.low, place.high))
    return f"{place.steps:+.2f} [{low}, {high}]"


def _data(place: Place) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in place._asdict().items()}
