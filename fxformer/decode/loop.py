"""Going on from a prompt: `generate` goes on in one compiled loop, `stream` with the same steps one by one."""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from fxformer.cache import Cache
from fxformer.coords import PADDING, Coords, check_rows, last, padded_to, plain, succeeding
from fxformer.decode.compiled import for_few_rows
from fxformer.decode.sampling import Sampling, check_sampling, keys_at, next_token, row_keys
from fxformer.decode.steps import check_decodable, read, step, unstacked, unstacked_spec
from fxformer.model import (
    Params,
    Transformer,
    check_cacheable,
    check_positions,
    check_tokens,
    empty_cache,
    length_limit,
    position_limit,
    traced,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to go on from and how. What is compiled for one serves all requests of the same shapes.

    prompt [B, T] at coords, padded to a size that many prompts share. encoder_tokens, encoder_coords: see `apply`.
    keys: [B], None for the most likely tokens. stop: tokens [n] that end a row. pad: what stands behind an end.
    least, most: int [B], new tokens of a row; count: the most of all rows. length, encoder_length: room in the cache.
    spare: see `empty_cache`.
    """

    prompt: Array
    coords: Coords
    encoder_tokens: Array | None
    encoder_coords: Coords | None
    sampling: Sampling
    keys: Array | None
    stop: Array
    pad: Array
    least: Array
    most: Array
    count: int = field(metadata={"static": True})
    length: int = field(metadata={"static": True})
    encoder_length: int = field(metadata={"static": True})
    dtype: DTypeLike = field(metadata={"static": True})
    cache_dtype: DTypeLike = field(metadata={"static": True})
    spare: int = field(metadata={"static": True}, default=0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where each row stands: its newest token [B], which the cache has not seen, and that token's coordinates.

    made: new tokens so far. seen: bool [B, V], or None where nothing asks for it. stopped: bool [B].
    """

    token: Array
    coords: Coords
    cache: Cache
    made: Array
    seen: Array | None
    stopped: Array


def generate(
    spec: Transformer,
    params: Params,
    prompt: ArrayLike,
    max_new_tokens: ArrayLike,
    *,
    key: Array | None = None,
    temperature: ArrayLike | None = None,
    top_k: ArrayLike | None = None,
    top_p: ArrayLike | None = None,
    min_p: ArrayLike | None = None,
    repetition_penalty: ArrayLike | None = None,
    logit_bias: ArrayLike | None = None,
    stop: int | Sequence[int] = (),
    min_new_tokens: ArrayLike = 0,
    pad: int | None = None,
    coords: Coords | None = None,
    encoder_tokens: Array | None = None,
    encoder_coords: Coords | None = None,
    dtype: DTypeLike = jnp.float32,
    cache_dtype: DTypeLike | None = None,
) -> Array:
    """Continue `prompt` [B, T] by at most `max_new_tokens` tokens: int32 [B, T + the most of all rows].

    key: None takes the most likely token each time, else tokens are drawn; one key, or one for each row. A row's text
    depends on its own key and prompt, not on its neighbours.
    temperature, top_k, top_p, min_p, repetition_penalty, logit_bias: see `Sampling`; numbers, or [B].
    stop: tokens that end a row, behind which `pad` stands (None: the first of `stop`); not before `min_new_tokens`.
    max_new_tokens, min_new_tokens: numbers, or [B].
    coords: of prompts with padding on either side (`coords.padded`), with a prefix, or in a blank: new tokens go on
    from the last one of each row. Where tokens have several streams of positions, the last stream counts on.
    encoder_tokens, encoder_coords: what an encoder reads; the prompt is then how the decoder starts.
    dtype: of the activations. cache_dtype: of the cache, int8 too; None is `dtype`.
    Raises ValueError for an empty prompt, numbers out of range, or more tokens than the model has positions for.
    """
    sampling = Sampling(
        logit_bias=logit_bias,
        repetition_penalty=repetition_penalty,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
    )
    request = request_of(
        spec,
        prompt,
        max_new_tokens,
        sampling=sampling,
        key=key,
        stop=stop,
        min_new_tokens=min_new_tokens,
        pad=pad,
        coords=coords,
        encoder_tokens=encoder_tokens,
        encoder_coords=encoder_coords,
        dtype=dtype,
        cache_dtype=cache_dtype,
    )
    return jnp.concatenate([jnp.asarray(prompt, jnp.int32), written(spec, params, request)], axis=1)


def stream(
    spec: Transformer,
    params: Params,
    prompt: ArrayLike,
    max_new_tokens: ArrayLike,
    *,
    key: Array | None = None,
    temperature: ArrayLike | None = None,
    top_k: ArrayLike | None = None,
    top_p: ArrayLike | None = None,
    min_p: ArrayLike | None = None,
    repetition_penalty: ArrayLike | None = None,
    logit_bias: ArrayLike | None = None,
    stop: int | Sequence[int] = (),
    min_new_tokens: ArrayLike = 0,
    pad: int | None = None,
    coords: Coords | None = None,
    encoder_tokens: Array | None = None,
    encoder_coords: Coords | None = None,
    dtype: DTypeLike = jnp.float32,
    cache_dtype: DTypeLike | None = None,
) -> Iterator[Array]:
    """The new tokens of `generate` with the same options, int32 [B] each as soon as they are known, until all stop."""
    sampling = Sampling(
        logit_bias=logit_bias,
        repetition_penalty=repetition_penalty,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
    )
    request = request_of(
        spec,
        prompt,
        max_new_tokens,
        sampling=sampling,
        key=key,
        stop=stop,
        min_new_tokens=min_new_tokens,
        pad=pad,
        coords=coords,
        encoder_tokens=encoder_tokens,
        encoder_coords=encoder_coords,
        dtype=dtype,
        cache_dtype=cache_dtype,
    )
    state = _start(spec, params, request)
    yield jnp.copy(state.token)  # the state itself is given away with the next step
    flat_spec, flat_params, state = _unstacked(spec, params, state)
    while not bool(jnp.all(state.stopped)):
        state, token_B = _proceed(flat_spec, flat_params, request, state)
        yield token_B


def request_of(
    spec: Transformer,
    prompt: ArrayLike,
    max_new_tokens: ArrayLike,
    *,
    sampling: Sampling = Sampling(),
    key: Array | None = None,
    stop: int | Sequence[int] = (),
    min_new_tokens: ArrayLike = 0,
    pad: int | None = None,
    coords: Coords | None = None,
    encoder_tokens: Array | None = None,
    encoder_coords: Coords | None = None,
    dtype: DTypeLike = jnp.float32,
    cache_dtype: DTypeLike | None = None,
    spare: int = 0,
    draft: Transformer | None = None,
) -> Request:
    """The request that `generate` describes, checked.

    spare: tokens that may be written and taken back. draft: another model that reads the prompt.
    """
    prompt = jnp.asarray(prompt)
    batch, length = check_tokens(prompt, spec.embed.vocab)
    if batch * length == 0:
        raise ValueError("the prompt is empty; give at least one token")
    check_sampling(sampling, batch, spec.embed.vocab, key)
    check_source(spec, encoder_tokens)
    stops = _stops(stop, pad, spec.embed.vocab)
    least_B = _counts("min_new_tokens", min_new_tokens, batch, 0)
    most_B = _counts("max_new_tokens", max_new_tokens, batch, 1)
    if (least_B > most_B).any():
        row = int((least_B > most_B).argmax())
        raise ValueError(f"min_new_tokens={least_B[row]} is more than max_new_tokens={most_B[row]}; use fewer")
    coords = plain(length) if coords is None else coords
    check_rows(coords, batch, length)
    readers = [spec] if draft is None else [spec, draft]
    for reader in readers:
        check_room(reader, coords, int(most_B.max()))
    coords = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *leaf.shape[1:])), coords)
    limits = [limit for limit in map(length_limit, readers) if limit is not None]
    bucket = bucket_of(length, min(limits, default=None))
    return Request(
        prompt=jnp.pad(prompt.astype(jnp.int32), ((0, 0), (0, bucket - length))),
        coords=padded_to(coords, bucket),
        encoder_tokens=encoder_tokens,
        encoder_coords=encoder_coords,
        sampling=sampling,
        keys=row_keys(key, batch),
        stop=jnp.asarray(stops, jnp.int32),
        pad=jnp.int32(pad if pad is not None else (stops[0] if stops else 0)),
        least=jnp.asarray(least_B),
        most=jnp.asarray(most_B),
        count=int(most_B.max()),
        length=bucket + int(most_B.max()) + spare,
        encoder_length=1 if encoder_tokens is None else encoder_tokens.shape[1],
        dtype=jnp.dtype(dtype),
        cache_dtype=jnp.dtype(dtype if cache_dtype is None else cache_dtype),
        spare=spare,
    )


