"""Sharding: a mesh, rules from the alphabet's logical axes to mesh axes, and a plan that can be read before it is paid.

The model knows nothing of this: `Project` and the residual stream name their axes, and within `use(mesh, rules)` those
names become constraints. A preset is one line in PRESETS; rules that come first win a mesh axis that two of them want.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen.spmd import LogicallyPartitioned
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fxformer.model import Params, Transformer, abstract_params, init

Rules = Mapping[str, str]  # logical axis -> mesh axis

_HEADS = {"head": "model", "kv_head": "model", "ffn": "model", "vocab": "model"}

PRESETS: dict[str, Rules] = {
    "dp": {"batch": "data"},  # every device has all parameters and a part of the batch
    "fsdp": {"batch": "data", "width": "data"},  # parameters cut along the stream, gathered where they are used
    "tp": {"batch": "data", **_HEADS},  # heads, feed-forward channels and vocabulary cut
    "fsdp_tp": {"batch": "data", **_HEADS, "width": "data"},
}


def mesh_shape(text: str) -> dict[str, int]:
    """{"data": 2, "model": 4} of "data=2,model=4"; {} of "". Raises ValueError for anything else."""
    shape: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, size = (word.strip() for word in part.partition("="))
        if name not in ("data", "model") or not size.isdigit() or int(size) < 1 or name in shape:
            raise ValueError(f"mesh={text!r} is not like data=2,model=4, with the axes data and model once each")
        shape[name] = int(size)
    return shape


def mesh_size(text: str) -> int:
    """Number of devices that a mesh written as "data=2,model=4" takes; 1 for ""."""
    return math.prod(mesh_shape(text).values())


def mesh(text: str) -> Mesh:
    """The mesh written as "data=2,model=4" over the first devices. Raises ValueError where there are too few."""
    shape, devices = mesh_shape(text), jax.devices()
    if math.prod(shape.values()) > len(devices):
        raise ValueError(f"mesh {text} takes {math.prod(shape.values())} devices, there are {len(devices)}")
    cube = np.array(devices[: math.prod(shape.values())]).reshape(tuple(shape.values()))
    return Mesh(cube, tuple(shape), axis_types=(AxisType.Auto,) * len(shape))


@contextmanager
def use(mesh: Mesh, rules: Rules) -> Iterator[None]:
    """Within it, what is traced obeys `rules` on `mesh`."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(_on(mesh, rules).items())):
        yield


def partition(axes: tuple[str | None, ...], mesh: Mesh, rules: Rules) -> PartitionSpec:
    """Which mesh axis cuts each logical axis of an array; a mesh axis cuts one of them, the first by the rules."""
    cuts: dict[str, str] = {}
    for logical, mesh_axis in _on(mesh, rules).items():
        if logical in axes and mesh_axis not in cuts.values():
            cuts[logical] = mesh_axis
    return PartitionSpec(*(cuts.get(axis) if axis is not None else None for axis in axes))


def param_shardings(spec: Transformer, mesh: Mesh, rules: Rules) -> Params:
    """The sharding of each parameter, in the tree of `init`."""
    return jax.tree.map(
        lambda box: NamedSharding(mesh, partition(box.names, mesh, rules)), abstract_params(spec), is_leaf=_is_box
    )


def init_sharded(spec: Transformer, key: Array, mesh: Mesh, rules: Rules) -> Params:
    """`init`, each parameter made where it belongs: no device ever holds them all."""
    shardings = param_shardings(spec, mesh, rules)
    with use(mesh, rules):
        return jax.jit(partial(init, spec), out_shardings=shardings)(key)


def like_params(spec: Transformer, mesh: Mesh, rules: Rules, tree: Any) -> Any:
    """Shardings for a tree that holds copies of the parameter tree (an optimizer's state): the rest is replicated."""
    boxes = jax.tree_util.tree_leaves_with_path(abstract_params(spec), is_leaf=_is_box)
    known = {_names(path): box for path, box in boxes}

    def choose(path: Any, leaf: Any) -> NamedSharding:
        box = known.get(_names(path))
        if box is None or box.value.shape != leaf.shape:
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, partition(box.names, mesh, rules))

    return jax.tree_util.tree_map_with_path(choose, tree)


