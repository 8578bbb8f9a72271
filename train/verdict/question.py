"""What a sweep asks: which arms are compared, across what, at which rates, in which measures.

Settings are told apart by what the cells of the grid do with them: those that make the arms, those that an effect is
pooled over and may change with (depth, say), those chosen for each arm (the rate), and the seed, which pairs runs.
A cell is a mapping of resolved settings, as `args` of a record is.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fxformer.fields import shown
from fxformer.lookup import nearest

Cell = Mapping[str, Any]
SEED = "seed"
SIZES = ("depth", "width", "heads", "kv_heads", "inner", "length", "batch", "steps")  # derived questions pool over them
CONTEXT = (*SIZES, "objective")  # losses of two objectives cannot be compared either
RATES = {
    "best rate": "at each arm's best {tune}",
    "each rate": "at each {tune}",
    "the same rate": "at one {tune} for all arms",
}
SOLVABLE = ("inner", "width", "heads", "kv_heads", "depth")  # sizes by which arms are made equal
RUNS = {
    "all": "every cell runs to its end",
    "racing": "runs stop where they are dead, and rates get seeds while they may be best",
}
MATCHED = {"parameters": "parameters", "flops": "FLOPs a token", "cache_bytes": "bytes of cache a token"}


class Measure(NamedTuple):
    """What is measured, in words; its unit; and the setting that must vary for it, empty where none must."""

    what: str
    unit: str
    over: str = ""


MEASURES = {
    "loss": Measure("validation loss of the runs that did not fail", "nats"),
    "failure": Measure("probability that a run fails, slow ones aside", "share of runs"),
    "largest rate": Measure("the largest rate up to which a seed works, from the best one on", "octaves", over="lr"),
    "usable range": Measure("how far apart the smallest and the largest usable rates are", "octaves", over="lr"),
    "lr sensitivity": Measure(
        "mean loss over the rates at which no run of either arm fails, less that at the best one", "nats", over="lr"
    ),
    "depth reach": Measure(
        "the largest depth up to which a seed does not fail at the best rate of the shallowest", "blocks", over="depth"
    ),
    "growth": Measure("exponent with which the residual stream grows with depth", "power of depth", over="depth"),
    "seconds": Measure("time of a step, without compilation and evaluation", "seconds"),
    "bytes": Measure("cache that each token adds, in 16 bits", "bytes"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a sweep.

    compare: settings whose values make the arms. across: settings that the effect is pooled over and may change with.
    tune: settings chosen for each arm. at: one of RATES. measure: of MEASURES. smallest: the smallest difference of
    losses that matters, nats. versus: the arm that each other one is compared with; None compares all pairs that no
    third arm lies between. match, by: what is made equal (of MATCHED) and the size that is solved for it. extend: rungs
    that the grid of rates may grow by at either end, while a best rate lies there. run: one of RUNS. Raises ValueError
    for what no grid could be asked.
    """

    compare: tuple[str, ...]
    across: tuple[str, ...] = ()
    tune: tuple[str, ...] = ("lr",)
    at: str = "best rate"
    measure: tuple[str, ...] = ("loss",)
    smallest: float = 0.02
    versus: str | None = None
    match: str | None = None
    by: str | None = None
    extend: int = 0
    run: str = "all"

    def __post_init__(self) -> None:
        roles = {"compare": self.compare, "across": self.across, "tune": self.tune}
        for role, names in {**roles, "measure": self.measure}.items():
            if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{role}={shown(names)} is no list of names")
        if not self.compare:
            raise ValueError("compare=[] compares nothing; name the settings whose values make the arms")
        placed = [name for names in roles.values() for name in names]
        twice = next((name for name in placed if placed.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} stands twice; it is compared, pooled over or tuned: name it once")
        if SEED in placed:
            raise ValueError("seeds pair the runs of two arms; take seed out of the question")
        nearest(RATES, self.at, "at")
        nearest(RUNS, self.run, "run")
        for name in self.measure:
            nearest(MEASURES, name, "measure")
        if not self.measure:
            raise ValueError(f"measure=[] measures nothing; use some of {', '.join(MEASURES)}")
        if not _is_number(self.smallest) or not 0 < self.smallest < math.inf:
            raise ValueError(f"smallest={shown(self.smallest)} is no difference; give nats, more than 0")
        if self.versus is not None and not isinstance(self.versus, str):
            raise ValueError(f"versus={shown(self.versus)} is no arm's name")
        if self.match is not None:
            nearest(MATCHED, self.match, "match")
        if self.by is not None:
            nearest({name: name for name in SOLVABLE}, self.by, "by")
        if (self.match is None) != (self.by is None):
            raise ValueError("match says what is made equal and by which size is solved for it; give both")
        if isinstance(self.extend, bool) or not isinstance(self.extend, int) or not 0 <= self.extend <= MOST_RUNGS:
            raise ValueError(f"extend={shown(self.extend)} is no number of rungs; use 0 to {MOST_RUNGS}")


MOST_RUNGS = 10  # that a grid of rates grows by at either end
MOST_ARMS = 100  # of one question: a random search has more, and asks for the best one, not for two that differ


class Arm(NamedTuple):
    """What is compared with another: its name, and the values of the settings that are compared."""

    name: str
    settings: tuple[tuple[str, Any], ...]

    def has(self, cell: Cell) -> bool:
        """Is this cell one of the arm's?"""
        return all(cell.get(name) == value for name, value in self.settings)


def varying(cells: Sequence[Cell]) -> list[str]:
    """Settings that differ between cells, in order of appearance."""
    names = dict.fromkeys(name for cell in cells for name in cell)
    return [name for name in names if len(values_of(cells, name)) > 1]


def arms_of(cells: Sequence[Cell], question: Question) -> list[Arm]:
    """The arms of a grid, in order of appearance: each combination of the compared settings that occurs.

    An arm is called by its values that are names ("post · rms"), and by numbers too ("kv_heads 2") where another arm
    has the same names; of numbers that change together one is said.
    """
    names = question.compare
    combinations = list(dict.fromkeys(place_of(cell, names) for cell in cells))
    texts = [name for name in names if any(_says_itself(cell.get(name)) for cell in cells)]
    numbers = [name for name in names if name not in texts]
    for name in reversed(numbers):
        if len(numbers) > 1 and determined(name, [*texts, *(n for n in numbers if n != name)], cells):
            numbers.remove(name)
    told = [dict(zip(names, values, strict=True)) for values in combinations]
    bare = [name for name in texts if all(_says_itself(values[name]) for values in told)]
    short = Counter(tuple(values[name] for name in texts) for values in told)
    arms = []
    for values in told:
        alone = texts and short[tuple(values[name] for name in texts)] == 1
        words = [str(values[n]) if n in bare else with_name(n, values[n]) for n in texts]
        words += [] if alone else [label(name, values[name]) for name in numbers]
        arms.append(Arm(" · ".join(words), tuple(values.items())))
    return arms


def places_of(cells: Sequence[Cell], question: Question, names: Sequence[str]) -> dict[str, set[tuple[Any, ...]]]:
    """Which combinations of some settings each arm was given, by its name."""
    called = {tuple(value for _, value in arm.settings): arm.name for arm in arms_of(cells, question)}
    places: dict[str, set[tuple[Any, ...]]] = {name: set() for name in called.values()}
    for cell in cells:
        places[called[place_of(cell, question.compare)]].add(place_of(cell, names))
    return places


def pairs_of(cells: Sequence[Cell], question: Question) -> list[tuple[Arm, Arm]]:
    """The arms that are compared: each with `versus`, or all two that no third arm lies between.

    An arm lies between two others where it has each value from one of them, and occurs wherever both do. Two arms are
    compared only if there is something that both were given: a combination of `across`.
    """
    arms = arms_of(cells, question)
    places = places_of(cells, question, question.across)
    if question.versus is not None:
        one = nearest({arm.name: arm for arm in arms}, question.versus, "versus")
        pairs = [(arm, one) for arm in arms if arm != one]
    else:
        pairs = list(itertools.combinations(arms, 2))
    pairs = [(a, b) for a, b in pairs if places[a.name] & places[b.name]]
    if question.versus is not None:
        return pairs

    def between(a: Arm, b: Arm) -> bool:
        shared = places[a.name] & places[b.name]
        return any(c not in (a, b) and shared <= places[c.name] and _lies_between(c, a, b) for c in arms)

    return [(a, b) for a, b in pairs if not between(a, b)]


def question_of(cells: Sequence[Cell]) -> Question | None:
    """The question that a grid seems to ask; None where only seeds differ, and where there are more than MOST_ARMS.

    What is swept is compared, except rates, which are tuned, and sizes, which the effect is pooled over. A size that
    changes with what is compared belongs to the arm. Where nothing but sizes is swept, they are compared, across depth;
    where nothing but rates, those are. Cells that the grid names (`arm`) are compared by that name.
    """
    compare = _derived_compare(cells)
    if not compare or len({place_of(cell, compare) for cell in cells}) > MOST_ARMS:
        return None
    return completed({"compare": compare}, cells)


def completed(given: Mapping[str, Any], cells: Sequence[Cell]) -> Question:
    """The question with these fields, those that are left out derived from the grid."""
    given = {"compare": _derived_compare(cells), **given}
    compare, varied = given["compare"], [name for name in varying(cells) if name != SEED]
    if "tune" not in given:
        others = [name for name in varied if name != "lr"]
        free = (
            "lr" in varied and "lr" not in (*compare, *given.get("across", ())) and not determined("lr", others, cells)
        )
        given = {**given, "tune": ("lr",) if free else ()}
    if "across" not in given:
        rest = [name for name in varied if name not in (*compare, *given["tune"])]
        given = {**given, "across": tuple(_fewest(rest, compare, cells))}
    if "at" not in given:
        given = {**given, "at": "best rate" if any(name in varied for name in given["tune"]) else "the same rate"}
    return Question(**given)


def _derived_compare(cells: Sequence[Cell]) -> tuple[str, ...]:
    varied = [name for name in varying(cells) if name != SEED]
    if "lr" in varied and not determined("lr", [name for name in varied if name != "lr"], cells):
        varied.remove("lr")
        if not varied:
            return ("lr",)
    sizes = [name for name in varied if name in CONTEXT]
    others = [name for name in varied if name not in CONTEXT]
    if not others:
        compared = [name for name in sizes if name not in ("depth", "objective")] or sizes
        return tuple(_fewest(compared, (), cells))
    if "arm" in others:
        others = ["arm", *(n for n in others if n != "arm" and not determined(n, ["arm", *sizes], cells))]
    pooled = [name for name in sizes if not determined(name, others, cells)]
    return tuple(_fewest(others, pooled, cells))


def cells_over(cells: Sequence[Cell], question: Question) -> list[str]:
    """Settings of which each combination of values is a cell, in which arms meet: all that vary but what is compared,
    tuned, or the seed, and what follows from these and from `across`, as DeepNorm's gains do, or a size that was solved
    for."""
    tune = () if question.at == "each rate" else question.tune
    left = [name for name in varying(cells) if name not in (*question.compare, *tune, SEED)]
    told = [*question.compare, *question.across, *tune]
    return [name for name in left if name in question.across or not determined(name, told, cells)]


def label(name: str, value: Any) -> str:
    """A value as an arm is called by it: "rms", but "width 32" and "window none", which say nothing alone."""
    return str(value) if _says_itself(value) else with_name(name, value)


def with_name(name: str, value: Any) -> str:
    """A value beside its setting: "depth 4"."""
    return f"{name} {'none' if value is None or value == '' else value}"


def _says_itself(value: Any) -> bool:
    return isinstance(value, str) and value not in ("", "none")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def values_of(cells: Sequence[Cell], name: str) -> list[Any]:
    return list(dict.fromkeys(cell.get(name) for cell in cells))


def place_of(cell: Cell, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(map(cell.get, names))


def determined(name: str, by: Sequence[str], cells: Sequence[Cell]) -> bool:
    """Does each combination of the others occur with one value of this setting only?"""
    return len({place_of(cell, by) for cell in cells}) == len({place_of(cell, [*by, name]) for cell in cells})


def _fewest(names: Sequence[str], given: Sequence[str], cells: Sequence[Cell]) -> list[str]:
    """Those of `names` that tell all of them, beside `given`: of what changes together names are kept before numbers,
    and sizes before other numbers, which follow from them (DeepNorm's gains from the depth)."""
    kept = list(names)
    ranked = sorted(reversed(names), key=lambda n: 2 * any(_says_itself(v) for v in values_of(cells, n)) + (n in SIZES))
    for name in ranked:
        rest = [each for each in kept if each != name]
        if determined(name, [*rest, *given], cells) and (rest or given):
            kept = rest
    return kept


def _lies_between(c: Arm, a: Arm, b: Arm) -> bool:
    return all(own in (first, second) for own, first, second in zip(c.settings, a.settings, b.settings, strict=True))
