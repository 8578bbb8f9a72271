"""Filling in: masks of an encoder, the surest first, and blanks of a prefix model, one after another."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from fxformer.coords import PADDING, Coords
from fxformer.decode.loop import written
from fxformer.decode.request import Ends, Given, in_bucket, request_of
from fxformer.decode.sampling import (
    NOTHING,
    Sampling,
    check_said,
    check_sampling,
    keys_at,
    narrow,
    pick,
    row_keys,
    settled,
    weigh,
)
from fxformer.given import Tokens, check_tokens, length_limit
from fxformer.jit import as_array, compiled, promoting
from fxformer.layers.head import check_over_tokens
from fxformer.model import Params, Transformer, apply


@promoting()
def fill_masks(
    spec: Transformer,
    params: Params,
    tokens: Tokens,
    mask: int,
    *,
    rounds: int | None = None,
    key: Array | None = None,
    sampling: Sampling = Sampling(),
    coords: Coords | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Array:
    """`tokens` [B, T] with a token for every `mask`: int32 [B, T]. For models that see both sides, such as BERT.

    Each round fills an equal share of a row's masks, those whose tokens are the likeliest (Ghazvininejad et al. 2019).
    rounds: None is one for each mask; 1 fills all at once, each as if the others were unknown. key, sampling: as in
    `generate`. Raises ValueError for a model that says nothing about tokens, and for tokens without a mask.
    """
    tokens_BT = as_array(tokens)
    batch, length = check_tokens(tokens_BT, spec.embed.vocab)
    check_over_tokens(spec.head)
    if not 0 <= mask < spec.embed.vocab:
        raise ValueError(f"mask token {mask} is outside the vocabulary of {spec.embed.vocab}")
    check_sampling(sampling, batch, spec.embed.vocab, key)
    if sampling.remembers:
        raise ValueError(
            "repetition_penalty is for text that is written in order; masks are filled in any, leave it out"
        )
    most = int(np.max(np.sum(np.asarray(tokens_BT) == mask, axis=1), initial=0))
    if most == 0:
        raise ValueError(f"no token is the mask {mask}; there is nothing to fill")
    rounds = most if rounds is None else rounds
    if rounds < 1:
        raise ValueError(f"rounds={rounds} fills nothing; use 1 or more")
    keys_B, sampling = row_keys(key, batch), settled(sampling)
    padded_BT, coords = in_bucket(tokens_BT, coords, length_limit(spec))
    filled_BT = _fill_masks(spec, params, padded_BT, coords, keys_B, sampling, mask, rounds, dtype)
    check_said(filled_BT)
    return jnp.asarray(np.asarray(filled_BT)[:, :length], jnp.int32)


@compiled(static=("spec", "dtype"))
def _fill_masks(
    spec: Transformer,
    params: Params,
    tokens_BT: Array,
    coords: Coords,
    keys_B: Array | None,
    sampling: Sampling,
    mask: Array | int,
    rounds: Array | int,
    dtype: DTypeLike,
) -> Array:
    def fill(i: Array, tokens_BT: Array) -> Array:
        empty_BT = (tokens_BT == mask) & (coords.index >= 0)
        logits_BTV = apply(spec, params, tokens_BT, coords=coords, dtype=dtype).logits.at[..., mask].set(-jnp.inf)
        logits_BTV = jax.vmap(partial(weigh, sampling=sampling), in_axes=1, out_axes=1)(logits_BTV)
        if keys_B is not None:
            logits_BTV = jax.vmap(partial(narrow, sampling=sampling), in_axes=1, out_axes=1)(logits_BTV)
        token_BT = pick(logits_BTV, keys_at(keys_B, i))
        logp_BT = jnp.take_along_axis(jax.nn.log_softmax(logits_BTV), token_BT[..., None], axis=-1)[..., 0]
        logp_BT = jnp.where(token_BT == NOTHING, jnp.inf, logp_BT)  # to be told of at once
        order_BT = jnp.argsort(jnp.where(empty_BT, -logp_BT, jnp.inf), axis=1)
        share_B1 = -(-jnp.sum(empty_BT, axis=1, keepdims=True) // (rounds - i))
        return jnp.where(empty_BT & (jnp.argsort(order_BT, axis=1) < share_B1), token_BT, tokens_BT)

    return jax.lax.fori_loop(0, rounds, fill, tokens_BT)


@promoting()
def fill_blanks(
    spec: Transformer,
    params: Params,
    tokens: Tokens,
    blanks: int | Sequence[int],
    max_new_tokens: int,
    *,
    start: int,
    stop: int,
    pad: int | None = None,
    key: Array | None = None,
    sampling: Sampling = Sampling(),
    dtype: DTypeLike = jnp.float32,
) -> Array:
    """What stands in each blank of `tokens` [B, T]: int32 [B, blanks, max_new_tokens], `pad` behind the end of each.

    For models that see their prompt in both directions and know two positions of a token, as GLM (Du et al. 2022) and
    ChatGLM-6B: where its blank stands, and the place within it. The text is read whole; then, from left to right, each
    blank is written from the token `start` to the token `stop`, and the ones before it are read as well.
    blanks: tokens that stand for a blank. pad: None is `stop`. Raises ValueError for rows with different numbers of
    blanks, or with none.
    """
    text_BT = as_array(tokens)
    batch, length = check_tokens(text_BT, spec.embed.vocab)
    blank_BT = np.isin(text_BT, blanks)
    counts_B = blank_BT.sum(axis=1)
    if counts_B.min() == 0 or counts_B.min() != counts_B.max():
        raise ValueError(f"rows have {counts_B.min()} to {counts_B.max()} blanks; give all rows as many, 1 or more")
    at_BM = np.nonzero(blank_BT)[1].reshape(batch, -1)
    keys_B = row_keys(key, batch)
    place_T = np.broadcast_to(np.arange(length), (batch, length))
    ids, index, pos = text_BT, place_T, np.stack([place_T, np.zeros_like(place_T)], axis=-1)
    pieces = []
    for m in range(at_BM.shape[1]):
        first_B1 = index.max(axis=1, keepdims=True) + 1
        at_B12 = np.stack([at_BM[:, m], np.ones(batch, int)], axis=-1)[:, None]
        ids = np.concatenate([ids, np.full((batch, 1), start)], axis=1)
        index, pos = np.concatenate([index, first_B1], axis=1), np.concatenate([pos, at_B12], axis=1)
        coords = Coords(
            index=jnp.asarray(index, jnp.int32),
            segment=jnp.asarray(np.zeros(index.shape), jnp.int32),
            prefix=jnp.asarray(np.broadcast_to(np.arange(index.shape[1]) < length, index.shape), bool),
            pos=jnp.asarray(pos, jnp.int32),
        )
        own_keys = None if keys_B is None else keys_at(keys_B, m)
        given, ends = Given(ids, coords), Ends(max_new_tokens, stop=stop, pad=pad)
        request = request_of(spec, given, ends, sampling=sampling, key=own_keys, dtype=dtype)
        piece_BN = np.asarray(written(spec, params, request))[:, :max_new_tokens]
        pieces.append(piece_BN)
        step_BN = np.broadcast_to(np.arange(1, max_new_tokens + 1), piece_BN.shape)
        written_BN = np.cumsum(piece_BN == stop, axis=1) == 0
        ids = np.concatenate([ids, piece_BN], axis=1)
        index = np.concatenate([index, np.where(written_BN, first_B1 + step_BN, PADDING)], axis=1)
        pos = np.concatenate([pos, np.where(written_BN[..., None], at_B12 + step_BN[..., None] * [0, 1], 0)], axis=1)
    return jnp.asarray(np.stack(pieces, axis=1), jnp.int32)
