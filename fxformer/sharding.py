"""Sharding: a mesh, rules from the alphabet's logical axes to mesh axes, and a plan that can be read before it is paid.

The model knows nothing of this: `Project` and the residual stream name their axes, and within `use(mesh, rules)` those
names become constraints. A preset is a product of PARTS; rules that come first win a mesh axis that two of them want.
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
from fxformer.pipeline import check_apart
from fxformer.table import columns

Rules = Mapping[str, str]  # logical axis -> mesh axis
AnyMesh = Mesh | AbstractMesh  # of devices, or of sizes alone, which is enough to plan with

BATCH: Rules = {"batch": "data"}
CHANNELS: Rules = {"head": "model", "kv_head": "model", "ffn": "model", "vocab": "model"}
PARTS: dict[str, Rules] = {  # what a preset is a product of, the first rules first
    "dp": {},  # every device has all parameters and a part of the batch
    "ep": {"expert": "data"},  # experts cut; tokens go to the device of their expert and back. Lepikhin et al. 2020
    "tp": CHANNELS,  # heads, feed-forward channels and vocabulary cut. Shoeybi et al. 2019
    "sp": {**CHANNELS, "token": "model"},  # likewise, and tokens where nothing else is. Korthikanti et al. 2022
    "cp": {"token": "context"},  # tokens cut everywhere; each device gathers the keys of all. Dubey et al. 2024, 3.3.2
    "pp": {"layer": "stage", "vocab": "stage"},  # groups of layers, and the vocabulary. Huang et al. 2019
    "fsdp": {"width": "data"},  # parameters cut along the stream, gathered where they are used. Zhao et al. 2023
}
NO_PRODUCTS = {  # of two parts, and why
    ("tp", "sp"): "sp is tp, and cuts tokens too",
    ("sp", "cp"): "both cut tokens, over two axes of the mesh",
    ("ep", "sp"): "tokens that sp cuts would go to experts over both axes of the mesh at once",
    ("ep", "cp"): "tokens that cp cuts would go to experts over both axes of the mesh at once",
    ("ep", "pp"): "experts share the places of a batch, and stages see it part by part",
}


def product(*names: str) -> Rules:
    """The rules of parts together. Raises ValueError for a part that is none, and for two that do not go together."""
    for name in names:
        nearest(PARTS, name, "part of a preset")
    for pair, why in NO_PRODUCTS.items():
        if set(pair) <= set(names):
            raise ValueError(f"{' and '.join(pair)} are no product: {why}; use one of them")
    return {**BATCH, **{axis: over for name in PARTS if name in names for axis, over in PARTS[name].items()}}


PRESETS: dict[str, Rules] = {
    name: product(*name.split("_"))
    for name in (
        "dp", "fsdp", "tp", "fsdp_tp", "sp", "fsdp_sp", "cp", "fsdp_cp", "tp_cp", "fsdp_tp_cp",
        "ep", "fsdp_ep", "ep_tp", "fsdp_ep_tp", "pp", "fsdp_pp", "tp_pp", "fsdp_tp_pp", "sp_pp", "cp_pp",
    )
}  # fmt: skip

MESH_AXES = {
    "data": "parts of the batch",
    "model": "parts of each layer",
    "context": "parts of each row",
    "stage": "groups of layers",
}


def preset(name: str) -> Rules:
    """The rules of a preset by its name. Raises ValueError for one that is none, and says why two parts are not."""
    if name not in PRESETS and set(parts := name.split("_")) <= PARTS.keys():
        product(*parts)
        meant = [other for other in PRESETS if set(other.split("_")) == set(parts)]
        if meant:
            raise ValueError(f"rules={name!r} is unknown; did you mean {meant[0]!r}?")
    return nearest(PRESETS, name, "rules")


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
    """The sharding of tokens [batch, length]: their rows, for what is one token longer than what is read of it is not
    cut evenly along them."""
    return NamedSharding(mesh, partition(("batch",), mesh, rules))


def check_batch(batch: int, mesh: AnyMesh, rules: Rules, *, length: int | None = None) -> None:
    """Raise ValueError where the batch, or rows of `length` tokens, cannot be cut evenly."""
    for name, size, axis in (("batch", batch, "batch"), ("length", length, "token")):
        over = _on(mesh, rules).get(axis)
        if size is not None and over is not None and size % mesh.shape[over]:
            raise ValueError(
                f"{name}={size} is not divisible by the {mesh.shape[over]} devices of mesh axis {over}; "
                f"use a multiple of {mesh.shape[over]}"
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


def plan(spec: Transformer, mesh: AnyMesh, rules: Rules, *, drawn: bool = False) -> Plan:
    """How the parameters are cut: nothing that the rules cut is ever replicated silently.

    drawn: whether runs are given a dropout key, as those that train are.
    Raises ValueError where a rule is for no axis, where axes are not divisible (it names all), where the mesh lacks an
    axis that would cut a parameter, where it has one that the rules leave idle, and for layers that are no pipeline's.
    """
    check_rules(rules)
    for axis, size in mesh.shape.items():
        if size > 1 and axis not in rules.values():
            raise ValueError(
                f"the rules cut nothing over mesh axis {axis}, whose {size} devices would all do the same work; "
                f"leave it out, or use rules that cut over it"
            )
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params(spec), is_leaf=is_box)
    if "expert" in rules and not any("expert" in box.names for _, box in leaves):
        raise ValueError("the rules cut experts, and the model has none; use rules without ep")
    if "layer" in rules:
        _check_layers(spec, drawn=drawn)
    rows = tuple(_row(".".join(_names(path)), box, mesh, rules) for path, box in leaves)
    wrong = _uneven(rows, mesh)
    if wrong:
        raise ValueError("; ".join(wrong))
    return Plan(rows)


def _uneven(rows: tuple[Row, ...], mesh: AnyMesh) -> list[str]:
    """Each axis that its mesh axis does not divide, the first parameter that has it, and the nearest sizes that fit."""
    found: dict[tuple[str | None, int, str], str] = {}
    for row in rows:
        for size, axis, cut in zip(row.shape, row.axes, row.cuts, strict=True):
            if cut is None or size % mesh.shape[cut] == 0 or (axis, size, cut) in found:
                continue
            devices = mesh.shape[cut]
            nearest_sizes = [str(near) for near in (size - size % devices, size + -size % devices) if near]
            what = f"{row.path}: axis {axis} of size {size}"
            found[axis, size, cut] = (
                f"{what} is not divisible by the {devices} devices of mesh axis {cut}; change the size, to "
                f"{' or '.join(nearest_sizes)}, the mesh, or use rules that do not cut {axis}"
            )
    return list(found.values())


def _check_layers(spec: Transformer, *, drawn: bool) -> None:
    """Raise ValueError for a model of which stages of a pipeline cannot each have some layers."""
    groups = [group for stack in (spec.stack, spec.encoder) if stack is not None for group in stack.groups]
    stacked = [group for group in groups if group.stacked and not group.tied]
    if not stacked:
        raise ValueError("the rules cut layers, and those of the model stand alone or are tied; use rules without pp")
    for group in stacked:
        check_apart(group.blocks, drawn=drawn)


def _row(path: str, box: LogicallyPartitioned, mesh: AnyMesh, rules: Rules) -> Row:
    shape, cuts = box.value.shape, tuple(partition(box.names, mesh, rules))
    for axis in box.names:
        wanted = rules.get(axis) if axis is not None else None
        if wanted is not None and wanted not in mesh.shape:
            raise ValueError(
                f"{path}: the rules cut axis {axis} over mesh axis {wanted}, which the mesh lacks; "
                f"add {wanted}=1 or more to it, or use rules that do not cut {axis}"
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
