"""Pipelines: layers stand in groups on the stages of a mesh axis, and parts of a batch pass from one to the next.

GPipe, Huang et al. 2019, section 2: of P parts and S stages, stage s works on part t - s at tick t, P + S - 1 ticks in
all, so that each waits for (S - 1) / (P + S - 1) of the time. The backward pass is that of autodiff: the same ticks the
other way. The other axes of the mesh go on cutting what is within a stage.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from fxformer.axes import logical
from fxformer.layers.attention.indexer import Indexer
from fxformer.layers.context import Context, Side
from fxformer.layers.ffn import MoE
from fxformer.layers.norm import Norm
from fxformer.ops.norm import ACROSS_TOKENS
from fxformer.walk import parts

Layers = Callable[[Any, Any, Context], tuple[Any, dict[str, Side]]]
PARTS_A_STAGE = 4  # stages then wait for less than a fifth of the time. Huang et al. 2019, section 2.2
DRAWN = ("dropout", "stochastic_depth")  # fields whose numbers are drawn for a whole batch at once


def _draws(part: Any) -> bool:
    return is_dataclass(part) and any(field.name in DRAWN and getattr(part, field.name) for field in fields(part))


# What a batch does as a whole, and which blocks do it, with a dropout key or without.
TOGETHER: dict[str, Callable[[Any, bool], bool]] = {
    "experts share the places of a batch": lambda blocks, drawn: any(parts(blocks, MoE)),
    "an indexer's loss is a mean over a batch": lambda blocks, drawn: any(parts(blocks, Indexer)),
    "a norm over tokens takes those of a batch": lambda blocks, drawn: any(
        norm.kind in ACROSS_TOKENS for norm in parts(blocks, Norm)
    ),
    "dropout is drawn for a batch": lambda blocks, drawn: drawn and any(map(_draws, parts(blocks, object))),
}


def check_apart(blocks: Any, *, drawn: bool) -> None:
    """Raise ValueError for blocks that do not say of parts of a batch what they say of all of it.

    drawn: whether there is a dropout key.
    """
    for why, found in TOGETHER.items():
        if found(blocks, drawn):
            raise ValueError(f"{why}, and stages see it part by part; leave that out, or use rules without pp")


def stages_of(layers: int, blocks: Any, *, drawn: bool) -> int:
    """How many stages the rules in force cut layers over, 1 without. Raises ValueError where they cannot."""
    stages = _pieces("l")
    if stages > 1:
        check_apart(blocks, drawn=drawn)
        if layers % stages:
            raise ValueError(f"{layers} layers are not divisible by {stages} stages; use a multiple, or other stages")
    return stages


def parts_of(rows: int, stages: int) -> int:
    """Into how many parts a batch is cut: as many as come out even, up to some for each stage."""
    return next(count for count in range(min(rows, PARTS_A_STAGE * stages), 0, -1) if rows % count == 0)


def pipelined(
    layers: Layers, layers_L: Any, carried: Any, context: Context, stages: int
) -> tuple[Any, dict[str, Side]]:
    """`layers(layers_L, carried, context)`, of which each stage has and does its own part.

    layers_L: arrays [layers, …]. carried: arrays [B, …], which layers take and give. Beside them they give the sides of
    blocks by name, [layers, …], whose statistics are pooled over the parts of the batch.
    """
    over, rows = _over("l"), jax.tree.leaves(carried)[0].shape[0]
    assert over is not None, "no rules cut layers"
    count = parts_of(rows // _pieces("b") if rows % _pieces("b") == 0 else rows, stages)
    batch_P = jax.tree.map(partial(_cut, count), (carried, context.coords, context.memory))
    if context.layer is not None:
        context = replace(context, layer=replace(context.layer, first={}))  # it is carried

    def on_stage(layers_l: Any, everywhere: Any) -> tuple[Any, dict[str, Side]]:
        batch_P, context = jax.tree.map(lambda x: x[0], everywhere)

        def work(carried: Any, coords: Any, memory: Any) -> tuple[Any, dict[str, Side]]:
            return layers(layers_l, carried, replace(context, coords=coords, memory=memory))

        left_P, sides_P = gpipe(work, *batch_P, count=count, stages=stages, over=over)
        is_last = jax.lax.axis_index(over) == stages - 1
        return jax.tree.map(lambda x: jnp.where(is_last, x, 0)[None], left_P), sides_P

    everywhere = jax.tree.map(partial(_copied, stages), (batch_P, context))
    left_SP, sides_P = jax.shard_map(
        on_stage,
        in_specs=PartitionSpec(over),
        out_specs=(PartitionSpec(over), PartitionSpec(None, over)),
        axis_names={over},
        check_vma=False,
    )(layers_L, everywhere)
    left = jax.tree.map(lambda x_SP: _joined(jnp.sum(x_SP, axis=0)), left_SP)
    return left, {name: _pooled(side) for name, side in sides_P.items()}


def gpipe(
    work: Callable[..., tuple[Any, Any]], carried_P: Any, *rest_P: Any, count: int, stages: int, over: str
) -> tuple[Any, Any]:
    """What one stage does: `work(carried, *rest)` on each part of [P, …], handed on from the stage before.

    Returns what left the stage of each part, and what was said beside it, [P, …].
    """
    stage, onward = jax.lax.axis_index(over), [(i, i + 1) for i in range(stages - 1)]

    def tick(arrived: Any, time: Array) -> tuple[Any, tuple[Any, Any]]:
        part = jnp.clip(time - stage, 0, count - 1)
        own, *rest = jax.tree.map(lambda x: x[part], (carried_P, *rest_P))
        left, said = work(jax.tree.map(partial(jnp.where, stage == 0), own, arrived), *rest)
        return jax.tree.map(lambda x: jax.lax.ppermute(x, over, onward), left), (left, said)

    start = jax.tree.map(lambda x: x[0], carried_P)  # what is computed before a part arrives is thrown away
    _, out = jax.lax.scan(tick, start, jnp.arange(count + stages - 1))
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, stage, count), out)


def _copied(stages: int, x: Array) -> Array:
    """A copy for each stage, cut over them, so that the sum of its gradients is no part of what a stage does.

    XLA's compiler for CPUs ends the process at a sum of bfloat16 there.
    """
    return jnp.broadcast_to(x, (stages, *jnp.shape(x)))


def _cut(count: int, x: Array) -> Array:
    """[B, …] -> [parts, B / parts, …]: part i has rows i + parts k, so that it lies where the batch does.

    What stands for every row stands for those of each part.
    """
    if x.shape[0] == 1:
        return jnp.broadcast_to(x, (count, *x.shape))
    return jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1)


def _joined(x: Array) -> Array:
    """The other way: [parts, B / parts, …] -> [B, …]."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def _pooled(side: Side) -> Side:
    return side._replace(stats={name: statistic.pooled() for name, statistic in side.stats.items()})


def _over(letter: str) -> str | None:
    """The mesh axis that the rules in force cut the logical axis of a letter over."""
    (over,) = nn.logical_to_mesh_axes(logical(letter)) or (None,)
    return over


def _pieces(letter: str) -> int:
    """Into how many pieces."""
    return jax.sharding.get_abstract_mesh().shape.get(_over(letter), 1)
