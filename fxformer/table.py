"""Text for terminals."""

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned lines; the last column, which holds numbers, is flush right."""
    widths = widths_of(rows)
    return "\n".join(line(row, widths) for row in rows)


def widths_of(rows: Sequence[Sequence[str]]) -> list[int]:
    """How wide each column has to be."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def line(row: Sequence[str], widths: Sequence[int]) -> str:
    """One of the lines of `columns`, for a table that is shown while it grows."""
    *left, last = zip(row, widths, strict=True)
    return "  ".join([*(cell.ljust(width) for cell, width in left), last[0].rjust(last[1])])
