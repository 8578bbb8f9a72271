"""Depth: a `Repeat` loops over a pattern of blocks, a `Stack` is a few groups, one logit bias and the last norm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from fxformer.axes import logical
from fxformer.block import Block, BlockModule
from fxformer.cache import Records, Sizes, empty_cross_table, empty_table
from fxformer.coords import after_memory
from fxformer.fields import Count, Rate, Size, check_fields
from fxformer.jit import compiled
from fxformer.layers.bias import BIASES, ALiBi, Buckets
from fxformer.layers.context import Context, Layer, Side, dropout
from fxformer.layers.embed import table
from fxformer.layers.norm import Norm
from fxformer.layers.project import FanIn
from fxformer.layers.residual import PLACEMENTS, OwnParameters
from fxformer.ops.statistic import numbers
from fxformer.pipeline import pipelined, stages_of
from fxformer.walk import parts
from fxformer.written import Spelled


@dataclass(frozen=True, slots=True)
class Repeat:
    """A pattern of blocks `n` times over: parameters stacked on a leading layer axis, or `tied` (ALBERT)."""

    n: Size
    blocks: tuple[Block, ...]
    tied: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_pattern(self.blocks)

    @property
    def stacked(self) -> tuple[int, ...]:
        """Leading axes of its cache tables."""
        return (self.n,)


@dataclass(frozen=True, slots=True)
class Once:
    """A pattern of blocks that stands once: its parameters and cache tables have no layer axis."""

    blocks: tuple[Block, ...]
    n: ClassVar[int] = 1
    tied: ClassVar[bool] = False
    stacked: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        check_pattern(self.blocks)


def check_pattern(blocks: tuple[Block, ...]) -> None:
    """Raise ValueError for a pattern of no block."""
    if not blocks:
        raise ValueError("the pattern has 0 blocks; give 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Stack(Spelled):
    """Groups one after another, the logit bias that their attentions share, and the norm at the end.

    The last block's placement says whether the stream needs that norm; `norm` says which one it is. dropout: of what
    leaves the stack (T5).
    memory_tokens: that many learned vectors stand before the tokens of each row, pass every block and end there. Every
    token sees them, at no distance; they see the row where the mask is bidirectional, with all documents packed in it,
    else each other alone. A cache keeps none of them. Burtsev et al. 2020, section 3.1; as registers, Darcet et al.
    2023.
    """

    groups: tuple[Repeat | Once, ...]
    norm: Norm
    bias: Buckets | ALiBi | None = None
    dropout: Rate = 0.0
    memory_tokens: Count = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.groups:
            raise ValueError("the stack has 0 groups of blocks; give 1 or more")
        kinds = [block for group in self.groups for block in group.blocks]
        names = {PLACEMENTS[block.residual.placement].enter: block.residual.placement for block in kinds}
        if len(names) > 1:
            raise ValueError(f"placements {' and '.join(names.values())} carry different streams; use one of them")
        for attention in (block.attention for block in kinds):
            handed = attention.records_of_first
            if handed and handed != self.of_first:
                raise ValueError(
                    f"an attention takes {_sizes_said(handed)} of the first block, which has "
                    f"{_sizes_said(self.of_first)}; give all the same, the first block too"
                )
            if self.bias is not None and any(True for _ in parts(attention, Buckets)):
                raise ValueError("the stack has a logit bias and an attention has its own; give one of them")
            if self.bias is not None and self.bias.heads != attention.heads:
                raise ValueError(
                    f"logit bias has heads={self.bias.heads}, attention has heads={attention.heads}; give it as many"
                )

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Every block, in order."""
        return tuple(block for group in self.groups for block in group.blocks * group.n)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def of_first(self) -> Sizes:
        """What the first block hands to all, of one token."""
        return self.groups[0].blocks[0].attention.records_of_first

    @property
    def placement(self) -> str:
        """The placement of the last block, by which the stream leaves the stack."""
        return self.blocks[-1].residual.placement


class PatternModule(nn.Module):
    """One pass over the pattern of a `Repeat`: the body of its loop."""

    blocks: tuple[Block, ...]

    @nn.compact
    def __call__(
        self, carried: tuple[Any, Records], tables: Any, number: Array | int | None, context: Context
    ) -> tuple[tuple[Any, Records], dict[str, Side]]:
        (stream, first), sides = carried, {}
        for i, block in enumerate(self.blocks):
            name = f"block_{i}"
            table = None if tables is None else tables[name]
            if number is not None:
                context = replace(context, layer=replace(context.place, number=number + i, first=first))
            stream, side = BlockModule(block, name=name)(stream, context, table)
            first, sides[name] = {**first, **side.first}, side._replace(first={})
        return (stream, first), sides


