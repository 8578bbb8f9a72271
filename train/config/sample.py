"""Cells drawn from ranges, where a product would be too large: at random, or evenly spread (Sobol's sequence)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fxformer.lookup import nearest
from train.config.values import short

DIGITS = 4  # of a drawn number: a cell is kept under its settings, and people read them
RANGE = ("low", "high", "scale")


def random(count: int, axes: int, draw: int) -> np.ndarray:
    """[count, axes] independent uniform numbers in [0, 1). Bergstra & Bengio 2012."""
    return np.random.default_rng(draw).random((count, axes))


def sobol(count: int, axes: int, draw: int) -> np.ndarray:
    """[count, axes] numbers in [0, 1) that fill it evenly: Sobol 1967, shifted by one random number an axis (Cranley &
    Patterson 1976). Raises ValueError unless count is a power of 2, for which they are balanced."""
    from scipy.stats import qmc  # takes a second to import, which only grids of this kind wait for

    if count & (count - 1):
        lower = 2 ** int(math.log2(count))
        raise ValueError(f"count={count} points of Sobol's sequence are not balanced; use {lower} or {2 * lower}")
    points = qmc.Sobol(axes, scramble=False).random(count)
    return (points + np.random.default_rng(draw).random(axes)) % 1.0


METHODS: dict[str, Callable[[int, int, int], np.ndarray]] = {"random": random, "sobol": sobol}
SCALES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {  # to where draws are uniform, and back
    "linear": (lambda x: x, lambda x: x),
    "log": (math.log, math.exp),
}


def sampled(
    over: Mapping[str, Any], *, count: int, most: int, draw: int = 0, method: str = "sobol"
) -> list[dict[str, Any]]:
    """`count` cells, each setting drawn from a list of values or a range {low, high, scale}. most: cells allowed.

    A range between whole numbers gives whole numbers. One draw gives the same cells always. Raises ValueError for what
    is no count, method or range.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise ValueError(f"count={short(count)} is no number of cells; use 1 to {most}")
    if isinstance(draw, bool) or not isinstance(draw, int) or not 0 <= draw < 2**32:
        raise ValueError(f"draw={short(draw)} is no seed of draws; use 0 to {2**32 - 1}")
    values = {name: _axis(name, said) for name, said in over.items()}
    points = nearest(METHODS, method, "method")(count, len(values), draw)
    return [{name: value(float(u)) for (name, value), u in zip(values.items(), point, strict=True)} for point in points]


def _axis(name: str, said: Any) -> Callable[[float], Any]:
    """From a number in [0, 1) to a value of the setting."""
    if isinstance(said, Mapping):
        return _range(name, said)
    if not isinstance(said, Sequence) or isinstance(said, str) or not said:
        raise ValueError(f"{name} takes a list of values or {{low, high, scale}}, not {short(said)}")
    return lambda u: said[int(u * len(said))]


def _range(name: str, said: Mapping[str, Any]) -> Callable[[float], Any]:
    for key in said:
        nearest(dict.fromkeys(RANGE), key, f"range of {name}")
    low, high = (_number(name, key, said) for key in ("low", "high"))
    forth, back = nearest(SCALES, said.get("scale", "linear"), "scale")
    if not low < high:
        raise ValueError(f"{name} has low={low!r} and high={high!r}; let low be less")
    if forth is math.log and low <= 0:
        raise ValueError(f"{name} has low={low!r}, which has no logarithm; use more than 0, or scale='linear'")
    if isinstance(low, int) and isinstance(high, int):
        edges = forth(low), forth(high + 1)
        return lambda u: min(high, math.floor(back(edges[0] + u * (edges[1] - edges[0]))))
    ends = forth(low), forth(high)
    return lambda u: min(high, max(low, float(f"{back(ends[0] + u * (ends[1] - ends[0])):.{DIGITS}g}")))


def _number(name: str, key: str, said: Mapping[str, Any]) -> Any:
    value = said.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e38:
        raise ValueError(f"{name} has {key}={short(value)}, which is no number of a range")
    return value
