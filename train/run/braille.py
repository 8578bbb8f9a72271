"""Curves in a terminal, of the dots of Braille letters: two a column, four a row."""

import itertools
import math
from collections.abc import Sequence

DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a letter, by column, from the top
EMPTY = 0x2800


def picture(curves: Sequence[Sequence[float | None]], *, width: int, height: int) -> list[str]:
    """`height` lines of `width` letters with all curves, on one scale, over their own lengths; None leaves a gap.

    What there are more points of than columns of dots is a mean of those that fall into one.
    """
    columns = [_columns(curve, 2 * width) for curve in curves]
    values = [value for column in columns for value in column if value is not None]
    cells = [[EMPTY] * width for _ in range(height)]
    if values:
        low, high = min(values), max(values)
        for column in columns:
            for x, value in enumerate(column):
                if value is not None:
                    y = round((4 * height - 1) * ((high - value) / (high - low) if high > low else 0.5))
                    cells[y // 4][x // 2] |= DOTS[x % 2][y % 4]
    return ["".join(map(chr, row)) for row in cells]


def _columns(curve: Sequence[float | None], count: int) -> list[float | None]:
    """A curve as so many means at most; of none but gaps there is none."""
    count = min(count, len(curve))
    edges = [round(k * len(curve) / max(count, 1)) for k in range(count + 1)]
    return [_mean(curve[a:b]) for a, b in itertools.pairwise(edges)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None