SMALLEST = 16  # tokens of the smallest bucket


def bucket_of(length: int, limit: int | None = None) -> int:
    """The size that prompts of `length` tokens are padded to, so that what is compiled serves many lengths.

    A power of two, or the number of learned positions where that is less.
    """
    bucket = max(SMALLEST, 1 << (length - 1).bit_length())
    return bucket if limit is None else max(length, min(bucket, limit))


def start(spec: Transformer, params: Params, request: Request) -> State:
    """Read the prompt and choose the first new token."""
    state, logits_BV, _ = read_prompt(spec, params, request)
    return choose_next(request, state, logits_BV)


def read_prompt(spec: Transformer, params: Params, request: Request) -> tuple[State, Array, Array]:
    """The state at the last token of the prompt, logits [B, V] of the first new one, and hidden states [B, T, D]."""
    batch, limit = request.prompt.shape[0], length_limit(spec)
    cache = empty_cache(
        spec,
        batch,
        request.length if limit is None else min(request.length, limit),
        encoder_length=request.encoder_length,
        spare=request.spare,
        dtype=request.cache_dtype,
    )
    source = (request.encoder_tokens, request.encoder_coords)
    logits_BV, out = read(spec, params, request.prompt, cache, request.coords, *source, jnp.dtype(request.dtype))
    assert out.cache is not None
    seen_BV = None
    if request.sampling.remembers:
        seen_BV = jnp.zeros(logits_BV.shape, bool)
        seen_BV = seen_BV.at[jnp.arange(batch)[:, None], request.prompt].max(request.coords.index >= 0)
    state = State(
        token=request.prompt[:, 0],
        coords=last(request.coords),
        cache=out.cache,
        made=jnp.int32(0),
        seen=seen_BV,
        stopped=jnp.zeros(batch, bool),
    )
    return state, logits_BV, out.hidden