class RepeatModule(nn.Module):
    """`lax.scan` over the layer axis of parameters and cache tables; where rules cut that axis, on every stage.

    Tied layers have none to cut, and a cache is read layer by layer.
    """

    spec: Repeat

    @nn.compact
    def __call__(self, stream: Any, context: Context, tables: Any) -> tuple[Any, Side]:
        spec, execution = self.spec, context.execution
        whole = spec.tied or tables is not None or self.is_initializing()
        stages = 1 if whole else stages_of(spec.n, spec.blocks, drawn=self.has_rng("dropout"))
        loop = nn.scan(
            _pattern(context),
            length=spec.n // stages,
            in_axes=(0, 0, nn.broadcast),
            variable_axes={} if spec.tied else {"params": 0},
            variable_broadcast="params" if spec.tied else False,
            split_rngs={"params": not spec.tied, "dropout": True},
            unroll=min(execution.unroll, spec.n // stages),
            check_constancy_invariants=spec.tied,
            metadata_params={nn.PARTITION_NAME: logical("l")[0]},
        )
        carried, numbers_L = (stream, context.place.first), None
        if context.layer is not None:
            numbers_L = context.layer.number + jnp.arange(spec.n, dtype=jnp.int32) * len(spec.blocks)
        if stages > 1:
            layers = partial(_layers, loop(spec.blocks, parent=None))
            params_L = self.variables["params"]["blocks"]
            (stream, first), sides = pipelined(layers, (params_L, numbers_L), carried, context, stages)
        else:
            (stream, first), sides = loop(spec.blocks, name="blocks")(carried, tables, numbers_L, context)
        return stream, Side(
            tables=None if tables is None else {name: side.tables for name, side in sides.items()},
            losses=_by_layer([side.losses for side in sides.values()]),
            stats=_by_layer([numbers(side.stats) for side in sides.values()]),
            first=first,
        )


class OnceModule(nn.Module):
    """The pattern by itself."""

    spec: Once

    @nn.compact
    def __call__(self, stream: Any, context: Context, tables: Any) -> tuple[Any, Side]:
        number, blocks = None if context.layer is None else context.layer.number, _pattern(context)
        carried = stream, context.place.first
        (stream, first), sides = blocks(self.spec.blocks, name="blocks")(carried, tables, number, context)
        return stream, Side(
            tables=None if tables is None else {name: side.tables for name, side in sides.items()},
            losses=_concatenate([jax.tree.map(jnp.atleast_1d, side.losses) for side in sides.values()]),
            stats=_concatenate([jax.tree.map(jnp.atleast_1d, numbers(side.stats)) for side in sides.values()]),
            first=first,
        )


def _layers(loop: nn.Module, layers: Any, carried: Any, context: Context) -> Any:
    """What the loop over some layers does, by their parameters and numbers."""
    params_L, numbers_L = layers
    return loop.apply({"params": params_L}, carried, None, numbers_L, context)


def _pattern(context: Context) -> type[PatternModule]:
    return nn.remat(PatternModule, prevent_cse=False) if context.execution.remat else PatternModule


GROUPS: dict[type, Callable[..., nn.Module]] = {Repeat: RepeatModule, Once: OnceModule}


class StackModule(nn.Module):
    """Groups in order, between the placement's ways into and out of the residual stream."""

    spec: Stack

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, tables: Any) -> tuple[Array, Side]:
        spec = self.spec
        if spec.memory_tokens:
            x_BTD, context = self._after_memory(x_BTD, context)
        if spec.bias is not None:
            context = replace(context, bias=BIASES[type(spec.bias)](spec.bias, name="bias")())
        placement, sides = PLACEMENTS[spec.placement], {}
        stream, number = placement.enter(x_BTD), 0
        first = {name: jnp.zeros((*x_BTD.shape[:2], *of.values()), x_BTD.dtype) for name, of in spec.of_first.items()}
        for i, group in enumerate(spec.groups):
            name = f"group_{i}"
            kept = None if tables is None else tables[name]
            if any(block.placed for block in spec.blocks):
                context = replace(context, layer=Layer(number=number, of=spec.depth, first=first))
            stream, side = GROUPS[type(group)](group, name=name)(stream, context, kept)
            first, sides[name], number = side.first, side, number + group.n * len(group.blocks)
        x_BTD = placement.leave(stream, OwnParameters(self, spec.norm, suffix="_norm"))[:, spec.memory_tokens :]
        return dropout(self, x_BTD, spec.dropout), Side(
            tables=None if tables is None else {name: side.tables for name, side in sides.items()},
            losses=_concatenate([side.losses for side in sides.values()]),
            stats=_concatenate([side.stats for side in sides.values()]),
        )

    def _after_memory(self, x_BTD: Array, context: Context) -> tuple[Array, Context]:
        """The tokens behind those that are the stack's own, and a context that knows them."""
        count, (batch, _, width) = self.spec.memory_tokens, x_BTD.shape
        learned_MD = table(self, count, width, FanIn(), name="memory_tokens", axes=(None, *logical("d"))).astype(
            x_BTD.dtype
        )
        x_BTD = jnp.concatenate([jnp.broadcast_to(learned_MD, (batch, count, width)), x_BTD], axis=1)
        return x_BTD, replace(context, coords=after_memory(context.coords, count), memory_tokens=count)


