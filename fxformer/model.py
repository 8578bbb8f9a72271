"""The model: three values (spec, params, cache) and three pure functions (`init`, `apply`, `empty_cache`)."""

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from fxformer.cache import Cache, advance
from fxformer.coords import Coords, check_rows, plain, succeeding
from fxformer.fields import Count, Size, checked
from fxformer.given import (
    Tokens,
    as_tokens,
    check_arrays,
    check_cache_rows,
    check_cacheable,
    check_capacity,
    check_end,
    check_key,
    check_memory,
    check_params,
    check_positions,
    check_types,
    dtype_of,
    floating,
    length_limit,
)
from fxformer.jit import promoting, traced
from fxformer.layers.context import Context, Execution, Memory
from fxformer.layers.embed import EmbedModule
from fxformer.layers.head import HEADS, PoolerModule
from fxformer.lookup import renamed
from fxformer.mtp import MTPModule
from fxformer.stack import Once, Stack, StackModule, check_tables, empty_tables
from fxformer.transformer import Params, Reading, Transformer
from fxformer.written import Brief


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Output(Brief):
    """What a model says about T tokens in B rows.

    logits: float32 [B, T, V]. hidden: the stream before the head [B, T, D]. cache: the next cache, or None.
    losses: unweighted auxiliary losses by name. stats: arrays by name, each [layers, …]; of an encoder "encoder_…".
    memory: what the encoder said, or None. pooled: [B, D], labels: float32 [B, labels], of a model with a pooler.
    mtp: float32 [B, T - 1, V], logits of the token after the next one, of a model with multi-token prediction.
    """

    logits: Array
    hidden: Array
    cache: Cache | None
    losses: dict[str, Array]
    stats: dict[str, Array]
    memory: Memory | None = None
    pooled: Array | None = None
    labels: Array | None = None
    mtp: Array | None = None

    @property
    def ahead(self) -> Array | None:
        """The old name of `mtp`."""
        renamed({"ahead": "mtp"}, "ahead", "field")
        return self.mtp


class TransformerModule(nn.Module):
    """embed -> stack -> head, and where the spec has them encoder, pooler and multi-token prediction."""

    spec: Transformer

    @nn.compact
    def __call__(
        self, tokens_BT: Array, context: Context, reading: Reading | None, cache: Cache | None, dtype: jnp.dtype
    ) -> Output:
        spec, coords = self.spec, context.coords
        embed = EmbedModule(spec.embed, name="embed")
        head = HEADS[type(spec.head)](spec.head, name="head")
        losses, stats = {}, {}
        if reading is not None:
            assert spec.encoder is not None
            read_BSD, _ = embed(reading.tokens, reading.coords, dtype)
            encoder_context = replace(context, coords=reading.coords, memory=None)
            hidden_BSD, side = StackModule(spec.encoder, name="encoder")(read_BSD, encoder_context, None)
            context = replace(context, memory=Memory(hidden_BSD, reading.coords))
            losses = {f"encoder_{name}": loss for name, loss in side.losses.items()}
            stats = {f"encoder_{name}": value for name, value in side.stats.items()}
        embedded_BTD, table_VD = embed(tokens_BT, coords, dtype)
        tables = None if cache is None else cache.tables
        x_BTD, side = StackModule(spec.stack, name="stack")(embedded_BTD, context, tables)
        pooled, labels, mtp = None, None, None
        if spec.pooler is not None:
            pooled, labels = PoolerModule(spec.pooler, name="pooler")(x_BTD, coords)
        if spec.mtp is not None and coords.length > 1 and cache is None:
            before = replace(context, coords=coords.slice(0, coords.length - 1))
            further_BTD, _ = MTPModule(spec.mtp, name="mtp")(x_BTD[:, :-1], embedded_BTD[:, 1:], before, None)
            mtp = head(further_BTD, table_VD).astype(jnp.float32)
        return Output(
            logits=head(x_BTD, table_VD).astype(jnp.float32),
            hidden=x_BTD,
            cache=None if cache is None else advance(cache, side.tables, coords),
            losses={**losses, **side.losses},
            stats={**stats, **side.stats},
            memory=context.memory,
            pooled=pooled,
            labels=labels,
            mtp=mtp,
        )


@checked
def init(spec: Transformer, key: Array) -> Params:
    """Fresh float32 parameters, a nested dict of arrays; the key of each depends on its path only.

    Raises ValueError for what is no key.
    """
    check_key(key)
    initialise = _init if traced(key) else _compiled_init
    return initialise(spec, key)