def proceed(spec: Transformer, params: Params, request: Request, state: State) -> tuple[State, Array]:
    """Read each row's newest token and choose the next: (the state, the tokens [B] to show, `pad` after a stop)."""
    logits_BV, cache = step(spec, params, state.token, state.cache, coords=state.coords, dtype=request.dtype)
    after = choose_next(request, replace(state, cache=cache), logits_BV)
    return after, jnp.where(state.stopped, request.pad, after.token)


def choose_next(request: Request, state: State, logits_BV: Array) -> State:
    """The state with one more token, which stands after the newest."""
    logits_BV = forbid(request, logits_BV, state.made)
    token_B = next_token(logits_BV, keys_at(request.keys, state.made), request.sampling, seen_BV=state.seen)
    ends_B = jnp.any(token_B[:, None] == request.stop, axis=-1) | (state.made + 1 >= request.most)
    seen_BV = state.seen
    if seen_BV is not None:
        seen_BV = seen_BV.at[jnp.arange(len(token_B)), token_B].set(True)
    return State(
        token=token_B,
        coords=succeeding(state.coords),
        cache=state.cache,
        made=state.made + 1,
        seen=seen_BV,
        stopped=state.stopped | ends_B,
    )


def forbid(request: Request, logits_BV: Array, made: Array) -> Array:
    """-inf for the stop tokens of rows that have fewer new tokens than they must."""
    early_B1 = jnp.broadcast_to(made < request.least, logits_BV.shape[:1])[:, None]
    return logits_BV.at[:, request.stop].add(jnp.where(early_B1, -jnp.inf, 0))


