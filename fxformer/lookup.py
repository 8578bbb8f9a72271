"""Looking names up in tables, with one clear sentence where a name is unknown."""

import difflib
import warnings
from collections.abc import Mapping
from typing import TypeVar

from fxformer.fields import shown

Value = TypeVar("Value")


def nearest(table: Mapping[str, Value], name: str, what: str) -> Value:
    """table[name]; an unknown name raises ValueError with what it is a part of, or the nearest, or all there are."""
    if not isinstance(name, str):
        raise ValueError(f"{what}={shown(name)} is no name; use one of {', '.join(table)}")
    if name in table:
        return table[name]
    longer = [each for each in table if name and name in each]
    close = longer or difflib.get_close_matches(name, table, n=1, cutoff=0.55)
    hint = f"did you mean {' or '.join(map(repr, close[:3]))}?" if close else f"use one of {', '.join(table)}"
    raise ValueError(f"{what}={shown(name)} is unknown; {hint}")


def renamed(table: Mapping[str, str], name: str, what: str) -> str:
    """What `name` is called now: an old name answers for one version, with a FutureWarning that says the new one."""
    if not isinstance(name, str) or name not in table:
        return name
    warnings.warn(f"{what} {name!r} is called {table[name]!r} now", FutureWarning, stacklevel=3)
    return table[name]
