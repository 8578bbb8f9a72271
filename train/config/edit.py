"""Changes of a grid at the command line: other seeds, more rates, and which of its cells are run.

More seeds and rates are another grid, of which a question is asked; `only` and `exclude` run a part of the grid, and
what is asked of the part is what can be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from train.config.ask import rows_of
from train.config.config import Config, place
from train.config.grid import MOST_CELLS, Grid, check_size, product
from train.config.values import check_number, short
from train.verdict.question import MEASURES, SEED, Question, place_of, values_of, varying


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """What is changed.

    seeds: how many, 0 to seeds - 1, in place of those of the grid. add_rates: like "1e-4,3e-4", beside those of the
    grid, for each of its other settings. only, exclude: like "depth=2,4": cells that run, and cells that do not.
    """

    seeds: int | None = None
    add_rates: str = ""
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


UNCHANGED = Edits()


def extended(cells: Sequence[Mapping[str, Any]], edits: Edits) -> Grid:
    """The grid with more or fewer seeds and more rates. Raises ValueError where that is none."""
    grid = [dict(cell) for cell in cells]
    if edits.seeds is not None:
        if not 1 <= edits.seeds <= MOST_CELLS:
            raise ValueError(f"seeds={edits.seeds} is no number of seeds; use 1 to {MOST_CELLS}")
        grid = _seeded(grid, edits.seeds)
    if edits.add_rates:
        rates = dict.fromkeys(_rate(word) for word in edits.add_rates.split(","))
        more = [{**cell, "lr": rate} for cell in without(grid, "lr") for rate in rates]
        grid = _once([*grid, *more])
    return grid


def narrowed(config: Config, cells: Sequence[dict[str, Any]], edits: Edits) -> Grid:
    """The cells that `only` and `exclude` leave. Raises ValueError for a value of none, and for none left."""
    rows, left = rows_of(config, cells), list(range(len(cells)))
    for option, words, wanted in (("only", edits.only, True), ("exclude", edits.exclude, False)):
        for text in words:
            name, values = _chosen(option, text, rows)
            left = [i for i in left if (rows[i].get(name) in values) == wanted]
    if not left:
        raise ValueError("--only and --exclude leave no cell of the grid; leave one of them out")
    return [cells[i] for i in left]


def with_rates(config: Config, question: Question, rates: Sequence[tuple[tuple, float]]) -> Config:
    """The configuration with more cells: those of a combination of `across`, at another rate."""
    rows = rows_of(config, config.cells)
    more: Grid = []
    for where, rate in rates:
        here = [cell for cell, row in zip(config.cells, rows, strict=True) if place_of(row, question.across) == where]
        more += [{**cell, "lr": rate} for cell in without(here, "lr")]
    return replace(config, cells=tuple(_once([*config.cells, *more])))


def with_seeds(config: Config, seeds: Sequence[int], validation: int) -> Config:
    """The configuration with these seeds in place of the grid's, judged on so many windows of the held-out text."""
    grid = product(of=[without(config.cells, SEED)], seed=seeds)
    return replace(config, cells=tuple(grid), data=replace(config.data, validation=validation))


def asked_of(question: Question, rows: Sequence[Mapping[str, Any]]) -> Question | None:
    """The part of a question that these cells, which are a part of its grid, can answer; None where they compare
    nothing."""
    varied = varying(rows)
    compare, across, tune = (tuple(name for name in names if name in varied)
                             for names in (question.compare, question.across, question.tune))  # fmt: skip
    measure = tuple(name for name in question.measure if not MEASURES[name].over or MEASURES[name].over in varied)
    if not compare or not measure:
        return None
    at = question.at if tune else "the same rate"
    return replace(question, compare=compare, across=across, tune=tune, at=at, measure=measure)


def _rate(word: str) -> float:
    rate = _as_number(word)
    if rate is None:
        raise ValueError(f"--add-rates has {short(word)}, which is no number; write rates like 1e-4,3e-4")
    check_number("lr", rate)
    return rate


def _seeded(cells: Grid, count: int) -> Grid:
    """Each cell with so many seeds: the first of those that it has in the grid, and the numbers after the last one."""
    check_size(len(without(cells, SEED)) * count)
    seeds: dict[str, list[int]] = {}
    for cell in cells:
        seeds.setdefault(_named(cell), []).extend([cell[SEED]] if SEED in cell else [])
    return [
        {**cell, SEED: seed}
        for cell in without(cells, SEED)
        for own in [seeds[_named(cell)]]
        for seed in [*own, *range(max(own, default=-1) + 1, max(own, default=-1) + 1 + count)][:count]
    ]


def _named(cell: Mapping[str, Any]) -> str:
    return repr(sorted((name, value) for name, value in cell.items() if name != SEED))


def without(cells: Sequence[Mapping[str, Any]], name: str) -> Grid:
    """The cells, but for one setting, each once."""
    return _once([{key: value for key, value in cell.items() if key != name} for cell in cells])


def _once(cells: Sequence[dict[str, Any]]) -> Grid:
    """Each cell once, in order of appearance."""
    once: dict[str, dict[str, Any]] = {}
    for cell in cells:
        once.setdefault(repr(sorted(cell.items(), key=lambda item: item[0])), cell)
    return list(once.values())


def _chosen(option: str, text: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, list[Any]]:
    """The setting and its values of "depth=2,4"."""
    name, equals, said = text.partition("=")
    if not equals or not said:
        raise ValueError(f"--{option} {short(text)} has no value; write --{option} name=value")
    _, key = place(name)
    known = values_of(rows, key)
    chosen = [_known(option, key, word, known) for word in said.split(",")]
    return key, chosen


def _known(option: str, name: str, word: str, known: Sequence[Any]) -> Any:
    for value in known:
        if word == str(value) or (isinstance(value, int | float) and _as_number(word) == value):
            return value
    have = ", ".join(map(str, known))
    raise ValueError(f"--{option} {name}={word} is the value of no cell; {name} is {have}")


def _as_number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