def written(spec: Transformer, params: Params, request: Request) -> Array:
    """The new tokens, int32 [B, count]."""
    state = _start(spec, params, request)
    if request.count == 1:
        return state.token[:, None]
    flat_spec, flat_params, state = _unstacked(spec, params, state)
    return _write(flat_spec, flat_params, request, state)[1]


def write(spec: Transformer, params: Params, request: Request, state: State) -> tuple[State, Array]:
    """Go on until every row has stopped: (the state, the new tokens [B, count]), of an `unstacked` model."""

    def going(carry: tuple[State, Array]) -> Array:
        return ~jnp.all(carry[0].stopped)

    def body(carry: tuple[State, Array]) -> tuple[State, Array]:
        state, text_BN = carry
        after, token_B = proceed(spec, params, request, state)
        return after, jax.lax.dynamic_update_index_in_dim(text_BN, token_B, state.made, axis=1)

    text_BN = jnp.full((len(state.token), request.count), request.pad).at[:, 0].set(state.token)
    return jax.lax.while_loop(going, body, (state, text_BN))


_start = jax.jit(start, static_argnames="spec")
_parts = jax.jit(lambda spec, params, cache: unstacked(spec, params, cache)[1:], static_argnums=0)
_write = for_few_rows(write, static_argnames=["spec"], donate_argnames=["state"])
_proceed = for_few_rows(proceed, static_argnames=["spec"], donate_argnames=["state"])


def _unstacked(spec: Transformer, params: Params, state: State) -> tuple[Transformer, Params, State]:
    params, cache = _parts(spec, params, state.cache)
    return unstacked_spec(spec), params, replace(state, cache=cache)


def check_source(spec: Transformer, encoder_tokens: Array | None) -> None:
    """Raise ValueError for a model that cannot be decoded, or whose encoder has nothing or too much to read."""
    if encoder_tokens is None:
        check_decodable(spec)
    check_cacheable(spec)
    if encoder_tokens is not None and spec.encoder is None:
        raise ValueError("encoder_tokens are given and the model has no encoder; leave them out")


def _stops(stop: int | Sequence[int], pad: int | None, vocab: int) -> tuple[int, ...]:
    several: Any = stop if np.ndim(stop) > 0 else [stop]
    stops = tuple(_token("stop", token, vocab) for token in several)
    if pad is not None:
        _token("pad", pad, vocab)
    return stops


def _token(name: str, token: Any, vocab: int) -> int:
    """Any integer of the vocabulary, as a Python number."""
    try:
        number = None if isinstance(token, bool) else operator.index(token)
    except TypeError:
        number = None
    if number is None:
        raise ValueError(f"{name}={token!r} is no token; give integers")
    if not 0 <= number < vocab:
        raise ValueError(f"{name} token {number} is outside the vocabulary of {vocab}")
    return number


def _counts(name: str, count: ArrayLike, batch: int, least: int) -> np.ndarray:
    """int32 [B]."""
    counts = np.asarray(count)
    if counts.shape not in ((), (batch,)) or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"{name} is {counts.dtype} {list(counts.shape)}; give an integer, or [{batch}] of them")
    if counts.min() < least:
        raise ValueError(f"{name}={counts.min()} is out of range; use {least} or more")
    return np.broadcast_to(counts, (batch,)).astype(np.int32)


def check_room(spec: Transformer, coords: Coords, count: int) -> None:
    """Raise ValueError where a row has no token, or the model too few positions; the last new token is not read."""
    if traced(coords):
        return
    last_B = np.asarray(coords.index).max(axis=1)
    if last_B.min() == PADDING:
        raise ValueError(f"prompt {int(last_B.argmin())} is empty, all of it is padding; give at least one token")
    check_positions(spec, coords)
    limit, newest = position_limit(spec), last(coords).pos
    assert newest is not None, "a prompt has positions"
    before = int(np.asarray(newest if newest.ndim == 2 else newest[..., -1]).max()) + 1
    if limit is not None and before + count - 1 > limit:
        raise ValueError(f"{before} tokens and {count} new ones are more than the {limit} learned positions")
