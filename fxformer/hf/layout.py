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
class Same:
    """The tensor is the leaf."""

    def pack(self, leaves: Sequence[Any]) -> Any:
        (leaf,) = leaves
        return leaf

    def unpack(self, tensor: Any, shapes: Sequence[Shape]) -> Sequence[Any]:
        return [tensor]


Layout = Axes | Fused | Same


@lru_cache(maxsize=4096)
def packed_shape(layout: Layout, shapes: tuple[Shape, ...]) -> Shape:
    """The shape of the tensor that holds leaves of these shapes."""
    return jax.eval_shape(layout.pack, [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]).shape
