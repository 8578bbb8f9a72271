"""What is asked of decoding: what to go on from, when rows end, how tokens are chosen; checked once, for every loop."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from fxformer.coords import PADDING, Coords, check_rows, last, padded_to, plain
from fxformer.decode.sampling import Sampling, check_sampling, row_keys
from fxformer.decode.steps import check_decodable
from fxformer.jit import promoting
from fxformer.model import (
    Transformer,
    check_cacheable,
    check_positions,
    check_tokens,
    length_limit,
    position_limit,
    traced,
)


class Given(NamedTuple):
    """What is read before the first new token, in the words of `generate`: tokens, and what an encoder reads."""

    tokens: ArrayLike
    coords: Coords | None = None
    encoder_tokens: Array | None = None
    encoder_coords: Coords | None = None


class Ends(NamedTuple):
    """When rows end, in the words of `generate`: the most and the least new tokens, stop tokens, what is behind."""

    most: ArrayLike
    least: ArrayLike = 0
    stop: int | Sequence[int] = ()
    pad: int | None = None


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


@promoting()
def request_of(
    spec: Transformer,
    given: Given,
    ends: Ends,
    *,
    sampling: Sampling = Sampling(),
    key: Array | None = None,
    dtype: DTypeLike = jnp.float32,
    cache_dtype: DTypeLike | None = None,
    spare: int = 0,
    draft: Transformer | None = None,
) -> Request:
    """The request that `generate` describes, checked.

    spare: tokens that may be written and taken back. draft: another model that reads the prompt.
    """
    prompt = jnp.asarray(given.tokens)
    batch, length = check_tokens(prompt, spec.embed.vocab)
    if batch * length == 0:
        raise ValueError("the prompt is empty; give at least one token")
    check_sampling(sampling, batch, spec.embed.vocab, key)
    check_source(spec, given.encoder_tokens)
    stops = _stops(ends, spec.embed.vocab)
    least_B, most_B = _counts(ends, batch)
    coords = plain(length) if given.coords is None else given.coords
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
        encoder_tokens=given.encoder_tokens,
        encoder_coords=given.encoder_coords,
        sampling=sampling,
        keys=row_keys(key, batch),
        stop=jnp.asarray(stops, jnp.int32),
        pad=jnp.int32(ends.pad if ends.pad is not None else (stops[0] if stops else 0)),
        least=jnp.asarray(least_B),
        most=jnp.asarray(most_B),
        count=int(most_B.max()),
        length=bucket + int(most_B.max()) + spare,
        encoder_length=1 if given.encoder_tokens is None else given.encoder_tokens.shape[1],
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


def check_source(spec: Transformer, encoder_tokens: Array | None) -> None:
    """Raise ValueError for a model that cannot be decoded, or whose encoder has nothing or too much to read."""
    if encoder_tokens is None:
        check_decodable(spec)
    check_cacheable(spec)
    if encoder_tokens is not None and spec.encoder is None:
        raise ValueError("encoder_tokens are given and the model has no encoder; leave them out")


def _stops(ends: Ends, vocab: int) -> tuple[int, ...]:
    several: Any = ends.stop if np.ndim(ends.stop) > 0 else [ends.stop]
    stops = tuple(_token("stop", token, vocab) for token in several)
    if ends.pad is not None:
        _token("pad", ends.pad, vocab)
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


def _counts(ends: Ends, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the most new tokens of each row, int32 [B] both."""
    least_B = _count("min_new_tokens", ends.least, batch, 0)
    most_B = _count("max_new_tokens", ends.most, batch, 1)
    if (least_B > most_B).any():
        row = int((least_B > most_B).argmax())
        raise ValueError(f"min_new_tokens={least_B[row]} is more than max_new_tokens={most_B[row]}; use fewer")
    return least_B, most_B


def _count(name: str, count: ArrayLike, batch: int, least: int) -> np.ndarray:
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