def batch_sharding(mesh: Mesh, rules: Rules) -> NamedSharding:
    """The sharding of tokens [batch, length]."""
    return NamedSharding(mesh, partition(("batch", "token"), mesh, rules))


def check_batch(batch: int, mesh: Mesh, rules: Rules) -> None:
    """Raise ValueError where the batch cannot be cut evenly."""
    axis = _on(mesh, rules).get("batch")
    if axis is not None and batch % mesh.shape[axis]:
        raise ValueError(f"batch={batch} is not divisible by the {mesh.shape[axis]} devices of mesh axis {axis}")


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter of a plan. cuts: the mesh axis that cuts each of its axes. bytes: on one device, in float32."""

    path: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    cuts: tuple[str | None, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Every parameter, how it is cut, and what that costs one device; `str` prints it as a table."""

    rows: tuple[Row, ...]

    @property
    def bytes(self) -> int:
        """Parameters on one device, in float32."""
        return sum(row.bytes for row in self.rows)

    def __str__(self) -> str:
        cells = [("parameter", "shape", "axes", "cut by", "bytes per device")]
        for row in self.rows:
            axes = " ".join(axis or "-" for axis in row.axes)
            cuts = " ".join(cut or "-" for cut in row.cuts)
            cells.append((row.path, " x ".join(map(str, row.shape)), axes, cuts, f"{row.bytes:,}"))
        cells.append(("total", "", "", "", f"{self.bytes:,}"))
        widths = [max(len(row[column]) for row in cells) for column in range(5)]
        lines = [[cell.ljust(width) for cell, width in zip(row[:4], widths, strict=False)] for row in cells]
        return "\n".join("  ".join([*line, row[4].rjust(widths[4])]) for line, row in zip(lines, cells, strict=True))


def plan(spec: Transformer, mesh: Mesh, rules: Rules) -> Plan:
    """How the parameters are cut. Raises ValueError where an axis that the rules cut is not divisible: no axis is
    ever replicated silently."""
    if not _on(mesh, rules):
        raise ValueError(
            f"the rules cut over {', '.join(dict.fromkeys(rules.values()))}, the mesh has {list(mesh.shape)}"
        )
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params(spec), is_leaf=_is_box)
    return Plan(tuple(_row(".".join(_names(path)), box, mesh, rules) for path, box in leaves))


def _row(path: str, box: LogicallyPartitioned, mesh: Mesh, rules: Rules) -> Row:
    shape, cuts = box.value.shape, tuple(partition(box.names, mesh, rules))
    for size, axis, cut in zip(shape, box.names, cuts, strict=True):
        if cut is not None and size % mesh.shape[cut]:
            raise ValueError(
                f"{path}: axis {axis} of size {size} is not divisible by the {mesh.shape[cut]} devices of mesh axis "
                f"{cut}; change the size, the mesh, or use rules that do not cut {axis}"
            )
    pieces = math.prod(mesh.shape[cut] for cut in cuts if cut is not None)
    return Row(path, shape, box.names, cuts, 4 * math.prod(shape) // pieces)


def _on(mesh: Mesh, rules: Rules) -> dict[str, str]:
    """The rules whose mesh axis exists."""
    return {logical: axis for logical, axis in rules.items() if axis in mesh.shape}


def _names(path: Any) -> tuple[str, ...]:
    """The dictionary keys of a path: where in the parameter tree a leaf stands, whatever holds that tree."""
    return tuple(part.key for part in path if isinstance(part, jax.tree_util.DictKey))


def _is_box(node: Any) -> bool:
    return isinstance(node, LogicallyPartitioned)
