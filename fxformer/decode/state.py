"""Where each row of a text stands between two passes of the model, and how it gets its next token."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from fxformer.cache import Cache
from fxformer.coords import Coords, last, succeeding
from fxformer.decode.processors import choosable
from fxformer.decode.request import Request
from fxformer.decode.sampling import keys_at, pick
from fxformer.decode.steps import read
from fxformer.given import length_limit
from fxformer.model import Params, Transformer, empty_cache


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


def choose_next(request: Request, state: State, logits_BV: Array) -> State:
    """The state with one more token, which stands after the newest."""
    logits_BV = choosable(request, logits_BV, state.made, state.seen)
    token_B = pick(logits_BV, keys_at(request.keys, state.made))
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
