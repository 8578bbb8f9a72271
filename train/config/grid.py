"""The algebra of sweeps: a grid is a list of cells, a cell is a dict of settings.

    product(lr=[1, 2], seed=[0, 1])      every combination: four cells
    zipped(width=[32, 64], heads=[2, 4]) side by side: two cells
    chain(a, b)                          one grid after the other
    product(of=[a, b], lr=[1, 2])        grids combine like axes

    sampled({"lr": {"low": 1e-4, ...}})  drawn from ranges (train.config.sample)
    where(cells, rules)                  settings that only some cells have, and cells that are left out

In TOML a grid is a table with one of these keys, and grids nest under `of` (product) or in a list (chain):

    [grid.product]                       [[grid.chain]]
    placement = ["pre", "post"]          product = { placement = ["pre", "post"], depth = [2, 4] }
    seed = [0, 1, 2]                     [[grid.chain]]
    of = [{ zip = { width = [32, 64],    zip = { placement = ["post"], residual_scale = [1.68], depth = [4] }
                    heads = [2, 4] } }]

    [grid.sample]                        [grid.product]
    count = 16                           optimizer = ["adamw", "sgd"]
    method = "sobol"                     norm = ["rms", "none"]
    draw = 0                             [[grid.product.when]]  # a rule: of cells with these values
    [grid.sample.over]                   optimizer = ["adamw"]
    width = [32, 64]                     give = { beta2 = [0.95, 0.99] }  # each is one of these
    lr = { low = 1e-4, high = 1e-1,      [[grid.product.when]]
           scale = "log" }               norm = ["none"]
                                         keep = { optimizer = ["adamw"] }  # only these are kept
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fxformer.lookup import nearest
from train.config.sample import sampled
from train.config.values import check_text, short

Grid = list[dict[str, Any]]
MOST_CELLS = 10_000


def product(of: Sequence[Grid] = (), **axes: Sequence[Any]) -> Grid:
    """Every combination of the axes' values and of the cells of the grids in `of`; the last axis turns fastest."""
    columns = [*of, *([{name: value} for value in _values(name, values)] for name, values in axes.items())]
    check_size(math.prod(map(len, columns)))
    return [_merge(cells) for cells in itertools.product(*columns)]


def zipped(**axes: Sequence[Any]) -> Grid:
    """The first values of all axes, the second ones, … Raises ValueError where they are not equally many."""
    counts = {name: len(_values(name, values)) for name, values in axes.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"zip needs axes of one length, not {', '.join(f'{n} of {c}' for n, c in counts.items())}")
    return [dict(zip(axes, values, strict=True)) for values in zip(*axes.values(), strict=True)]


def chain(*grids: Grid) -> Grid:
    """One grid after the other."""
    check_size(sum(map(len, grids)))
    return [cell for grid in grids for cell in grid]


def where(cells: Grid, rules: Sequence[Mapping[str, Any]]) -> Grid:
    """Apply rules one after another to the cells that have certain values: `give` them settings, each combination of
    these values, or `keep` only those of them that have others. Raises ValueError for a rule that concerns no cell."""
    for rule in rules:
        if not isinstance(rule, Mapping) or len(DOES & rule.keys()) != 1 or len(rule) < 2:
            raise ValueError(f"when takes settings with lists of values and one of give and keep, not {short(rule)}")
        has = {name: _values(name, values) for name, values in rule.items() if name not in DOES}
        concerned = [_has(cell, has) for cell in cells]
        if not any(concerned):
            raise ValueError(f"when {_said(has)} concerns no cell of its grid; name settings and values that it has")
        if "give" in rule:
            given = product(**_table("give", rule["give"]))
            check_size(sum(len(given) if this else 1 for this in concerned))
            cells = [
                _merge((cell, more)) for cell, this in zip(cells, concerned, strict=True)
                for more in (given if this else [{}])
            ]  # fmt: skip
        else:
            kept = {name: _values(name, values) for name, values in _table("keep", rule["keep"]).items()}
            cells = [cell for cell, this in zip(cells, concerned, strict=True) if not this or _has(cell, kept)]
            if not cells:
                raise ValueError(f"when {_said(has)} keeps no cell; keep values that some have")
    return cells


DOES = {"give", "keep"}  # what a rule does


def parse(node: Any) -> Grid:
    """The grid that a TOML table describes. Raises ValueError with one sentence where it describes none."""
    if not isinstance(node, Mapping) or not node:
        raise ValueError(f"a grid is one of {', '.join(GRIDS)}, not {short(node)}")
    parts = [(nearest(GRIDS, kind, "grid"), body) for kind, body in node.items()]
    if len(parts) > 1:
        raise ValueError(f"a grid is one of {', '.join(GRIDS)}, not {' and '.join(node)}; join them by chain or of")
    ((grid, body),) = parts
    return grid(body)


def _parse_product(body: Any) -> Grid:
    settings = _table("product", body)
    axes = {name: values for name, values in settings.items() if name not in ("of", "when")}
    of = _values("of", settings["of"], "grids") if "of" in settings else ()
    rules = _values("when", settings["when"], "rules") if "when" in settings else ()
    return where(product(of=[parse(each) for each in of], **axes), rules)


def _parse_chain(body: Any) -> Grid:
    if not isinstance(body, Sequence) or isinstance(body, str) or not body:
        raise ValueError(f"chain takes a list of grids, not {short(body)}")
    cells: Grid = []
    for each in body:
        cells = chain(cells, parse(each))
    return cells


def _parse_sample(body: Any) -> Grid:
    said = _table("sample", body)
    for name in said:
        nearest(dict.fromkeys(("over", "count", "draw", "method")), name, "sample")
    if "count" not in said or "over" not in said:
        raise ValueError("sample takes count, and over with settings and their values or ranges")
    over = _table("over", said["over"])
    return sampled(over, count=said["count"], most=MOST_CELLS, draw=said.get("draw", 0),
                   method=said.get("method", "sobol"))  # fmt: skip


GRIDS: dict[str, Callable[[Any], Grid]] = {
    "product": _parse_product,
    "zip": lambda body: zipped(**_table("zip", body)),
    "chain": _parse_chain,
    "sample": _parse_sample,
}


def cell_key(content: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that stand for resolved settings, whatever their order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _table(kind: str, body: Any) -> Mapping[str, Any]:
    if not isinstance(body, Mapping) or not body:
        raise ValueError(f"{kind} takes settings with lists of values, not {short(body)}")
    for name in body:
        check_text("setting", name)
    return body


def _has(cell: Mapping[str, Any], values: Mapping[str, Sequence[Any]]) -> bool:
    return all(name in cell and cell[name] in allowed for name, allowed in values.items())


def _said(values: Mapping[str, Sequence[Any]]) -> str:
    return ", ".join(f"{name} = {short(allowed)}" for name, allowed in values.items())


def _values(name: str, values: Any, what: str = "values") -> Sequence[Any]:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ValueError(f"{name} takes a list of {what}, not {short(values)}")
    return values


def check_size(cells: int) -> None:
    """Raise ValueError for more cells than a grid may have."""
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
