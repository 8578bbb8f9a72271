"""Looking names up in tables, with one clear sentence where a name is unknown."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")


def nearest(table: Mapping[str, Value], name: str, what: str) -> Value:
    """table[name]; an unknown name raises ValueError with the nearest valid one, or all where none is near."""
    if name in table:
        return table[name]
    close = difflib.get_close_matches(str(name), table, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(table)}"
    raise ValueError(f"{what}={name!r} is unknown; {hint}")