@compiled(static=("spec", "batch", "length", "encoder_length", "spare", "dtype"))
def empty_tables(spec: Stack, *, batch: int, length: int, encoder_length: int, spare: int, dtype: DTypeLike) -> Any:
    """Empty cache tables in the tree of the stack, one for each attention, stacked as the groups are."""

    def of_block(block: Block, stacked: tuple[int, ...]) -> Any:
        own, cross = block.attention, block.cross
        table = empty_table(own.records, batch=batch, length=length, reach=own.mask.reach, spare=spare, dtype=dtype)
        tables: dict[str, Any] = {"attention": table}
        if cross is not None:
            tables["cross"] = empty_cross_table(cross.records, batch=batch, length=encoder_length, dtype=dtype)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*stacked, *leaf.shape)), tables)

    return {
        f"group_{i}": {f"block_{j}": of_block(block, group.stacked) for j, block in enumerate(group.blocks)}
        for i, group in enumerate(spec.groups)
    }


def check_tables(spec: Stack, tables: Any) -> None:
    """Raise ValueError where cache tables are not those of this stack."""
    wanted = {
        (f"group_{i}", f"block_{j}", part, name): (*group.stacked, *sizes.values())
        for i, group in enumerate(spec.groups)
        for j, block in enumerate(group.blocks)
        for part, attention in (("attention", block.attention), ("cross", block.cross))
        if attention is not None
        for name, sizes in attention.records.items()
    }
    held = {
        (group, block, part, name): (*leaf.shape[:batch], *leaf.shape[batch + 1 : -2], leaf.shape[-1])
        for group, blocks in tables.items()
        for block, parts in blocks.items()
        for part, table in parts.items()
        for batch in (table.coords.index.ndim - 2,)
        for name, stored in table.records.items()
        for leaf in jax.tree.leaves(stored)[:1]
    }
    for path in wanted | held:
        if wanted.get(path) != held.get(path):
            needs, has = (_said(shapes.get(path)) for shapes in (wanted, held))
            raise ValueError(f"the cache is another model's: {'.'.join(path)} is {has}, this model needs {needs}")
    for i, group in enumerate(spec.groups):
        for j, block in enumerate(group.blocks):
            held_reach, reach = tables[f"group_{i}"][f"block_{j}"]["attention"].reach, block.attention.mask.reach
            if held_reach != reach:
                names = ["all tokens" if back is None else f"a window of {back}" for back in (held_reach, reach)]
                raise ValueError(
                    f"the cache is another model's: group_{i}.block_{j} keeps {names[0]}, this model sees {names[1]}"
                )


def _sizes_said(sizes: Sizes) -> str:
    return ", ".join(f"{name} {list(of.values())}" for name, of in sizes.items()) or "nothing"


def _said(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"{shape[0]} layers of {list(shape[1:])}"


def _by_layer(patterns: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Arrays [n, …] of each block of a pattern, in the order of the layers that have them: [n * blocks, …]."""
    names = dict.fromkeys(name for pattern in patterns for name in pattern)
    stacked = {name: jnp.stack([pattern[name] for pattern in patterns if name in pattern], axis=1) for name in names}
    return {name: array.reshape(-1, *array.shape[2:]) for name, array in stacked.items()}


def _concatenate(groups: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """By name one array along the layers; zeros fill up a layer that says less than another, as one of few experts."""
    names = dict.fromkeys(name for group in groups for name in group)
    return {name: _beneath([group[name] for group in groups if name in group]) for name in names}


def _beneath(arrays: Sequence[Array]) -> Array:
    widest = [max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True)]
    fill = [[(0, 0), *((0, w - n) for w, n in zip(widest, array.shape[1:], strict=True))] for array in arrays]
    return jnp.concatenate([jnp.pad(array, more) for array, more in zip(arrays, fill, strict=True)])
