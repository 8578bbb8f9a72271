"""Going on from a prompt: `generate` goes on in one compiled loop, `stream` with the same steps one by one."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from fxformer.coords import Coords
from fxformer.decode.compiled import for_few_rows
from fxformer.decode.request import Ends, Given, Request, joined, request_of
from fxformer.decode.sampling import Sampling, check_said
from fxformer.decode.state import State, choose_next, read_prompt
from fxformer.decode.steps import step, unstacked, unstacked_spec
from fxformer.given import Tokens
from fxformer.jit import promoting
from fxformer.model import Params, Transformer


@promoting()
def generate(
    spec: Transformer,
    params: Params,
    prompt: Tokens,
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
    encoder_tokens: Tokens | None = None,
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
    Raises ValueError for an empty prompt, numbers out of range, more tokens than the model has positions for, and where
    no token can follow, as all logits are NaN or -inf; within `jit` such a token is -1.
    """
    sampling = Sampling(logit_bias, repetition_penalty, temperature, top_k, top_p, min_p)
    given = Given(prompt, coords, encoder_tokens, encoder_coords)
    ends = Ends(max_new_tokens, min_new_tokens, stop, pad)
    request = request_of(spec, given, ends, sampling=sampling, key=key, dtype=dtype, cache_dtype=cache_dtype)
    return joined(prompt, written(spec, params, request), ends)


def stream(
    spec: Transformer,
    params: Params,
    prompt: Tokens,
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
    encoder_tokens: Tokens | None = None,
    encoder_coords: Coords | None = None,
    dtype: DTypeLike = jnp.float32,
    cache_dtype: DTypeLike | None = None,
) -> Iterator[Array]:
    """The new tokens of `generate` with the same options, int32 [B] each as soon as they are known, until all stop."""
    sampling = Sampling(logit_bias, repetition_penalty, temperature, top_k, top_p, min_p)
    given = Given(prompt, coords, encoder_tokens, encoder_coords)
    ends = Ends(max_new_tokens, min_new_tokens, stop, pad)
    request = request_of(spec, given, ends, sampling=sampling, key=key, dtype=dtype, cache_dtype=cache_dtype)
    state = _start(spec, params, request)
    check_said(state.token)
    yield jnp.copy(state.token)  # the state itself is given away with the next step
    flat_spec, flat_params, state = _unstacked(spec, params, state)
    while not bool(jnp.all(state.stopped)):
        state, token_B = _proceed(flat_spec, flat_params, request, state)
        check_said(token_B)
        yield token_B


@promoting()
def start(spec: Transformer, params: Params, request: Request) -> State:
    """Read the prompt and choose the first new token."""
    state, logits_BV, _ = read_prompt(spec, params, request)
    return choose_next(request, state, logits_BV)


def proceed(spec: Transformer, params: Params, request: Request, state: State) -> tuple[State, Array]:
    """Read each row's newest token and choose the next: (the state, the tokens [B] to show, `pad` after a stop)."""
    logits_BV, cache = step(spec, params, state.token, state.cache, coords=state.coords, dtype=request.dtype)
    after = choose_next(request, replace(state, cache=cache), logits_BV)
    return after, jnp.where(state.stopped, request.pad, after.token)


def written(spec: Transformer, params: Params, request: Request) -> Array:
    """The new tokens, int32 [B, room], or [B, 1] where no more are asked for: no loop is compiled for that.

    Raises ValueError where the model says nothing; within `jit`, NOTHING stands there.
    """
    state = _start(spec, params, request)
    text_BN = state.token[:, None]
    if np.max(request.most) > 1:
        flat_spec, flat_params, state = _unstacked(spec, params, state)
        text_BN = _write(flat_spec, flat_params, request, state)[1]
    check_said(text_BN)
    return text_BN


def write(spec: Transformer, params: Params, request: Request, state: State) -> tuple[State, Array]:
    """Go on until every row has stopped: (the state, the new tokens [B, room]), of an `unstacked` model."""

    def going(carry: tuple[State, Array]) -> Array:
        return ~jnp.all(carry[0].stopped)

    def body(carry: tuple[State, Array]) -> tuple[State, Array]:
        state, text_BN = carry
        after, token_B = proceed(spec, params, request, state)
        return after, jax.lax.dynamic_update_index_in_dim(text_BN, token_B, state.made, axis=1)

    text_BN = jnp.full((len(state.token), request.room), request.pad).at[:, 0].set(state.token)
    return jax.lax.while_loop(going, body, (state, text_BN))


_start = jax.jit(start, static_argnames="spec")
_parts = jax.jit(lambda spec, params, cache: unstacked(spec, params, cache)[1:], static_argnums=0)
_write = for_few_rows(write, static_argnames=["spec"], donate_argnames=["state"])
_proceed = for_few_rows(proceed, static_argnames=["spec"], donate_argnames=["state"])


def _unstacked(spec: Transformer, params: Params, state: State) -> tuple[Transformer, Params, State]:
    params, cache = _parts(spec, params, state.cache)
    return unstacked_spec(spec), params, replace(state, cache=cache)
