"""Speculative decoding: something quick guesses a few tokens, the model checks them all in one pass.

What comes out is distributed exactly as what the model says alone, token for token the same where the most likely one
is taken. Leviathan et al. 2023; Chen et al. 2023.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from fxformer.cache import Cache
from fxformer.coords import Coords, following, preceding, succeeding, without
from fxformer.decode.compiled import for_few_rows
from fxformer.decode.processors import choosable
from fxformer.decode.request import Ends, Given, Request, joined, request_of
from fxformer.decode.sampling import NOTHING, Sampling, check_said, keys_at
from fxformer.decode.state import State, choose_next, read_prompt
from fxformer.decode.steps import unstacked
from fxformer.given import Tokens
from fxformer.jit import promoting
from fxformer.model import Params, Transformer, apply, apply_mtp, empty_mtp_cache
from fxformer.ops.sample import temper


class Speculation(NamedTuple):
    """text: int32 [B, T + N], as of `generate`. passes: int32 [B], how often the model ran for each row."""

    text: Array
    passes: Array


class Guess(NamedTuple):
    """One guess a row: the token [B], and the log probabilities [B, V] it was drawn with."""

    token: Array
    logp: Array


class Checked(NamedTuple):
    """What the model has read in one pass, X tokens a row, and what it made of them.

    read: int32 [B, X]. coords: of them; padding where a guess before was wrong. hidden: [B, X, D].
    after: int32 [B, X], the token that now stands after each.
    """

    read: Array
    coords: Coords
    hidden: Array
    after: Array


class Draft(Protocol):
    """What guesses. Its memory is a pytree that goes along the loop.

    open: the memory when the prompt was read. flat: the same, its parameters and memory, as is fastest in a loop.
    guess: some tokens after the newest, and the memory. learn: the memory after the model has checked them.
    """

    def open(self, params: Any, request: Request, prompt: Checked) -> Any: ...

    def flat(self, params: Any, memory: Any) -> "tuple[Draft, Any, Any]": ...

    def guess(self, params: Any, request: Request, state: State, memory: Any) -> tuple[list[Guess], Any]: ...

    def learn(self, params: Any, memory: Any, checked: Checked) -> Any: ...


class Reader(NamedTuple):
    """The cache of a draft model, and the token before the newest [B], which it may not have read."""

    cache: Cache
    before: Array


@dataclass(frozen=True, slots=True)
class Model:
    """A smaller model of the same vocabulary guesses `count` tokens one after another."""

    spec: Transformer
    count: int

    def open(self, params: Params, request: Request, prompt: Checked) -> Reader:
        """Its own cache of the prompt."""
        state, _, _ = read_prompt(self.spec, params, request)
        return Reader(state.cache, _at_last(prompt.read, prompt.coords))

    def flat(self, params: Params, memory: Reader) -> tuple[Draft, Params, Reader]:
        """Layer after layer instead of a loop over them."""
        spec, params, cache = unstacked(self.spec, params, memory.cache)
        return replace(self, spec=spec), params, memory._replace(cache=cache)

    def guess(self, params: Params, request: Request, state: State, memory: Reader) -> tuple[list[Guess], Reader]:
        """Its first pass reads the two newest tokens."""
        guesses: list[Guess] = []
        cache, seen_BV = memory.cache, state.seen
        tokens = jnp.stack([memory.before, state.token], axis=1)
        coords = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), preceding(state.coords), state.coords)
        for i in range(self.count):
            out = apply(self.spec, params, tokens, cache=cache, coords=coords, dtype=request.dtype)
            assert out.cache is not None
            guess = _guess(request, out.logits[:, -1], state.made + i, seen_BV)
            guesses.append(guess)
            seen_BV = _and_seen(seen_BV, guess.token)
            cache, tokens, coords = out.cache, guess.token[:, None], succeeding(coords.slice(-1, None))
        return guesses, memory._replace(cache=cache)

    def learn(self, params: Params, memory: Reader, checked: Checked) -> Reader:
        """What it guessed wrongly is forgotten when it writes something else in its place."""
        return memory._replace(before=_at_last(checked.read, checked.coords))


class Heard(NamedTuple):
    """The cache of multi-token prediction, and what it said last: logits [B, V]."""

    cache: Cache
    logits: Array


@dataclass(frozen=True, slots=True)
class OwnPrediction:
    """The model's own multi-token prediction guesses one token. DeepSeek-AI 2024 (V3), section 2.2."""

    spec: Transformer

    def open(self, params: Params, request: Request, prompt: Checked) -> Heard:
        """What it says when it has read the prompt, each token with the one after it."""
        batch = request.prompt.shape[0]
        cache = empty_mtp_cache(self.spec, batch, request.length, spare=request.spare, dtype=request.cache_dtype)
        return self.learn(params, Heard(cache, jnp.zeros(0)), prompt)

    def flat(self, params: Params, memory: Heard) -> tuple[Draft, Params, Heard]:
        """It is one block already."""
        return self, params, memory

    def guess(self, params: Params, request: Request, state: State, memory: Heard) -> tuple[list[Guess], Heard]:
        """What it said when it learned of the newest token."""
        return [_guess(request, memory.logits, state.made, state.seen)], memory

    def learn(self, params: Params, memory: Heard, checked: Checked) -> Heard:
        """It reads the hidden states that hold, each with the token after it."""
        logits_BXV, cache = apply_mtp(
            self.spec, params, checked.hidden, checked.after, memory.cache, coords=checked.coords
        )
        return Heard(cache, _at_last(logits_BXV, checked.coords))


