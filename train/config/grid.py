"""The algebra of sweeps: a grid is a list of cells, a cell is a dict of settings.

    product(lr=[1, 2], seed=[0, 1])      every combination: four cells
    zipped(width=[32, 64], heads=[2, 4]) side by side: two cells
    chain(a, b)                          one grid after the other
    product(of=[a, b], lr=[1, 2])        grids combine like axes

In TOML a grid is a table with one of these keys, and grids nest under `of` (product) or in a list (chain):

    [grid.product]                       [[grid.chain]]
    placement = ["pre", "post"]          product = { placement = ["pre", "post"], depth = [2, 4] }
    seed = [0, 1, 2]                     [[grid.chain]]
    of = [{ zip = { width = [32, 64],    zip = { placement = ["post"], residual_scale = [1.68], depth = [4] }
                    heads = [2, 4] } }]
"""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from train.config.values import check_text, short

Grid = list[dict[str, Any]]
MOST_CELLS = 10_000


def product(of: Sequence[Grid] = (), **axes: Sequence[Any]) -> Grid:
    """Every combination of the axes' values and of the cells of the grids in `of`; the last axis turns fastest."""
    columns = [*of, *([{name: value} for value in _values(name, values)] for name, values in axes.items())]
    _check_size(math.prod(map(len, columns)))
    return [_merge(cells) for cells in itertools.product(*columns)]


def zipped(**axes: Sequence[Any]) -> Grid:
    """The first values of all axes, the second ones, … Raises ValueError where they are not equally many."""
    counts = {name: len(_values(name, values)) for name, values in axes.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"zip needs axes of one length, not {', '.join(f'{n} of {c}' for n, c in counts.items())}")
    return [dict(zip(axes, values, strict=True)) for values in zip(*axes.values(), strict=True)]


def chain(*grids: Grid) -> Grid:
    """One grid after the other."""
    _check_size(sum(map(len, grids)))
    return [cell for grid in grids for cell in grid]


def parse(node: Any) -> Grid:
    """The grid that a TOML table describes. Raises ValueError with one sentence where it describes none."""
    if not isinstance(node, Mapping) or len(node) != 1 or next(iter(node)) not in ("product", "zip", "chain"):
        raise ValueError(f"a grid is one of product, zip and chain, not {short(node)}")
    kind, body = next(iter(node.items()))
    if kind == "chain":
        if not isinstance(body, Sequence) or isinstance(body, str) or not body:
            raise ValueError(f"chain takes a list of grids, not {short(body)}")
        cells: Grid = []
        for each in body:
            cells = chain(cells, parse(each))
        return cells
    if not isinstance(body, Mapping) or not body:
        raise ValueError(f"{kind} takes settings with lists of values, not {short(body)}")
    for name in body:
        check_text("setting", name)
    if kind == "zip":
        return zipped(**body)
    axes = {name: values for name, values in body.items() if name != "of"}
    of = _values("of", body["of"], "grids") if "of" in body else ()
    return product(of=[parse(each) for each in of], **axes)


def cell_key(content: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that stand for resolved settings, whatever their order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _values(name: str, values: Any, what: str = "values") -> Sequence[Any]:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ValueError(f"{name} takes a list of {what}, not {short(values)}")
    return values


def _check_size(cells: int) -> None:
    if cells > MOST_CELLS:
        raise ValueError(f"a grid of {short(cells)} cells is too large; use {MOST_CELLS} or fewer, in several sweeps")


def _merge(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for cell in cells:
        twice = merged.keys() & cell.keys()
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))} stands twice in one product")
        merged |= cell
    return merged
