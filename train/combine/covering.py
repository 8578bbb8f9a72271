"""Covering arrays: few rows in which each pair of values of two axes is met. Cohen et al. 1997 (AETG), greedy."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

Row = dict[str, Any]
Pair = tuple[tuple[str, Any], tuple[str, Any]]


def pairs(axes: Mapping[str, Sequence[Any]]) -> Iterator[Pair]:
    """Every two values of two different axes, in the order of the axes."""
    for a, b in combinations(axes, 2):
        yield from (((a, x), (b, y)) for x, y in product(axes[a], axes[b]))


def covering(
    axes: Mapping[str, Sequence[Any]], refusal: Callable[[Row], str | None]
) -> tuple[list[Row], dict[Pair, Row]]:
    """Accepted rows that meet every pair that can be accepted, and a refused row for each pair that cannot.

    refusal: why a row is refused, None where it is not. The first values of all axes are a row that is accepted. A pair
    counts as refused where no row is accepted that differs from that one in the pair and in two more values at most.
    """
    rows: list[Row] = []
    refused: dict[Pair, Row] = {}
    left = dict.fromkeys(pairs(axes))
    while left:
        pair = next(iter(left))
        row = _nearest(axes, dict(pair), refusal)
        if row is None:
            refused[pair] = {**_first(axes), **dict(pair)}
            del left[pair]
            continue
        rows.append(_widened(axes, row, pair, left, refusal))
        for met in met_by(rows[-1]):
            left.pop(met, None)
    return rows, refused


def met_by(row: Row) -> Iterator[Pair]:
    """The pairs of values in a row."""
    yield from combinations(row.items(), 2)


def _first(axes: Mapping[str, Sequence[Any]]) -> Row:
    return {name: values[0] for name, values in axes.items()}


def _nearest(
    axes: Mapping[str, Sequence[Any]], fixed: Row, refusal: Callable[[Row], str | None], changes: int = 2
) -> Row | None:
    """An accepted row with the `fixed` values, as near as can be to the first values of all axes."""
    others = [name for name in axes if name not in fixed]
    for names in (chosen for count in range(changes + 1) for chosen in combinations(others, count)):
        for values in product(*(axes[name][1:] for name in names)):
            row = {**_first(axes), **dict(zip(names, values, strict=True)), **fixed}
            if refusal(row) is None:
                return row
    return None


def _widened(
    axes: Mapping[str, Sequence[Any]],
    row: Row,
    pair: Pair,
    left: Mapping[Pair, None],
    refusal: Callable[[Row], str | None],
) -> Row:
    """The row with other values where those meet more of the pairs that are left, axis by axis, twice over."""
    for name in [name for name in axes if name not in dict(pair)] * 2:
        others = [{**row, name: value} for value in axes[name]]
        gain = [sum(met in left for met in met_by(other)) for other in others]
        better = sorted(range(len(others)), key=lambda i: (-gain[i], others[i] != row))
        row = next(others[i] for i in better if others[i] == row or refusal(others[i]) is None)
    return row