@promoting()
def speculate(
    spec: Transformer,
    params: Params,
    prompt: Tokens,
    max_new_tokens: ArrayLike,
    *,
    draft: tuple[Transformer, Params] | None = None,
    guesses: int = 4,
    key: Array | None = None,
    sampling: Sampling = Sampling(),
    stop: int | Sequence[int] = (),
    min_new_tokens: ArrayLike = 0,
    pad: int | None = None,
    coords: Coords | None = None,
    dtype: DTypeLike = jnp.float32,
    cache_dtype: DTypeLike | None = None,
) -> Speculation:
    """`generate` in fewer passes of the model, each of which checks some guesses.

    draft: a model of the same vocabulary that makes `guesses` of them a pass; None is the model's own multi-token
    prediction, which makes one. Other options: see `generate`. Draws are exact, and not those of `generate` with the
    same key.
    Raises ValueError as `generate` does, for a draft of another vocabulary, and where there is nothing to guess with.
    """
    if not isinstance(guesses, int | np.integer) or guesses < 1:
        raise ValueError(f"guesses={guesses} leaves nothing to check; use 1 or more")
    if draft is not None and draft[0].embed.vocab != spec.embed.vocab:
        raise ValueError(
            f"the draft knows {draft[0].embed.vocab} tokens, the model {spec.embed.vocab}; both need the same"
        )
    if draft is None and spec.mtp is None:
        raise ValueError("the model has no multi-token prediction (MTP) to guess with; give a draft model")
    guesser: Draft = OwnPrediction(spec) if draft is None else Model(draft[0], guesses)
    ends = Ends(max_new_tokens, min_new_tokens, stop, pad)
    request = request_of(
        spec,
        Given(prompt, coords),
        ends,
        sampling=sampling,
        key=key,
        dtype=dtype,
        cache_dtype=cache_dtype,
        spare=guesses + 1,
        draft=None if draft is None else draft[0],
    )
    own = params if draft is None else draft[1]
    new_BN, passes_B = _speculate(spec, guesser, params, own, request)
    check_said(new_BN)
    return Speculation(joined(prompt, new_BN, ends), passes_B)


