"""The model: three values (spec, params, cache) and three pure functions (`init`, `apply`, `empty_cache`)."""

from dataclasses import dataclass
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from fxformer.cache import Cache, advance
from fxformer.coords import Coords, check_rows, largest, plain
from fxformer.layers.context import Context, Execution
from fxformer.layers.embed import HEADS, Embed, EmbedModule, Free, Tied
from fxformer.stack import Stack, StackModule, empty_tables

Params = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """What a model is: embed the tokens, run the stack, read out logits."""

    embed: Embed
    stack: Stack
    head: Tied | Free


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a model says about T tokens in B rows.

    logits: float32 [B, T, V]. hidden: the stream before the head [B, T, D]. cache: the next cache, or None.
    losses: unweighted auxiliary losses by name. stats: numbers by name, each [layers].
    """

    logits: Array
    hidden: Array
    cache: Cache | None
    losses: dict[str, Array]
    stats: dict[str, Array]


class TransformerModule(nn.Module):
    """embed -> stack -> head."""

    spec: Transformer

    @nn.compact
    def __call__(self, tokens_BT: Array, context: Context, cache: Cache | None, dtype: jnp.dtype) -> Output:
        spec, coords = self.spec, context.coords
        x_BTD, table_VD = EmbedModule(spec.embed, name="embed")(tokens_BT, coords, dtype)
        tables = None if cache is None else cache.tables
        x_BTD, side = StackModule(spec.stack, name="stack")(x_BTD, context, tables)
        logits_BTV = HEADS[type(spec.head)](spec.head, name="head")(x_BTD, table_VD)
        return Output(
            logits=logits_BTV.astype(jnp.float32),
            hidden=x_BTD,
            cache=None if cache is None else advance(cache, side.tables, coords),
            losses=side.losses,
            stats=side.stats,
        )


def init(spec: Transformer, key: Array) -> Params:
    """Fresh float32 parameters, a nested dict of arrays; the key of each depends on its path only."""
    initialise = _init if _traced(key) else _compiled_init
    return initialise(spec, key)


def apply(
    spec: Transformer,
    params: Params,
    tokens: Array,
    *,
    coords: Coords | None = None,
    cache: Cache | None = None,
    key: Array | None = None,
    kernel: str | None = None,
    unroll: int = 1,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Output:
    """Run the model on integer tokens [B, T].

    coords: where the tokens stand; None continues after the cache, or starts at 0.
    cache: what was remembered; the next one is returned in `Output.cache`.
    key: dropout is active exactly when a key is given.
    kernel, unroll, remat: how to compute, see `Execution`; they change no result. dtype: of the activations.
    Raises ValueError where shapes, tokens, positions or capacity do not fit, as far as they are known outside `jit`.
    """
    batch, length = check_tokens(tokens, spec.embed.vocab)
    if batch * length == 0:
        raise ValueError(f"tokens are {tokens.dtype} {list(tokens.shape)}: none; give at least one")
    if cache is not None:
        check_cache_rows(cache, batch)
    if coords is None:
        coords = plain(length, start=0 if cache is None else cache.length_B)
    check_rows(coords, batch, length)
    check_positions(spec, coords)
    if cache is not None:
        check_capacity(cache, coords)
    context = Context(coords=coords, bias=None, execution=Execution(kernel=kernel, unroll=unroll, remat=remat))
    arguments = (params, tokens, context, cache, key)
    forward = _forward if _traced(arguments) else _compiled_forward
    return forward(spec, jnp.dtype(dtype), nn.get_logical_axis_rules(), *arguments)


def empty_cache(spec: Transformer, batch: int, length: int, *, dtype: DTypeLike = jnp.float32) -> Cache:
    """A cache with room for `length` tokens in each of `batch` rows; windows keep no more than they can see."""
    limit = position_limit(spec)
    if limit is not None and length > limit:
        raise ValueError(f"cache length={length} is beyond the {limit} learned positions; use {limit} or less")
    if batch < 1 or length < 1:
        raise ValueError(f"cache of batch={batch}, length={length} holds nothing; use 1 or more of each")
    tables = empty_tables(spec.stack, batch=batch, length=length, dtype=dtype)
    return Cache(tables, jnp.zeros(batch, jnp.int32))


def abstract_params(spec: Transformer) -> Params:
    """The parameter tree as shapes, with the logical axes of each leaf; takes no memory."""
    return jax.eval_shape(lambda key: _init_boxed(spec, key), jax.random.key(0))


def _forward(
    spec: Transformer,
    dtype: jnp.dtype,
    rules: Any,
    params: Params,
    tokens_BT: Array,
    context: Context,
    cache: Cache | None,
    key: Array | None,
) -> Output:
    rngs = {} if key is None else {"dropout": key}
    with nn.logical_axis_rules(rules):
        return cast(
            Output, TransformerModule(spec).apply({"params": params}, tokens_BT, context, cache, dtype, rngs=rngs)
        )


def _init(spec: Transformer, key: Array) -> Params:
    return nn.meta.unbox(_init_boxed(spec, key))


# Outside of `jit` these compile once for each spec and shape; inside, the caller's program is the one compiled.
_compiled_forward = jax.jit(_forward, static_argnums=(0, 1, 2))
_compiled_init = jax.jit(_init, static_argnums=0)


def _traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _init_boxed(spec: Transformer, key: Array) -> Params:
    context = Context(coords=plain(1), bias=None, execution=Execution())
    tokens_BT = jnp.zeros((1, 1), jnp.int32)
    return TransformerModule(spec).init(key, tokens_BT, context, None, jnp.dtype(jnp.float32))["params"]


def position_limit(spec: Transformer) -> int | None:
    """The number of learned positions, or None where any position can be encoded."""
    return None if spec.embed.position is None else spec.embed.position.limit


def check_tokens(tokens: Array, vocab: int) -> tuple[int, int]:
    """(B, T) of integer tokens; raises ValueError for another shape or dtype, or a token outside the vocabulary."""
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens are {tokens.dtype} {list(tokens.shape)}; give integers [batch, length]")
    if not isinstance(tokens, jax.core.Tracer) and tokens.size:
        low, high = int(np.asarray(tokens).min()), int(np.asarray(tokens).max())
        if low < 0 or high >= vocab:
            raise ValueError(f"token {low if low < 0 else high} is outside the vocabulary of {vocab}")
    batch, length = tokens.shape
    return batch, length


def check_positions(spec: Transformer, coords: Coords) -> None:
    """Raise ValueError where a position is beyond the model's learned table."""
    limit = position_limit(spec)
    if limit is None:
        return
    last = largest(coords.positions)
    needed = coords.length if last is None else last + 1
    if needed > limit:
        raise ValueError(f"sequence of {needed} tokens is longer than the {limit} learned positions")


def check_cache_rows(cache: Cache, batch: int) -> None:
    """Raise ValueError unless the cache has as many rows as the tokens."""
    rows = cache.length_B.shape[0]
    if rows != batch:
        raise ValueError(f"the cache has {rows} rows, tokens have {batch}; make an empty cache of batch={batch}")


def check_capacity(cache: Cache, coords: Coords) -> None:
    """Raise ValueError where the tokens do not fit what is left of the cache, if that is known."""
    last = largest(coords.index)
    capacity = cache.capacity
    if capacity is not None and last is not None and last >= capacity:
        raise ValueError(f"token {last} does not fit a cache of {capacity} tokens; make a longer cache")
