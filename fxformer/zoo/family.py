"""What a page of the zoo is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fxformer.model import Transformer

Sizes = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models of one paper: a function from sizes to a Spec, and the published sizes as data.

    objective: what the published weights were trained on, in the words of `train/objectives`.
    build: sizes -> Transformer. published: name -> sizes. tiny: published sizes -> the same structure at toy widths.
    """

    title: str
    year: int
    kind: str
    source: str
    objective: str
    build: Callable[..., Transformer]
    published: Mapping[str, Sizes]
    tiny: Callable[[Sizes], Sizes]


def pairs(depth: int) -> int:
    """How often a pattern of two blocks repeats; raises ValueError for a depth that it does not fill."""
    if depth % 2:
        raise ValueError(f"depth={depth} does not split in pairs of layers; use an even number")
    return depth // 2


def columns(*names: str) -> Callable[..., Sizes]:
    """A paper's table of sizes: a function that takes the values of a row in the order of `names`."""
    return lambda *row: dict(zip(names, row, strict=True))
