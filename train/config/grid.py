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
from collections.abc import Mapping, Sequence
from typing import Any

Grid = list[dict[str, Any]]


def product(of: Sequence[Grid] = (), **axes: Sequence[Any]) -> Grid:
    """Every combination of the axes' values and of the cells of the grids in `of`; the last axis turns fastest."""
    columns = [*of, *([{name: value} for value in _values(name, values)] for name, values in axes.items())]
    return [_merge(cells) for cells in itertools.product(*columns)]


def zipped(**axes: Sequence[Any]) -> Grid:
    """The first values of all axes, the second ones, … Raises ValueError where they are not equally many."""
    counts = {name: len(_values(name, values)) for name, values in axes.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"zip needs axes of one length, not {', '.join(f'{n} of {c}' for n, c in counts.items())}")
    return [dict(zip(axes, values, strict=True)) for values in zip(*axes.values(), strict=True)]


def chain(*grids: Grid) -> Grid:
    """One grid after the other."""
    return [cell for grid in grids for cell in grid]


def parse(node: Any) -> Grid:
    """The grid that a TOML table describes. Raises ValueError with one sentence where it describes none."""
    if not isinstance(node, Mapping) or len(node) != 1 or next(iter(node)) not in ("product", "zip", "chain"):
        raise ValueError(f"a grid is one of product, zip and chain, not {_short(node)}")
    kind, body = next(iter(node.items()))
    if kind == "chain":
        if not isinstance(body, Sequence) or isinstance(body, str) or not body:
            raise ValueError(f"chain takes a list of grids, not {_short(body)}")
        return chain(*(parse(each) for each in body))
    if not isinstance(body, Mapping) or not body:
        raise ValueError(f"{kind} takes settings with lists of values, not {_short(body)}")
    if kind == "zip":
        return zipped(**body)
    axes = {name: values for name, values in body.items() if name != "of"}
    return product(of=[parse(each) for each in body.get("of", ())], **axes)


def cell_key(content: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that stand for resolved settings, whatever their order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _values(name: str, values: Any) -> Sequence[Any]:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ValueError(f"{name} takes a list of values, not {_short(values)}")
    return values


def _merge(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for cell in cells:
        twice = merged.keys() & cell.keys()
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))} stands twice in one product")
        merged |= cell
    return merged


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
