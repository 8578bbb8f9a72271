"""What a function reads, from its signature, so that a setting which nothing reads can be refused."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any


@cache
def reads(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the keyword-only arguments that must be given: those with a default are constants."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty)


def given(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Of `values` those that the function reads."""
    return {name: values[name] for name in reads(function)}
