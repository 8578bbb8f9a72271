"""One small figure that needs no script: loss by size at each arm's best rate, for a README or an issue."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from train.report.arms import Arms, Style, Sweep
from train.report.charts.losses import best_of
from train.verdict.runs import by

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 74, 46  # margins
ROW = 22  # of the legend, of which there may be several
DODGE = 12  # between arms at one depth, so that none hides another's interval
STROKES = {"solid": "", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "12 4"}
REFERENCES = {"unigram_entropy": "unigram entropy", "bigram_entropy": "bigram entropy"}
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.faint{fill:#777}.grid{stroke:#8884}.line{stroke:#888}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.faint{fill:#999}}"
)


def losses_by_size(sweep: Sweep) -> str:
    """Validation loss against the size as SVG; a hollow mark is an arm of which every run failed."""
    arms = sweep.arms
    lines = {name: best_of(sweep, runs) for name, runs in arms.of(sweep.results).items()}
    every = [point for points in lines.values() for point in points]
    known = {text: sweep.results[0]["corpus"][name] for name, text in REFERENCES.items()}
    sizes = [size for size, _ in sweep.sizes]
    heights = [p.low for p in every] + [p.high for p in every] + list(known.values())
    low, high = min(heights), max(heights)
    room = 0.04 * (high - low) or 1.0
    low, high = low - room, high + room
    legend = _places(list(arms.styles))
    more = ROW * legend[-1].row
    top, height = TOP + more, HEIGHT + more

    def x(size: int | None) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (sizes.index(size) + 0.5) / len(sizes)

    def y(loss: float) -> float:
        return top + (height - top - BOTTOM) * (high - loss) / (high - low)

    counts = sorted({len(by(group, "seed")) for _, group in sweep.sizes})
    seeds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    end = WIDTH - RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>Validation loss at the best learning rate</title><style>{STYLE}</style>",
        _text(LEFT, 18, f"Validation loss at the best learning rate, nats per token: mean of {seeds} seeds"),
        *(f'<path class="grid" d="M{LEFT} {y(t):.1f}H{end}"/>' + _text(LEFT - 8, y(t) + 4, f"{t:g}", anchor="end")
          for t in _ticks(low, high)),
        *(_text(x(size), height - BOTTOM + 20, sweep.called(size), anchor="middle") for size in sizes),
        *(f'<path class="line" stroke-dasharray="4 4" d="M{LEFT} {y(loss):.1f}H{end}"/>'
          + _text(end + 8, y(loss) + 4, text, kind="faint") for text, loss in known.items()),
    ]  # fmt: skip
    for k, (name, points) in enumerate(lines.items()):
        shift = DODGE * (k - (len(lines) - 1) / 2)
        parts += _arm(
            [(x(p.size) + shift, y(p.mean), y(p.low), y(p.high), p.failed) for p in points], arms.styles[name]
        )
    parts += _legend(arms, legend, any(point.failed for point in every))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _arm(places: Sequence[tuple[float, float, float, float, bool]], style: Style) -> Iterator[str]:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, *_ in places)
    yield f'<polyline points="{line}" fill="none" {_stroke(style)}/>'
    for x, y, low, high, failed in places:
        yield f'<path d="M{x:.1f} {low:.1f}V{high:.1f}m-4 0h8M{x - 4:.1f} {low:.1f}h8" stroke="{style.colour}"/>'
        yield _mark(x, y, style, hollow=failed)


class Place(NamedTuple):
    """Where a name of the legend stands."""

    name: str
    x: int
    row: int


def _places(names: Sequence[str]) -> list[Place]:
    """Names side by side, in as many rows as they need."""
    places: list[Place] = []
    x, row = LEFT, 0
    for name in names:
        width = 50 + 7 * len(name)
        if x > LEFT and x + width > WIDTH:
            x, row = LEFT, row + 1
        places.append(Place(name, x, row))
        x += width
    return places


def _legend(arms: Arms, places: Sequence[Place], failed: bool) -> Iterator[str]:
    for name, x, row in places:
        y, style = 40 + ROW * row, arms.styles[name]
        yield f'<path d="M{x} {y}h26" {_stroke(style)}/>' + _mark(x + 13, y, style, hollow=False)
        yield _text(x + 33, y + 4, name)
    if failed:
        y = 64 + ROW * places[-1].row
        yield _text(LEFT, y, "hollow: every run failed", kind="faint")


def _mark(x: float, y: float, style: Style, *, hollow: bool) -> str:
    fill = "none" if hollow else style.colour
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{style.colour}" stroke-width="2"/>'


def _stroke(style: Style) -> str:
    return f'stroke="{style.colour}" stroke-width="{style.width:g}" stroke-dasharray="{STROKES[style.dash]}"'


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, four to ten of them."""
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step = next(step * k for k in (5, 2, 1) if (high - low) / (step * k) >= 4)
    return [round(k * step, 6) for k in range(int(np.ceil(low / step)), int(high / step) + 1)]