@partial(for_few_rows, static_argnames=["spec", "guesser"])
def _speculate(spec: Transformer, guesser: Draft, params: Params, draft: Any, request: Request) -> tuple[Array, Array]:
    """int32 [B, room], and the passes of each row: the loop ends when every row has stopped."""

    def going(carry: tuple[State, Any, Array, Array]) -> Array:
        return ~jnp.all(carry[0].stopped)

    def body(carry: tuple[State, Any, Array, Array]) -> tuple[State, Any, Array, Array]:
        state, memory, text_BN, passes_B = carry
        guesses, memory = flat_guesser.guess(flat_draft, request, state, memory)
        after, checked = _check(flat_spec, flat_params, request, state, guesses)
        holds_BX = checked.coords.index >= 0
        place_BX = jnp.where(holds_BX, state.made[:, None] + jnp.arange(holds_BX.shape[1]), request.room)
        text_BN = text_BN.at[rows_B[:, None], place_BX].set(checked.after, mode="drop")
        return after, flat_guesser.learn(flat_draft, memory, checked), text_BN, passes_B + ~state.stopped

    state, logits_BV, hidden_BTD = read_prompt(spec, params, request)
    state = choose_next(request, state, logits_BV)
    rows_B = jnp.arange(len(state.token))
    index_BT = request.coords.index
    next_BT = jnp.argmax(index_BT[:, None] == index_BT[..., None] + 1, axis=-1)  # where the token after each stands
    after_BT = jnp.take_along_axis(request.prompt, next_BT, axis=1)
    after_BT = after_BT.at[rows_B, jnp.argmax(index_BT, axis=1)].set(state.token)
    memory = guesser.open(draft, request, Checked(request.prompt, request.coords, hidden_BTD, after_BT))
    flat_guesser, flat_draft, memory = guesser.flat(draft, memory)
    flat_spec, flat_params, cache = unstacked(spec, params, state.cache)
    state = replace(state, cache=cache, made=jnp.broadcast_to(state.made, rows_B.shape))
    text_BN = jnp.full((len(rows_B), request.room), request.pad).at[:, 0].set(state.token)
    _, _, text_BN, passes_B = jax.lax.while_loop(going, body, (state, memory, text_BN, jnp.ones_like(rows_B)))
    return text_BN, passes_B


def _check(
    spec: Transformer, params: Params, request: Request, state: State, guesses: list[Guess]
) -> tuple[State, Checked]:
    """One pass of the model over the newest token and the guesses; each row keeps those that pass, and one more token.

    A guess passes with probability min(1, p / q); the token in place of the first that does not is drawn from what p
    has more than q. Leviathan et al. 2023, algorithm 1.
    """
    read_BX = jnp.stack([state.token, *(guess.token for guess in guesses)], axis=1)
    places_X = jnp.arange(read_BX.shape[1])
    written_BX = following(state.coords, len(guesses))
    room_BX = (state.made[:, None] + places_X < request.most[:, None]) & ~state.stopped[:, None]
    coords = without(written_BX, ~room_BX)
    out = apply(spec, params, read_BX, cache=state.cache, coords=coords, dtype=request.dtype)
    assert out.cache is not None

    passed, rest, seen_BV = [], [], state.seen
    for i, (token_B, q_BV) in enumerate(guesses):
        logp_BV = _logp(request, out.logits[:, i], state.made + i, seen_BV)
        p_B, q_B = (jnp.take_along_axis(x, token_B[:, None], axis=1)[:, 0] for x in (logp_BV, q_BV))
        passed.append(_passes(request, state.made + i, p_B - q_B))
        more_BV = jnp.maximum(jnp.exp(logp_BV) - jnp.exp(q_BV), 0)
        some_B1 = jnp.any(more_BV > 0, axis=-1, keepdims=True)  # none where both say the same but for rounding
        rest.append(jnp.where(some_B1, jnp.log(more_BV), logp_BV))
        seen_BV = _and_seen(seen_BV, token_B)
    rest.append(_logp(request, out.logits[:, len(guesses)], state.made + len(guesses), seen_BV))

    right_B = jnp.sum(jnp.cumprod(jnp.stack(passed, axis=1), axis=1), axis=1)
    rest_BV = jnp.take_along_axis(jnp.stack(rest, axis=1), right_B[:, None, None], axis=1)[:, 0]
    next_B = _draw(request, state.made + right_B, 2, rest_BV)
    guessed_BX = jnp.pad(read_BX[:, 1:], ((0, 0), (0, 1)))
    after_BX = jnp.where(places_X < right_B[:, None], guessed_BX, next_B[:, None])
    stops_BX = jnp.any(after_BX[..., None] == request.stop, axis=-1)
    before_BX = jnp.cumsum(stops_BX, axis=1) - stops_BX  # stops among the tokens before
    holds_BX = (places_X <= right_B[:, None]) & (before_BX == 0) & room_BX

    count_B = jnp.sum(holds_BX, axis=1)
    newest_B1 = jnp.maximum(count_B - 1, 0)[:, None]
    rows_B1 = jnp.arange(len(count_B))[:, None]
    stands = succeeding(jax.tree.map(lambda leaf: leaf[rows_B1, newest_B1], written_BX))
    moved_B = count_B > 0
    made_B = state.made + count_B
    seen_BV = state.seen
    for i in range(len(places_X)):
        seen_BV = _and_seen(seen_BV, after_BX[:, i], holds_BX[:, i])
    after = State(
        token=jnp.where(moved_B, after_BX[rows_B1, newest_B1][:, 0], state.token),
        coords=jax.tree.map(lambda new, old: jnp.where(_like(moved_B, new), new, old), stands, state.coords),
        cache=out.cache,
        made=made_B,
        seen=seen_BV,
        stopped=state.stopped | jnp.any(stops_BX & holds_BX, axis=1) | (made_B >= request.most),
    )
    return after, Checked(read_BX, without(written_BX, ~holds_BX), out.hidden, after_BX)


