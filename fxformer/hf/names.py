"""Name tables: which tensor of a checkpoint holds which leaves of our tree, for every layer.

Our parameters are stacked on a leading layer axis, and those of experts on an axis after it; theirs have a name for
each layer and expert. In our path `{}` is the block that holds a leaf; in their name `{}` is the number of the layer,
`{group}` and `{block}` those of the repeat and of the block in its pattern, `{expert}` that of the expert.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from fxformer.hf.layout import Layout, Same, Shape, packed_shape
from fxformer.model import Transformer


@dataclass(frozen=True, slots=True)
class Tensor:
    """A line of a name table: their name, our paths, and how the tensor holds the leaves.

    beside, without: another leaf that must, or must not, be there for the line to count.
    """

    name: str
    paths: tuple[str, ...]
    layout: Layout
    beside: str | None = None
    without: str | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of one checkpoint: it holds `leaf[index]` of each path, whose shapes are `shapes`."""

    name: str
    paths: tuple[str, ...]
    index: tuple[int, ...]
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


def tensor(
    name: str, *paths: str, layout: Layout = Same(), beside: str | None = None, without: str | None = None
) -> Tensor:
    """A line of a name table."""
    return Tensor(name, paths, layout, beside, without)


def slots(
    table: Iterable[Tensor], spec: Transformer, leaves: Mapping[str, Shape], most: int | None = None
) -> list[list[Slot]]:
    """The tensors of a model whose leaves have these shapes, line by line; a line for leaves it lacks is empty.

    most: a line ends there, where more tensors cannot be found anyway; None is for all of them.
    """
    lines = [list(islice(_line(line, spec, leaves), most)) for line in table]
    nameless = set(leaves) - {path for line in lines for slot in line for path in slot.paths}
    assert not nameless, f"no tensor of the name table holds {sorted(nameless)}"
    return lines


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer of a stack is: the path of its block, its index in the leaves, and its numbers."""

    path: str
    index: tuple[int, ...]
    number: int
    group: int
    block: int


def _line(line: Tensor, spec: Transformer, leaves: Mapping[str, Shape]) -> Iterable[Slot]:
    for place in _places(line, spec):
        paths = tuple(path.format(place.path) for path in line.paths)
        needed = paths if line.beside is None else (*paths, line.beside.format(place.path))
        barred = line.without is not None and line.without.format(place.path) in leaves
        if barred or not all(path in leaves for path in needed):
            continue
        depth = len(place.index)
        of_experts = "{expert}" in line.name
        for expert in range(leaves[paths[0]][depth]) if of_experts else (0,):
            index = (*place.index, expert) if of_experts else place.index
            shapes = tuple(leaves[path][len(index) :] for path in paths)
            name = line.name.format(place.number, group=place.group, block=place.block, expert=expert)
            yield Slot(name, paths, index, shapes, line.layout)


def _places(line: Tensor, spec: Transformer) -> list[Place]:
    """Each layer of the stack in which the leaves of a line are; one place for leaves that are in no layer."""
    if "{}" not in line.paths[0]:
        return [Place("", (), 0, 0, 0)]
    stack = spec.encoder if line.paths[0].startswith("encoder.") else spec.stack
    places: list[Place] = []
    for g, group in enumerate(() if stack is None else stack.groups):
        for i in range(1 if group.tied else group.n):
            for b in range(len(group.blocks)):
                index = () if group.tied else (i,)
                places.append(Place(f"group_{g}.blocks.block_{b}", index, len(places), g, b))
    return places
