"""Decoding: pure loops over (params, cache); the caller may own the cache at every step."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from fxformer.cache import Cache
from fxformer.coords import Coords
from fxformer.model import Params, Transformer, apply, check_tokens, empty_cache
from fxformer.ops.sample import choose, keep_top_k, keep_top_p, temper


def prefill(
    spec: Transformer, params: Params, prompt_BT: Array, cache: Cache, *, coords: Coords | None = None
) -> tuple[Array, Cache]:
    """Read the prompt: (logits [B, V] of the token after the last one that is not padding, the cache)."""
    logits_BTV, cache = _remember(spec, params, prompt_BT, cache, coords)
    if coords is None:
        return logits_BTV[:, -1], cache
    last_B = jnp.broadcast_to(jnp.argmax(coords.index, axis=1), prompt_BT.shape[:1])
    return jnp.take_along_axis(logits_BTV, last_B[:, None, None], axis=1)[:, 0], cache


def step(spec: Transformer, params: Params, token_B: Array, cache: Cache) -> tuple[Array, Cache]:
    """Read one more token in each row: (logits [B, V] of the next one, the cache)."""
    logits_BTV, cache = _remember(spec, params, token_B[:, None], cache, None)
    return logits_BTV[:, 0], cache


def _remember(
    spec: Transformer, params: Params, tokens_BT: Array, cache: Cache, coords: Coords | None
) -> tuple[Array, Cache]:
    out = apply(spec, params, tokens_BT, cache=cache, coords=coords)
    assert out.cache is not None
    return out.logits, out.cache


def next_token(
    logits_BV: Array,
    key: Array | None,
    *,
    temperature: Array | float | None = None,
    top_k: Array | int | None = None,
    top_p: Array | float | None = None,
) -> Array:
    """int32 [B]: the most likely token where `key` is None, else a draw after temperature, top-k and top-p."""
    if key is None:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    if temperature is not None:
        logits_BV = temper(logits_BV, temperature)
    if top_k is not None:
        logits_BV = keep_top_k(logits_BV, top_k)
    if top_p is not None:
        logits_BV = keep_top_p(logits_BV, top_p)
    return choose(key, logits_BV)


def generate(
    spec: Transformer,
    params: Params,
    prompt: Array,
    max_new_tokens: int,
    *,
    key: Array | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    coords: Coords | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Array:
    """Continue `prompt` [B, T] by `max_new_tokens` tokens: int32 [B, T + max_new_tokens].

    key: None takes the most likely token each time, else tokens are drawn. temperature, top_k, top_p: None is off;
    they change a draw, so they need a key. coords: of prompts with padding. dtype: of the cache.
    Raises ValueError for an empty prompt, numbers out of range, or more tokens than the model has positions for.
    """
    prompt = jnp.asarray(prompt)
    length = check_tokens(prompt, spec.embed.vocab)[1]
    _check_request(length, max_new_tokens, key, {"temperature": temperature, "top_k": top_k, "top_p": top_p})
    new_BN = _generate(spec, params, prompt, coords, key, temperature, top_k, top_p, max_new_tokens, dtype)
    return jnp.concatenate([prompt.astype(jnp.int32), new_BN], axis=1)


@partial(jax.jit, static_argnames=("spec", "count", "dtype"))
def _generate(
    spec: Transformer,
    params: Params,
    prompt_BT: Array,
    coords: Coords | None,
    key: Array | None,
    temperature: Array | None,
    top_k: Array | None,
    top_p: Array | None,
    count: int,
    dtype: DTypeLike,
) -> Array:
    def draw(logits_BV: Array, i: Array | int) -> Array:
        step_key = None if key is None else jax.random.fold_in(key, i)
        return next_token(logits_BV, step_key, temperature=temperature, top_k=top_k, top_p=top_p)

    def body(carry: tuple[Array, Cache], i: Array) -> tuple[tuple[Array, Cache], Array]:
        token_B, cache = carry
        logits_BV, cache = step(spec, params, token_B, cache)
        token_B = draw(logits_BV, i)
        return (token_B, cache), token_B

    batch, length = prompt_BT.shape
    cache = empty_cache(spec, batch, length + count, dtype=dtype)
    logits_BV, cache = prefill(spec, params, prompt_BT, cache, coords=coords)
    first_B = draw(logits_BV, 0)
    _, rest_NB = jax.lax.scan(body, (first_B, cache), jnp.arange(1, count))
    return jnp.concatenate([first_B[:, None], rest_NB.T], axis=1)


def stream(
    spec: Transformer,
    params: Params,
    prompt: Array,
    max_new_tokens: int,
    *,
    key: Array | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Iterator[Array]:
    """The tokens of `generate`, int32 [B] each, as soon as they are known."""
    prompt = jnp.asarray(prompt)
    batch, length = check_tokens(prompt, spec.embed.vocab)
    _check_request(length, max_new_tokens, key, {"temperature": temperature, "top_k": top_k, "top_p": top_p})
    cache = empty_cache(spec, batch, length + max_new_tokens, dtype=dtype)
    logits_BV, cache = _jit_prefill(spec, params, prompt, cache)
    for i in range(max_new_tokens):
        step_key = None if key is None else jax.random.fold_in(key, i)
        token_B = next_token(logits_BV, step_key, temperature=temperature, top_k=top_k, top_p=top_p)
        yield token_B
        if i + 1 < max_new_tokens:
            logits_BV, cache = _jit_step(spec, params, token_B, cache)


_jit_prefill = jax.jit(prefill, static_argnames="spec", donate_argnames="cache")
_jit_step = jax.jit(step, static_argnames="spec", donate_argnames="cache")


def _check_request(length: int, max_new_tokens: int, key: Array | None, numbers: dict[str, float | None]) -> None:
    if length == 0:
        raise ValueError("the prompt is empty; give at least one token")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} asks for nothing; use 1 or more")
    given = [name for name, value in numbers.items() if value is not None]
    if key is None and given:
        raise ValueError(f"give a key with {' and '.join(given)}; without one the most likely token is taken")
    temperature, top_k, top_p = numbers["temperature"], numbers["top_k"], numbers["top_p"]
    if temperature is not None and temperature < 0:
        raise ValueError(f"temperature={temperature} is below 0; use 0 for the most likely token, or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} leaves no token; use 1 or more")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} is outside (0, 1]")