@checked
def apply(
    spec: Transformer,
    params: Params,
    tokens: Tokens,
    *,
    coords: Coords | None = None,
    cache: Cache | None = None,
    encoder_tokens: Tokens | None = None,
    encoder_coords: Coords | None = None,
    memory: Memory | None = None,
    key: Array | None = None,
    kernel: str | None = None,
    unroll: Size = 1,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Output:
    """Run the model on integer tokens [B, T].

    coords: where the tokens stand; None continues after the cache, or starts at 0.
    cache: what was remembered; the next one is returned in `Output.cache`.
    encoder_tokens, encoder_coords: what the encoder reads, [B, S]; memory: an `Output.memory` instead of it. A cache
    that was given either keeps it.
    key: dropout is active exactly when a key is given.
    kernel, unroll, remat: how to compute, see `Execution`; they change no result. dtype: of the activations.
    Raises ValueError where shapes, tokens, positions or capacity do not fit, as far as they are known outside `jit`.
    """
    check_arrays(params)
    if key is not None:
        check_key(key)
    execution = Execution(kernel=kernel, unroll=unroll, remat=remat)
    read = inputs_of(spec, tokens, coords, cache, encoder_tokens, encoder_coords, memory, execution)
    return _run(spec, floating(dtype), params, *read, cache, key)


@checked
def attention_maps(
    spec: Transformer,
    params: Params,
    tokens: Tokens,
    *,
    coords: Coords | None = None,
    encoder_tokens: Tokens | None = None,
    encoder_coords: Coords | None = None,
    kernel: str | None = None,
) -> dict[str, Array]:
    """Which weight each token gives each other, float32 [layers, B, H, T, S] for each kind of attention of the model.

    "attention" is of the stack, "cross" of its looks at an encoder, "encoder_attention" of that encoder. They are the
    weights that the layers compute with: what a token may not see has exactly 0, rows sum to 1, or to what sinks leave,
    and are 0 at padding. Layers of fewer heads are filled up with heads of 0. Memory tokens stand first on both axes.
    Arguments: see `apply`.
    """
    check_arrays(params)
    execution = Execution(kernel=kernel)
    tokens_BT, context, reading = inputs_of(spec, tokens, coords, None, encoder_tokens, encoder_coords, None, execution)
    context = replace(context, maps=True)
    stats = _run(spec, jnp.dtype(jnp.float32), params, tokens_BT, context, reading, None, None).stats
    return {name.removesuffix("_map"): map for name, map in stats.items() if name.endswith("_map")}


@promoting()
def read_out(spec: Transformer, params: Params, hidden_BTD: Array) -> Array:
    """What the head says about `Output.hidden`: logits, float32 [B, T, V]."""
    head = HEADS[type(spec.head)](spec.head)
    logits_BTV = head.apply({"params": params.get("head", {})}, hidden_BTD, params["embed"]["table"])
    return cast(Array, logits_BTV).astype(jnp.float32)


@promoting()
def apply_mtp(
    spec: Transformer, params: Params, hidden_BTD: Array, next_BT: Array, cache: Cache, *, coords: Coords
) -> tuple[Array, Cache]:
    """What multi-token prediction says to T tokens at `coords`: (logits [B, T, V] of the tokens after the next, cache).

    hidden: `Output.hidden` of the tokens. next: the token after each. cache: see `empty_mtp_cache`.
    """
    assert spec.mtp is not None
    embed, mtp = EmbedModule(spec.embed), MTPModule(spec.mtp)
    embedded, _ = embed.apply({"params": params["embed"]}, next_BT, succeeding(coords), hidden_BTD.dtype)
    x_BTD, tables = mtp.apply(
        {"params": params["mtp"]}, hidden_BTD, embedded, Context(coords=coords), cache.tables["group_0"]["block_0"]
    )
    return read_out(spec, params, x_BTD), advance(cache, {"group_0": {"block_0": tables}}, coords)


def empty_mtp_cache(
    spec: Transformer, batch: int, length: int, *, spare: int = 0, dtype: DTypeLike = jnp.float32
) -> Cache:
    """What `apply_mtp` remembers: like `empty_cache`, of its one block. Raises ValueError where there is none."""
    if spec.mtp is None:
        raise ValueError("the model has no multi-token prediction (MTP) to guess with; give a draft model")
    block = Stack(groups=(Once((spec.mtp.block,)),), norm=spec.mtp.norm)
    tables = empty_tables(block, batch=batch, length=length, encoder_length=1, spare=spare, dtype=dtype)
    return Cache(tables, jnp.zeros(batch, jnp.int32))


def inputs_of(
    spec: Transformer,
    tokens: Tokens,
    coords: Coords | None,
    cache: Cache | None,
    encoder_tokens: Tokens | None,
    encoder_coords: Coords | None,
    memory: Memory | None,
    execution: Execution,
) -> tuple[Array, Context, Reading | None]:
    """What a `TransformerModule` reads, checked: tokens [B, T], their context, and what an encoder reads."""
    tokens_BT = as_tokens(tokens, spec.embed.vocab)
    batch, length = tokens_BT.shape
    if batch * length == 0:
        raise ValueError(f"tokens are {tokens_BT.dtype} {list(tokens_BT.shape)}: none; give at least one")
    if cache is not None:
        check_tables(spec.stack, cache.tables)
        check_cache_rows(cache, batch)
    if coords is None:
        start = 0 if cache is None else cache.length_B
        check_end(spec, cache, length, start)
        coords = plain(length, start=start)
    else:
        check_rows(coords, batch, length)
        check_positions(spec, coords)
        check_types(spec, coords)
        check_capacity(cache, coords)
    reading = _reading(spec, batch, encoder_tokens, encoder_coords)
    check_memory(spec, reading, memory, cache)
    return tokens_BT, Context(coords=coords, execution=execution, memory=memory), reading


def _run(spec: Transformer, dtype: np.dtype, *arguments: Any) -> Output:
    """`_forward`, compiled unless a caller's own program is being traced."""
    forward = _explained_forward if traced(arguments) else _compiled_forward
    return forward(spec, dtype, nn.get_logical_axis_rules(), *arguments)


def _reading(
    spec: Transformer, batch: int, encoder_tokens: Tokens | None, encoder_coords: Coords | None
) -> Reading | None:
    if encoder_tokens is None:
        if encoder_coords is not None:
            raise ValueError("encoder_coords say where encoder_tokens stand, and those are None; give both")
        return None
    tokens_BS = as_tokens(encoder_tokens, spec.embed.vocab)
    rows, length = tokens_BS.shape
    if rows != batch:
        raise ValueError(f"encoder_tokens have {rows} rows, tokens have {batch}; give as many")
    if encoder_coords is None:
        check_end(spec, None, length, 0)
        return Reading(tokens=tokens_BS, coords=plain(length))
    check_rows(encoder_coords, batch, length)
    check_positions(spec, encoder_coords)
    check_types(spec, encoder_coords)
    return Reading(tokens=tokens_BS, coords=encoder_coords)


@checked
def empty_cache(
    spec: Transformer,
    batch: Size,
    length: Size,
    *,
    encoder_length: Size | None = None,
    spare: Count = 0,
    dtype: DTypeLike = jnp.float32,
) -> Cache:
    """A cache with room for `length` tokens in each of `batch` rows; windows keep no more than they can see.

    encoder_length: room for tokens of an encoder; None is `length`. spare: more slots for windows, so that the last
    `spare + 1` tokens can be taken back. dtype: of the records; int8 keeps a float32 scale beside each vector.
    Raises ValueError for a model whose tokens depend on later ones, and for sizes or a dtype that hold nothing.
    """
    check_cacheable(spec)
    limit = length_limit(spec)
    if limit is not None and length > limit:
        raise ValueError(f"cache length={length} is beyond the {limit} learned positions; use {limit} or less")
    kept_as = dtype_of(dtype)
    if not jnp.issubdtype(kept_as, jnp.floating) and kept_as != jnp.int8:
        raise ValueError(f"dtype={kept_as} holds no keys and values; use a floating type, or int8")
    encoder_length = length if encoder_length is None else encoder_length
    tables = empty_tables(
        spec.stack, batch=batch, length=length, encoder_length=encoder_length, spare=spare, dtype=kept_as
    )
    return Cache(tables, jnp.zeros(batch, jnp.int32))


def abstract_params(spec: Transformer) -> Params:
    """The parameter tree as shapes, with the logical axes of each leaf; takes no memory."""
    return jax.tree.map(lambda box: box, _abstract_params(spec))  # the caller's own tree


@lru_cache(maxsize=256)
def _abstract_params(spec: Transformer) -> Params:
    return jax.eval_shape(lambda key: _init_boxed(spec, key), jax.random.key(0))


@promoting()
def _forward(
    spec: Transformer,
    dtype: jnp.dtype,
    rules: Any,
    params: Params,
    tokens_BT: Array,
    context: Context,
    reading: Reading | None,
    cache: Cache | None,
    key: Array | None,
) -> Output:
    rngs = {} if key is None else {"dropout": key}
    module = TransformerModule(spec)
    with nn.logical_axis_rules(rules):
        return cast(Output, module.apply({"params": params}, tokens_BT, context, reading, cache, dtype, rngs=rngs))


def _init(spec: Transformer, key: Array) -> Params:
    return nn.meta.unbox(_init_boxed(spec, key))


def _explained_forward(spec: Transformer, dtype: jnp.dtype, rules: Any, params: Params, *rest: Any) -> Output:
    """`_forward`, and where that fails the parameter that is not the model's, if there is one."""
    try:
        return _forward(spec, dtype, rules, params, *rest)
    except Exception as failure:
        check_params(params, jax.eval_shape(partial(_init, spec), jax.random.key(0)), failure)
        raise


def _checked_forward(spec: Transformer, dtype: jnp.dtype, rules: Any, params: Params, *rest: Any) -> Output:
    """`_forward` of parameters that are the model's and no others: that is looked at once, when it is compiled."""
    check_params(params, nn.meta.unbox(_abstract_params(spec)))
    return _forward(spec, dtype, rules, params, *rest)


# Outside of `jit` these compile once for each spec and shape; inside, the caller's program is the one compiled.
_compiled_forward = jax.jit(_checked_forward, static_argnums=(0, 1, 2))
_compiled_init = jax.jit(_init, static_argnums=0)


@promoting()
def _init_boxed(spec: Transformer, key: Array) -> Params:
    tokens_BT, coords = jnp.zeros((1, 2), jnp.int32), plain(2)
    reading = None if spec.encoder is None else Reading(tokens=tokens_BT, coords=coords)
    context = Context(coords=coords)
    return TransformerModule(spec).init(key, tokens_BT, context, reading, None, jnp.dtype(jnp.float32))["params"]
