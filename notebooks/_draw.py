"""Small pictures for the notebooks, as SVG that any viewer shows: tables of numbers in colour, and lines."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from IPython.display import SVG

BLUE, ORANGE, INK, PAPER = (31, 95, 168), (196, 85, 0), "#222", "#fff"
COLOURS = ("#1f5fa8", "#c45500", "#2a7f3f", "#7a3fa0", "#8a6d00", "#b0306a")
DASHES = ("", "6 3", "2 2", "8 2 2 2", "4 4", "1 3")


def grids(tables: Mapping[str, Any], cell: int = 11, columns: int = 3, x: str = "key", y: str = "query") -> SVG:
    """Tables [rows, columns] side by side: white is 0, blue the largest number of its table, orange as far below 0."""
    arrays = {title: np.asarray(table, np.float64) for title, table in tables.items()}
    width = max(max(array.shape[1] * cell + 34, len(title) * 7 + 24) for title, array in arrays.items())
    height = max(array.shape[0] for array in arrays.values()) * cell + 48
    body = []
    for i, (title, array) in enumerate(arrays.items()):
        left, top = i % columns * width + 18, i // columns * height + 22
        body.append(_text(left, top - 6, title, size=12))
        most = np.max(np.abs(array)) or 1
        for (row, column), value in np.ndenumerate(array):
            at = f'x="{left + column * cell}" y="{top + row * cell}" width="{cell - 1}" height="{cell - 1}"'
            body.append(f'<rect {at} fill="{_shade(value / most)}"/>')
        body.append(_text(left, top + array.shape[0] * cell + 12, f"{x} →", size=10))
        body.append(_text(left - 6, top + 2, f"{y} →", size=10, turned=True))
    return _picture(min(columns, len(arrays)) * width, -(-len(arrays) // columns) * height, body)


def lines(curves: Mapping[str, Sequence[float]], x: Sequence[float], across: str, up: str) -> SVG:
    """Curves over x, each with a colour and a dash of its own."""
    width, height, left, bottom = 720, 240, 56, 34
    values = np.concatenate([np.asarray(curve, np.float64) for curve in curves.values()])
    low, high, first, last = values.min(), values.max(), min(x), max(x)

    def at(a: float, b: float) -> tuple[float, float]:
        over = left + (a - first) / ((last - first) or 1) * (width - left - 210)
        return over, 12 + (high - b) / ((high - low) or 1) * (height - bottom - 24)

    body = [_text(left, height - 6, f"{across}: {first:g} to {last:g}", size=11)]
    body += [_text(2, at(first, value)[1] + 4, f"{value:.3g}", size=11) for value in (low, high)]
    body.append(_text(2, (height - bottom) / 2, up, size=11))
    for i, (name, curve) in enumerate(curves.items()):
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(*pair) for pair in zip(x, curve, strict=True)))
        style = f'fill="none" stroke="{COLOURS[i % 6]}" stroke-width="2" stroke-dasharray="{DASHES[i % 6]}"'
        body.append(f'<polyline points="{points}" {style}/>')
        body.append(f'<line x1="{width - 202}" x2="{width - 178}" y1="{16 + 16 * i}" y2="{16 + 16 * i}" {style}/>')
        body.append(_text(width - 174, 20 + 16 * i, name, size=11))
    return _picture(width, height, body)


def bars(numbers: Mapping[str, float], unit: str) -> SVG:
    """A bar for each number, the number behind it."""
    most = max(numbers.values())
    body = []
    for i, (name, number) in enumerate(numbers.items()):
        body.append(_text(4, 17 + 20 * i, name, size=12))
        size = f'x="170" y="{6 + 20 * i}" height="14" width="{320 * number / most:.1f}"'
        body.append(f'<rect {size} fill="{COLOURS[0]}"/>')
        body.append(_text(176 + 320 * number / most, 17 + 20 * i, f"{number:,.6g} {unit}", size=12))
    return _picture(720, 20 * len(numbers) + 8, body)


def _shade(share: float) -> str:
    """White at 0, blue at 1, orange at -1."""
    ink = BLUE if share >= 0 else ORANGE
    return "#" + "".join(f"{round(255 + (channel - 255) * abs(share)):02x}" for channel in ink)


def _text(x: float, y: float, text: str, size: int, turned: bool = False) -> str:
    turn = f' transform="rotate(90 {x:.0f} {y:.0f})"' if turned else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{INK}"{turn}>{escape(text)}</text>'


def _picture(width: float, height: float, body: list[str]) -> SVG:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    ground = f'<rect width="100%" height="100%" fill="{PAPER}"/>'
    return SVG(f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" {size}>{ground}{"".join(body)}</svg>')
