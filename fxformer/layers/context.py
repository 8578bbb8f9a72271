"""What every block of a stack shares, and what a sublayer hands back beside its output."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from fxformer.axes import logical
from fxformer.cache import Records
from fxformer.coords import Coords
from fxformer.fields import Size, check_fields
from fxformer.layers.number import like
from fxformer.ops.bias import LogitBias
from fxformer.ops.statistic import Rows, Statistic
from fxformer.written import Brief


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How to compute, never what: no choice here changes parameters, cache or results.

    kernel: attention kernel, a name in KERNELS; None goes by platform, arrays and cache.
    unroll: blocks of a `Repeat` written out in each step of its loop.
    remat: compute the activations of a block again in the backward pass instead of keeping them.
    """

    kernel: str | None = None
    unroll: Size = 1
    remat: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    def kernel_for(self, table: Any) -> str | None:
        """The kernel for a layer that reads this cache table, or none; skipping its empty end pays on a CPU."""
        skips = table is not None and jax.default_backend() == "cpu"
        return "blockwise" if self.kernel is None and skips else self.kernel


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, repr=False)
class Memory(Brief):
    """What an encoder says about its tokens. hidden: [B, S, D]. coords: of those tokens."""

    hidden: Array
    coords: Coords


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Which block of its stack a block is, and what the first block hands to all.

    number: 0 for the first block; an int32 scalar in a loop. of: blocks in the stack. first: arrays [B, T, …] by name,
    see `records_of_first`; the first block itself finds zeros. By default the block stands alone.
    """

    number: Array | int = 0
    of: int = field(metadata={"static": True}, default=1)
    first: Records = field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The coordinates of the tokens, how to compute, the stack's shared logit bias, and what an encoder said.

    maps: whether attentions say which weight each query gives each key, see `maps_of`.
    memory_tokens: how many of the tokens, the first ones, are the stack's own.
    layer: where in the stack the block is that is given this; None where nothing in it asks, or outside of one.
    """

    coords: Coords
    execution: Execution = field(metadata={"static": True}, default=Execution())
    bias: LogitBias | None = None
    memory: Memory | None = None
    maps: bool = field(metadata={"static": True}, default=False)
    memory_tokens: int = field(metadata={"static": True}, default=0)
    layer: Layer | None = None

    @property
    def place(self) -> Layer:
        """Where the block is, alone if nowhere else."""
        return Layer() if self.layer is None else self.layer


class Side(NamedTuple):
    """Beside the output: the new cache table(s), unweighted losses and statistics by name; `first` as in `Layer`.

    Statistics of what stands in a block, and of a block, can be pooled; those of a stack are arrays [layers, …].
    """

    tables: Any = None
    losses: dict[str, Array] = {}  # noqa: RUF012 (a NamedTuple default is never mutated)
    stats: dict[str, Any] = {}  # noqa: RUF012
    first: Records = {}  # noqa: RUF012


def maps_of(context: Context, read: Callable[[Array], Array], v_BSGU: Array) -> dict[str, Statistic]:
    """The statistic "map", float32 [B, H, T, S], where the context asks for it: the weight of each key's value.

    read: values [B, S, G, U] -> what the queries of each head make of them [B, T, H, U]. Every attention is linear in
    its values, each channel for itself, so what it reads of values that are unit vectors, e_s at key s, is its weights:
    with the mask, the kernel and whatever else it has, of one softmax or of several.
    """
    if not context.maps:
        return {}
    batch, seen, kv_heads, _ = v_BSGU.shape
    unit_BSGS = jnp.broadcast_to(jnp.eye(seen, dtype=v_BSGU.dtype)[:, None], (batch, seen, kv_heads, seen))
    return {"map": Rows(jnp.moveaxis(read(unit_BSGS), 2, 1).astype(jnp.float32))}


def cut() -> PartitionSpec | None:
    """Which mesh axes cut queries [B, T, H] by the rules that are active."""
    return nn.logical_to_mesh_axes(logical("bth"))


def dropout(module: nn.Module, x: Array, rate: float) -> Array:
    """Zero a share `rate` of `x` and scale up the rest, exactly when a dropout key was passed to `apply`."""
    if rate == 0 or not module.has_rng("dropout"):
        return x
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, x.shape)
    return jnp.where(keep, x / like(1 - rate, x), 0)
