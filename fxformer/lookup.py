"""Looking names up in tables, with one clear sentence where a name is unknown."""

import difflib
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

from fxformer.fields import shown

P = ParamSpec("P")
R = TypeVar("R")
Value = TypeVar("Value")


def nearest(table: Mapping[str, Value], name: str, what: str) -> Value:
    """table[name]; an unknown name raises ValueError with what it is a part of, or the nearest, or all there are."""
    if not isinstance(name, str):
        raise ValueError(f"{what}={shown(name)} is no name; use one of {', '.join(table)}")
    if name in table:
        return table[name]
    hint = meant(close(table, name)) or f"use one of {', '.join(table)}"
    raise ValueError(f"{what}={shown(name)} is unknown; {hint}")


def close(table: Iterable[str], name: str) -> list[str]:
    """The names of a table, three at most, that `name` is a part of, or the nearest one."""
    names = list(table)
    longer = [each for each in names if name and name in each]
    return (longer or difflib.get_close_matches(name, names, n=1, cutoff=0.55))[:3]


def meant(names: Sequence[str]) -> str:
    """A question that offers these names; empty where there are none."""
    return f"did you mean {' or '.join(map(repr, names))}?" if names else ""


def elsewhere(table: Mapping[str, str], name: str) -> list[str]:
    """What here has the name that other libraries give it. table: of ours, theirs with spaces between."""
    theirs = name.lower().replace("-", "_")
    return [ours for ours, names in table.items() if theirs in names.split()]


def answering(theirs: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: an argument that is called so elsewhere raises TypeError with ours. theirs: as in `elsewhere`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = inspect.signature(function).parameters

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                ours = [] if name in known else elsewhere(theirs, name)
                if ours:
                    raise TypeError(f"{function.__name__} takes no {name!r}; {meant(ours)}")
            return function(*args, **kwargs)

        return call

    return decorate


def renamed(table: Mapping[str, str], name: str, what: str) -> str:
    """What `name` is called now: an old name answers for one version, with a FutureWarning that says the new one."""
    if not isinstance(name, str) or name not in table:
        return name
    warnings.warn(f"{what} {name!r} is called {table[name]!r} now", FutureWarning, stacklevel=3)
    return table[name]
