"""Layouts: how one tensor of a checkpoint holds leaves of our parameter tree, in both directions.

`pack(leaves)` makes the tensor, `unpack(tensor, shapes)` its inverse; shapes are those of our leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import einops
import jax

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Axes:
    """The axes of one leaf moved and merged: "ours -> theirs", a torch Linear being "d h k -> (h k) d"."""

    pattern: str

    def pack(self, leaves: Sequence[Any]) -> Any:
        (leaf,) = leaves
        return einops.rearrange(leaf, self.pattern)

    def unpack(self, tensor: Any, shapes: Sequence[Shape]) -> Sequence[Any]:
        ours, theirs = self.pattern.split(" -> ")
        sizes = dict(zip(ours.split(), shapes[0], strict=True))
        return [einops.rearrange(tensor, f"{theirs} -> {ours}", **sizes)]


@dataclass(frozen=True, slots=True)
class Fused:
    """Leaves one after another along the axis `*`, their remaining axes merged: fused q, k, v are "d *"."""

    pattern: str

    def pack(self, leaves: Sequence[Any]) -> Any:
        return einops.pack(leaves, self.pattern)[0]

    def unpack(self, tensor: Any, shapes: Sequence[Shape]) -> Sequence[Any]:
        before, after = (len(side.split()) for side in self.pattern.split("*"))
        return einops.unpack(tensor, [shape[before : len(shape) - after] for shape in shapes], self.pattern)


@dataclass(frozen=True, slots=True)
class Joined:
    """`Fused(fuse)`, then `Axes(move)`: a torch Linear of query and key heads side by side is "d *", "d x -> x d"; one
    that holds [query | key] head by head is "d h *", "d h x -> (h x) d".
    """

    fuse: str
    move: str

    def pack(self, leaves: Sequence[Any]) -> Any:
        return Axes(self.move).pack([Fused(self.fuse).pack(leaves)])

    def unpack(self, tensor: Any, shapes: Sequence[Shape]) -> Sequence[Any]:
        (joined,) = Axes(self.move).unpack(tensor, [packed_shape(Fused(self.fuse), tuple(shapes))])
        return Fused(self.fuse).unpack(joined, shapes)


@dataclass(frozen=True, slots=True)
class Stacked:
    """Leaves of one shape on a new first axis `n`, then moved: gate and up in turns are "n d f -> d (f n)"."""

    pattern: str

    def pack(self, leaves: Sequence[Any]) -> Any:
        return einops.rearrange(list(leaves), self.pattern)

    def unpack(self, tensor: Any, shapes: Sequence[Shape]) -> Sequence[Any]:
        (stacked,) = Axes(self.pattern).unpack(tensor, [(len(shapes), *shapes[0])])
        return list(stacked)


@dataclass(frozen=True, slots=True)
class Same:
    """The tensor is the leaf."""

    def pack(self, leaves: Sequence[Any]) -> Any:
        (leaf,) = leaves
        return leaf

    def unpack(self, tensor: Any, shapes: Sequence[Shape]) -> Sequence[Any]:
        return [tensor]


Layout = Axes | Fused | Joined | Stacked | Same


@lru_cache(maxsize=4096)
def packed_shape(layout: Layout, shapes: tuple[Shape, ...]) -> Shape:
    """The shape of the tensor that holds leaves of these shapes."""
    return jax.eval_shape(layout.pack, [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]).shape
