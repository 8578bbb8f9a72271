"""Name tables: which tensor of a checkpoint holds which leaves of our tree, for every layer.

Our parameters are stacked on a leading layer axis, theirs have a name for each layer: `{}` in a table is the layer's
number in their name, and in our path the block that holds it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import EllipsisType

from fxformer.hf.layout import Layout, Same, Shape, packed_shape
from fxformer.model import Transformer
from fxformer.stack import Stack


@dataclass(frozen=True, slots=True)
class Tensor:
    """A line of a name table: their name, our paths, and how the tensor holds the leaves."""

    name: str
    paths: tuple[str, ...]
    layout: Layout


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of one checkpoint: it holds `leaf[index]` of each path, whose shapes are `shapes`."""

    name: str
    paths: tuple[str, ...]
    index: int | EllipsisType
    shapes: tuple[Shape, ...]
    layout: Layout

    @property
    def shape(self) -> Shape:
        """The shape of the tensor."""
        return packed_shape(self.layout, self.shapes)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def tensor(name: str, *paths: str, layout: Layout = Same()) -> Tensor:
    """A line of a name table."""
    return Tensor(name, paths, layout)


def slots(table: Iterable[Tensor], spec: Transformer, leaves: Mapping[str, Shape]) -> list[list[Slot]]:
    """The tensors of a model whose leaves have these shapes, line by line; a line for leaves it lacks is empty."""
    lines = [[slot for slot in _line(line, spec, leaves)] for line in table]
    nameless = set(leaves) - {path for line in lines for slot in line for path in slot.paths}
    assert not nameless, f"no tensor of the name table holds {sorted(nameless)}"
    return lines


def _line(line: Tensor, spec: Transformer, leaves: Mapping[str, Shape]) -> Iterable[Slot]:
    layered = "{}" in line.name
    places = _places(spec.stack) if layered else [("", ...)]
    for number, (place, index) in enumerate(places):
        paths = tuple(path.format(place) for path in line.paths)
        if all(path in leaves for path in paths):
            shapes = tuple(leaves[path][layered:] for path in paths)
            yield Slot(line.name.format(number), paths, index, shapes, line.layout)


def _places(stack: Stack) -> list[tuple[str, int | EllipsisType]]:
    """Where each layer of a stack is: the path of its block, and its index on the layer axis."""
    return [
        (f"group_{g}.blocks.block_{b}", i)
        for g, group in enumerate(stack.groups)
        for i in range(group.n)
        for b in range(len(group.blocks))
    ]
