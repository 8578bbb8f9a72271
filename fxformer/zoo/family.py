"""What a page of the zoo is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fxformer.model import Transformer

Sizes = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models of one paper: a function from sizes to a Spec, and the published sizes as data.

    build: sizes -> Transformer. published: name -> sizes. tiny: published sizes -> the same structure at toy widths.
    """

    title: str
    year: int
    kind: str
    source: str
    build: Callable[..., Transformer]
    published: Mapping[str, Sizes]
    tiny: Callable[[Sizes], Sizes]
