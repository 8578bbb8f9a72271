"""Sharding: a mesh, rules from the alphabet's logical axes to mesh axes, and a plan that can be read before it is paid.

The model knows nothing of this: `Project` and the residual stream name their axes, and within `use(mesh, rules)` those
names become constraints. A preset is one line in PRESETS; rules that come first win a mesh axis that two of them want.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np
from flax.linen.spmd import LogicallyPartitioned
from jax import Array
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from fxformer.axes import AXES, logical
from fxformer.cache import Cache
from fxformer.lookup import nearest
from fxformer.model import Params, Transformer, abstract_params, init
from fxformer.table import columns

Rules = Mapping[str, str]  # logical axis -> mesh axis
AnyMesh = Mesh | AbstractMesh  # of devices, or of sizes alone, which is enough to plan with

_CHANNELS = {"head": "model", "kv_head": "model", "ffn": "model", "vocab": "model"}

PRESETS: dict[str, Rules] = {
    "dp": {"batch": "data"},  # every device has all parameters and a part of the batch
    "fsdp": {"batch": "data", "width": "data"},  # parameters cut along the stream, gathered where they are used
    "tp": {"batch": "data", **_CHANNELS},  # heads, feed-forward channels and vocabulary cut
    "fsdp_tp": {"batch": "data", **_CHANNELS, "width": "data"},
}

MESH_AXES = {"data": "parts of the batch", "model": "parts of each layer"}


def mesh_shape(text: str) -> dict[str, int]:
    """{"data": 2, "model": 4} of "data=2,model=4"; {} of "". Raises ValueError for anything else."""
    shape: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, size = (word.strip() for word in part.partition("="))
        unlike = f"mesh={text!r} is not like data=2,model=4"
        nearest(MESH_AXES, name, f"{unlike}: axis")
        if not size.isdigit() or int(size) < 1 or name in shape:
            raise ValueError(f"{unlike}: give {name} once, with a number of devices")
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
    check_rules(rules)
    with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(_on(mesh, rules).items())):
        yield


def partition(axes: tuple[str | None, ...], mesh: AnyMesh, rules: Rules) -> PartitionSpec:
    """Which mesh axis cuts each logical axis of an array; a mesh axis cuts one of them, the first by the rules."""
    return cast(PartitionSpec, nn.logical_to_mesh_axes(axes, tuple(_on(mesh, rules).items())))


def check_rules(rules: Rules) -> None:
    """Raise ValueError for what are no rules, and for a logical axis that no array has."""
    if not isinstance(rules, Mapping):
        raise ValueError(f"rules={rules!r} are no mapping from logical axes to mesh axes; see sharding.PRESETS")
    for axis in rules:
        nearest({name: None for name in AXES.values()}, axis, "logical axis")


def param_shardings(spec: Transformer, mesh: AnyMesh, rules: Rules) -> Params:
    """The sharding of each parameter, in the tree of `init`. Raises ValueError where a rule is for no axis."""
    check_rules(rules)
    return jax.tree.map(
        lambda box: NamedSharding(mesh, partition(box.names, mesh, rules)), abstract_params(spec), is_leaf=is_box
    )


def init_sharded(spec: Transformer, key: Array, mesh: Mesh, rules: Rules) -> Params:
    """`init`, each parameter made where it belongs: no device ever holds them all."""
    shardings = param_shardings(spec, mesh, rules)
    with use(mesh, rules):
        return jax.jit(partial(init, spec), out_shardings=shardings)(key)


def like_params(spec: Transformer, mesh: AnyMesh, rules: Rules, tree: Any) -> Any:
    """Shardings for a tree that holds copies of the parameter tree, such as an optimizer's state.

    A leaf is a copy where its path ends as the parameter's and its shape is the same; what is none is replicated.
    """
    boxes = jax.tree_util.tree_leaves_with_path(abstract_params(spec), is_leaf=is_box)
    known = {(_names(path), box.value.shape): box.names for path, box in boxes}

    def choose(path: Any, leaf: Any) -> NamedSharding:
        names = _names(path)
        axes = next((known[end] for i in range(len(names)) if (end := (names[i:], leaf.shape)) in known), ())
        return NamedSharding(mesh, partition(axes, mesh, rules))

    return jax.tree_util.tree_map_with_path(choose, tree)


def cache_shardings(spec: Transformer, cache: Cache, mesh: AnyMesh, rules: Rules) -> Cache:
    """The sharding of each array of a cache: rows as the batch is cut, heads of keys and values as those are."""

    def choose(path: Any, leaf: Any) -> NamedSharding:
        names = _names(path)
        if not names:
            return NamedSharding(mesh, partition(("batch",), mesh, rules))  # the length of each row
        group, block, part, *record = names
        own = spec.stack.groups[int(group.removeprefix("group_"))]
        layer = own.blocks[int(block.removeprefix("block_"))]
        axes: tuple[str | None, ...] = (*logical("l" * len(own.stacked)), "batch")
        if record:
            attention = layer.attention if part == "attention" else layer.cross
            assert attention is not None
            *heads, width = logical("".join(attention.records[record[0]]))
            axes = (*axes, *heads, "seen", width)
        return NamedSharding(mesh, partition(axes, mesh, rules))

    return cast(Cache, jax.tree_util.tree_map_with_path(choose, cache))


def batch_sharding(mesh: AnyMesh, rules: Rules) -> NamedSharding:
    """The sharding of tokens [batch, length]."""
    return NamedSharding(mesh, partition(("batch", "token"), mesh, rules))


def check_batch(batch: int, mesh: AnyMesh, rules: Rules) -> None:
    """Raise ValueError where the batch cannot be cut evenly."""
    axis = _on(mesh, rules).get("batch")
    if axis is not None and batch % mesh.shape[axis]:
        raise ValueError(
            f"batch={batch} is not divisible by the {mesh.shape[axis]} devices of mesh axis {axis}; "
            f"use a multiple of {mesh.shape[axis]}"
        )


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
        rows = [
            (row.path, " x ".join(map(str, row.shape)), _words(row.axes), _words(row.cuts), f"{row.bytes:,}")
            for row in self.rows
        ]
        title = ("parameter", "shape", "axes", "cut by", "bytes per device")
        return columns([title, *rows, ("total", "", "", "", f"{self.bytes:,}")])


def plan(spec: Transformer, mesh: AnyMesh, rules: Rules) -> Plan:
    """How the parameters are cut: nothing that the rules cut is ever replicated silently.

    Raises ValueError where a rule is for no axis, where an axis is not divisible, where the mesh lacks an axis that
    would cut a parameter, and where it has one that the rules leave idle.
    """
    check_rules(rules)
    for axis, size in mesh.shape.items():
        if size > 1 and axis not in rules.values():
            raise ValueError(
                f"the rules cut nothing over mesh axis {axis}, whose {size} devices would all do the same work; "
                f"leave it out, or use rules that cut over it"
            )
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params(spec), is_leaf=is_box)
    return Plan(tuple(_row(".".join(_names(path)), box, mesh, rules) for path, box in leaves))


def _row(path: str, box: LogicallyPartitioned, mesh: AnyMesh, rules: Rules) -> Row:
    shape, cuts = box.value.shape, tuple(partition(box.names, mesh, rules))
    for size, axis, cut in zip(shape, box.names, cuts, strict=True):
        wanted = rules.get(axis) if axis is not None else None
        if wanted is not None and wanted not in mesh.shape:
            raise ValueError(
                f"{path}: the rules cut axis {axis} over mesh axis {wanted}, which the mesh lacks; "
                f"add {wanted}=1 or more to it, or use rules that do not cut {axis}"
            )
        if cut is not None and size % mesh.shape[cut]:
            raise ValueError(
                f"{path}: axis {axis} of size {size} is not divisible by the {mesh.shape[cut]} devices of mesh axis "
                f"{cut}; change the size, the mesh, or use rules that do not cut {axis}"
            )
    pieces = math.prod(mesh.shape[cut] for cut in cuts if cut is not None)
    return Row(path, shape, box.names, cuts, 4 * math.prod(shape) // pieces)


def _words(axes: tuple[str | None, ...]) -> str:
    return " ".join(axis or "-" for axis in axes)


def _on(mesh: AnyMesh, rules: Rules) -> dict[str, str]:
    """The rules whose mesh axis exists."""
    return {logical: axis for logical, axis in rules.items() if axis in mesh.shape}


def _names(path: Any) -> tuple[str, ...]:
    """The dictionary keys of a path: where in the parameter tree a leaf stands, whatever holds that tree."""
    return tuple(part.key for part in path if isinstance(part, jax.tree_util.DictKey))


def is_box(node: Any) -> bool:
    """Is it a parameter with the names of its axes, a leaf of `abstract_params`?"""
    return isinstance(node, LogicallyPartitioned)
