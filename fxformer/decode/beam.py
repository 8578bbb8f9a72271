"""Beam search: the likeliest whole continuations among those whose beginnings stay among the best."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from fxformer.cache import Cache, fork
from fxformer.coords import Coords, succeeding
from fxformer.decode.compiled import for_few_rows
from fxformer.decode.processors import searchable
from fxformer.decode.request import Ends, Given, Request, joined, request_of
from fxformer.decode.sampling import NOTHING, check_said
from fxformer.decode.state import read_prompt
from fxformer.decode.steps import step, unstacked
from fxformer.given import Tokens
from fxformer.jit import numpy_of, promoting
from fxformer.model import Params, Transformer


class Beams(NamedTuple):
    """text: int32 [B, K, T + N], best first. scores: float32 [B, K], log probability / length ** length_penalty."""

    text: Array
    scores: Array


class Search(NamedTuple):
    """Hypotheses after `made` tokens: those that go on, with the cache that has read them, and those that ended.

    text: int32 [B, K, N]. logp: float32 [B, K], -inf where there is no hypothesis. logits: [B K, V], what comes next.
    """

    made: Array
    text: Array
    logp: Array
    logits: Array
    coords: Coords
    cache: Cache
    ended: Array
    scores: Array


@promoting()
def beam(
    spec: Transformer,
    params: Params,
    prompt: Tokens,
    max_new_tokens: int,
    *,
    beams: int = 4,
    length_penalty: float = 1.0,
    stop: int | Sequence[int] = (),
    min_new_tokens: int = 0,
    pad: int | None = None,
    coords: Coords | None = None,
    encoder_tokens: Tokens | None = None,
    encoder_coords: Coords | None = None,
    dtype: DTypeLike = jnp.float32,
    cache_dtype: DTypeLike | None = None,
) -> Beams:
    """The `beams` best continuations of each row of `prompt` [B, T] that the search finds.

    A hypothesis ends with a token of `stop`, which counts to its length, where that is among the `beams` best ways to
    go on, or after `max_new_tokens`. length_penalty: the
    power of the length that log probabilities are divided by; 0 prefers short texts, more long ones (Wu et al. 2016).
    The search of a row ends when none that goes on can still beat the worst that ended. Other options: see `generate`.
    Raises ValueError as `generate` does, and for beams < 1.
    """
    if not isinstance(beams, int | np.integer) or beams < 1:
        raise ValueError(f"beams={beams} keeps no hypothesis; use 1 or more")
    if np.ndim(max_new_tokens):
        raise ValueError(f"max_new_tokens is {list(np.shape(max_new_tokens))}; a search takes one number for all rows")
    if not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty={length_penalty} is no power; give a number")
    given = Given(prompt, coords, encoder_tokens, encoder_coords)
    ends = Ends(max_new_tokens, min_new_tokens, stop, pad)
    request = request_of(spec, given, ends, dtype=dtype, cache_dtype=cache_dtype)
    new_BKN, scores_BK = _beam(spec, params, request, jnp.float32(length_penalty), beams)
    check_said(numpy_of(scores_BK).where(scores_BK[:, 0] > -math.inf, 0, NOTHING))
    return Beams(joined(prompt, new_BKN, ends), scores_BK)


@partial(for_few_rows, static_argnames=["spec", "beams"])
def _beam(spec: Transformer, params: Params, request: Request, penalty: Array, beams: int) -> tuple[Array, Array]:
    count = jnp.max(request.most)

    def going(search: Search) -> Array:
        best_B = jnp.max(search.logp, axis=1)
        shortest = jnp.where(penalty > 0, count, search.made + 1)
        hopeful_B = _score(best_B, shortest, penalty) > jnp.min(search.scores, axis=1)
        return (search.made < count) & jnp.any(hopeful_B)

    def grow(search: Search) -> Search:
        search, token_BK, parent_BK = _grow(request, search, penalty)
        rows = (jnp.arange(batch)[:, None] * beams + parent_BK).reshape(-1)
        cache = fork(search.cache, rows)
        logits, cache = step(
            flat_spec, flat_params, token_BK.reshape(-1), cache, coords=search.coords, dtype=request.dtype
        )
        return search._replace(cache=cache, logits=logits, coords=succeeding(search.coords))

    state, logits_BV, _ = read_prompt(spec, params, request)
    batch = logits_BV.shape[0]
    every = jnp.repeat(jnp.arange(batch), beams)
    flat_spec, flat_params, cache = unstacked(spec, params, fork(state.cache, every))
    nothing_BK = jnp.full((batch, beams), -jnp.inf)
    search = Search(
        made=jnp.int32(0),
        text=jnp.full((batch, beams, request.room), request.pad),
        logp=nothing_BK.at[:, 0].set(0),
        logits=logits_BV[every],
        coords=jax.tree.map(lambda leaf: leaf[every], succeeding(state.coords)),
        cache=cache,
        ended=jnp.full((batch, beams, request.room), request.pad),
        scores=nothing_BK,
    )
    search = jax.lax.while_loop(going, grow, search)
    cut_BK = jnp.where(search.made == count, _score(search.logp, search.made, penalty), -jnp.inf)
    return _best((search.ended, search.scores), (search.text, cut_BK), beams)


def _grow(request: Request, search: Search, penalty: Array) -> tuple[Search, Array, Array]:
    """The search with one more token on each hypothesis: (the search, the tokens and the parents [B, K] that go on)."""
    batch, beams, _ = search.text.shape
    vocab = search.logits.shape[-1]
    logp_BKV = searchable(request, search.logits.reshape(batch, beams, vocab), search.made)
    total_BX = (search.logp[..., None] + logp_BKV).reshape(batch, beams * vocab)
    several = min(beams * (1 + len(request.stop)), beams * vocab)  # so many that `beams` of them go on
    logp_BX, chosen_BX = jax.lax.top_k(total_BX, several)
    parent_BX, token_BX = chosen_BX // vocab, (chosen_BX % vocab).astype(jnp.int32)
    text_BXN = jnp.take_along_axis(search.text, parent_BX[..., None], axis=1).at[:, :, search.made].set(token_BX)
    ends_BX = jnp.any(token_BX[..., None] == request.stop, axis=-1)
    made = search.made + 1
    best_X = jnp.arange(several) < beams  # the others are there to go on in place of those that end
    scores_BX = jnp.where(ends_BX & best_X, _score(logp_BX, made, penalty), -jnp.inf)
    ended, scores = _best((search.ended, search.scores), (text_BXN, scores_BX), beams)
    logp_BK, on_BK = jax.lax.top_k(jnp.where(ends_BX, -jnp.inf, logp_BX), beams)
    token_BK, parent_BK = (jnp.take_along_axis(x, on_BK, axis=1) for x in (token_BX, parent_BX))
    text_BKN = jnp.take_along_axis(text_BXN, on_BK[..., None], axis=1)
    after = search._replace(made=made, text=text_BKN, logp=logp_BK, ended=ended, scores=scores)
    return after, token_BK, parent_BK


def _score(logp: Array, length: Array, penalty: Array) -> Array:
    return logp / length.astype(jnp.float32) ** penalty


def _best(one: tuple[Array, Array], other: tuple[Array, Array], count: int) -> tuple[Array, Array]:
    """The `count` texts [B, K, N] of the largest scores [B, K] among both."""
    text, scores = (jnp.concatenate(both, axis=1) for both in zip(one, other, strict=True))
    scores, order = jax.lax.top_k(scores, count)
    return jnp.take_along_axis(text, order[..., None], axis=1), scores
