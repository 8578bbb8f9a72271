"""Depth: a `Repeat` loops over a pattern of blocks, a `Stack` is a few repeats, one logit bias and the last norm."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from fxformer.axes import logical
from fxformer.block import Block, BlockModule
from fxformer.cache import empty_table
from fxformer.layers.bias import BIASES, ALiBi, Buckets
from fxformer.layers.context import Context, Side
from fxformer.layers.norm import Norm, NormModule
from fxformer.layers.residual import PLACEMENTS


@dataclass(frozen=True, slots=True)
class Repeat:
    """A pattern of blocks `n` times over: parameters stacked on a leading layer axis, or `tied` (ALBERT)."""

    n: int
    blocks: tuple[Block, ...]
    tied: bool = False

    def __post_init__(self) -> None:
        if self.n < 1 or not self.blocks:
            raise ValueError(f"depth {self.n} x {len(self.blocks)} blocks is no stack; use 1 or more of each")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Repeats one after another, the logit bias that their attentions share, and the norm at the end.

    The last block's placement says whether the stream needs that norm; `norm` says which one it is.
    """

    groups: tuple[Repeat, ...]
    norm: Norm
    bias: Buckets | ALiBi | None = None

    def __post_init__(self) -> None:
        for attention in (block.attention for group in self.groups for block in group.blocks):
            if self.bias is not None and self.bias.heads != attention.heads:
                raise ValueError(
                    f"logit bias has heads={self.bias.heads}, attention has heads={attention.heads}; give it as many"
                )

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return sum(group.n * len(group.blocks) for group in self.groups)

    @property
    def placement(self) -> str:
        """The placement of the last block, by which the stream leaves the stack."""
        return self.groups[-1].blocks[-1].residual.placement


class PatternModule(nn.Module):
    """One pass over the pattern of a `Repeat`: the body of its loop."""

    blocks: tuple[Block, ...]

    @nn.compact
    def __call__(self, x_BTD: Array, tables: Any, context: Context) -> tuple[Array, dict[str, Side]]:
        sides = {}
        for i, block in enumerate(self.blocks):
            name = f"block_{i}"
            table = None if tables is None else tables[name]
            x_BTD, sides[name] = BlockModule(block, name=name)(x_BTD, context, table)
        return x_BTD, sides


class RepeatModule(nn.Module):
    """`lax.scan` over the layer axis of parameters and cache tables."""

    spec: Repeat

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, tables: Any) -> tuple[Array, Side]:
        spec, execution = self.spec, context.execution
        pattern = nn.remat(PatternModule, prevent_cse=False) if execution.remat else PatternModule
        loop = nn.scan(
            pattern,
            length=spec.n,
            in_axes=(0, nn.broadcast),
            variable_axes={} if spec.tied else {"params": 0},
            variable_broadcast="params" if spec.tied else False,
            split_rngs={"params": not spec.tied, "dropout": True},
            unroll=min(execution.unroll, spec.n),
            metadata_params={nn.PARTITION_NAME: logical("l")[0]},
        )
        x_BTD, sides = loop(spec.blocks, name="blocks")(x_BTD, tables, context)
        return x_BTD, Side(
            tables=None if tables is None else {name: side.tables for name, side in sides.items()},
            losses=_by_layer([side.losses for side in sides.values()]),
            stats=_by_layer([side.stats for side in sides.values()]),
        )


class StackModule(nn.Module):
    """Groups in order, then the placement's way out of the residual stream."""

    spec: Stack

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, tables: Any) -> tuple[Array, Side]:
        spec = self.spec
        if spec.bias is not None:
            context = replace(context, bias=BIASES[type(spec.bias)](spec.bias, name="bias")())
        sides = {}
        for i, group in enumerate(spec.groups):
            name = f"group_{i}"
            table = None if tables is None else tables[name]
            x_BTD, sides[name] = RepeatModule(group, name=name)(x_BTD, context, table)
        x_BTD = PLACEMENTS[spec.placement].leave(x_BTD, lambda name: NormModule(spec.norm, name=f"{name}_norm"))
        return x_BTD, Side(
            tables=None if tables is None else {name: side.tables for name, side in sides.items()},
            losses=_concatenate([side.losses for side in sides.values()]),
            stats=_concatenate([side.stats for side in sides.values()]),
        )


def empty_tables(spec: Stack, *, batch: int, length: int, dtype: DTypeLike) -> Any:
    """Empty cache tables in the tree of the stack, one for each attention, stacked on the layer axis."""

    def of_block(block: Block, n: int) -> Any:
        attention = block.attention
        table = empty_table(attention.records, batch=batch, length=length, reach=attention.mask.reach, dtype=dtype)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), table)

    return {
        f"group_{i}": {f"block_{j}": of_block(block, group.n) for j, block in enumerate(group.blocks)}
        for i, group in enumerate(spec.groups)
    }


def _by_layer(patterns: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Numbers [n] of each block of a pattern, in the order of the layers that have them: [n * blocks]."""
    names = dict.fromkeys(name for pattern in patterns for name in pattern)
    return {
        name: jnp.stack([pattern[name] for pattern in patterns if name in pattern], axis=1).reshape(-1)
        for name in names
    }


def _concatenate(groups: Sequence[dict[str, Array]]) -> dict[str, Array]:
    names = dict.fromkeys(name for group in groups for name in group)
    return {name: jnp.concatenate([group[name] for group in groups if name in group]) for name in names}