def _logp(request: Request, logits_BV: Array, made_B: Array, seen_BV: Array | None) -> Array:
    """Log probabilities that tokens are drawn with; all of it on the likeliest where nothing is drawn."""
    logits_BV = choosable(request, logits_BV, made_B, seen_BV)
    logp_BV = jax.nn.log_softmax(temper(logits_BV, 0.0) if request.keys is None else logits_BV)
    return jnp.where(jnp.max(logits_BV, axis=-1, keepdims=True) > -jnp.inf, logp_BV, jnp.nan)


def _guess(request: Request, logits_BV: Array, made_B: Array, seen_BV: Array | None) -> Guess:
    logp_BV = _logp(request, logits_BV, made_B, seen_BV)
    return Guess(_draw(request, made_B, 0, logp_BV), logp_BV)


def _draw(request: Request, made_B: Array, use: int, logp_BV: Array) -> Array:
    """int32 [B]: a guess (use 0), or the token after those that passed (use 2); NOTHING where all are NaN."""
    if request.keys is None:
        token_B = jnp.argmax(logp_BV, axis=-1)
    else:
        token_B = jax.vmap(jax.random.categorical)(_keys(request, made_B, use), logp_BV)
    return jnp.where(jnp.isnan(jnp.max(logp_BV, axis=-1)), NOTHING, token_B).astype(jnp.int32)


def _passes(request: Request, made_B: Array, logratio_B: Array) -> Array:
    """bool [B]: whether guesses pass of which the model and the draft say log p - log q."""
    if request.keys is None:
        return logratio_B >= 0
    return jnp.log(jax.vmap(jax.random.uniform)(_keys(request, made_B, 1))) < logratio_B


def _keys(request: Request, made_B: Array, use: int) -> Array:
    """Keys [B] for a guess (0), its check (1) and the token after those that passed (2)."""
    keys_B = keys_at(request.keys, made_B)
    assert keys_B is not None, "nothing is drawn"
    return jax.vmap(jax.random.fold_in, (0, None))(keys_B, use)


def _and_seen(seen_BV: Array | None, token_B: Array, holds_B: Array | bool = True) -> Array | None:
    if seen_BV is None:
        return None
    return seen_BV.at[jnp.arange(len(token_B)), token_B].max(jnp.broadcast_to(holds_B, token_B.shape))


def _at_last(x_BX: Array, coords: Coords) -> Array:
    """What stands at the token of greatest index in each row."""
    return x_BX[jnp.arange(len(x_BX)), jnp.argmax(coords.index, axis=1)]


def _like(rows_B: Array, leaf: Array) -> Array:
    return rows_B.reshape(-1, *(1,) * (leaf.ndim - 1))
