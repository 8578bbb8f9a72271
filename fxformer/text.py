"""Text for terminals."""

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned lines; the last column, which holds numbers, is flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        *left, last = zip(row, widths, strict=True)
        lines.append("  ".join([*(cell.ljust(width) for cell, width in left), last[0].rjust(last[1])]))
    return "\n".join(lines)
