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

from fxformer.coords import PADDING, Coords, check_rows, of_index, padded_to
from fxformer.decode.sampling import Sampling, check_sampling, row_keys, settled
from fxformer.decode.steps import check_decodable
from fxformer.fields import LAST, conform
from fxformer.given import Tokens, check_cacheable, check_positions, check_tokens, length_limit, position_limit
from fxformer.jit import as_array, numpy_of, promoting, traced
from fxformer.layers.head import check_over_tokens
from fxformer.model import Transformer


class Given(NamedTuple):
    """What is read before the first new token, in the words of `generate`: tokens, and what an encoder reads."""

    tokens: Tokens
    coords: Coords | None = None
    encoder_tokens: Tokens | None = None
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
    least, most: int [B], new tokens of a row; room: for the most of all rows. length, encoder_length: of the cache.
    spare: see `empty_cache`.
    """

    prompt: Array
    coords: Coords
    encoder_tokens: Array | None
    encoder_coords: Coords | None
    sampling: Sampling
    keys: Array | None
    stop: Array | np.ndarray
    pad: Array | np.ndarray
    least: Array | np.ndarray
    most: Array | np.ndarray
    room: int = field(metadata={"static": True})
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
    conform("spec", spec, Transformer)
    prompt = as_array(given.tokens)
    batch, length = check_tokens(prompt, spec.embed.vocab)
    if batch * length == 0:
        raise ValueError("the prompt is empty; give at least one token")
    check_sampling(sampling, batch, spec.embed.vocab, key)
    check_source(spec, given.encoder_tokens)
    stops = _stops(ends, spec.embed.vocab)
    least_B, most_B = _counts(ends, batch)
    readers = [spec] if draft is None else [spec, draft]
    limits = [limit for limit in map(length_limit, readers) if limit is not None]
    tokens, coords = in_bucket(prompt, given.coords, min(limits, default=None))
    for reader in readers:
        check_over_tokens(reader.head)
        check_room(reader, coords, int(most_B.max()))
    source = _source(spec, given)
    room = room_of(int(most_B.max()))
    return Request(
        prompt=tokens,
        coords=coords,
        encoder_tokens=None if source is None else source[0],
        encoder_coords=given.encoder_coords if source is None else source[1],
        sampling=settled(sampling),
        keys=row_keys(key, batch),
        stop=np.asarray(stops, np.int32),
        pad=np.asarray(ends.pad if ends.pad is not None else (stops[0] if stops else 0), np.int32),
        least=least_B,
        most=most_B,
        room=room,
        length=tokens.shape[1] + room + spare,
        encoder_length=1 if source is None else source[0].shape[1],
        dtype=jnp.dtype(dtype),
        cache_dtype=jnp.dtype(dtype if cache_dtype is None else cache_dtype),
        spare=spare,
    )


SMALLEST = 16  # tokens of the smallest bucket
FINE = 256  # tokens from which on room is not doubled any more


def bucket_of(length: int, limit: int | None = None) -> int:
    """The size that prompts of `length` tokens are padded to, so that what is compiled serves many lengths.

    A power of two, or the number of learned positions where that is less.
    """
    bucket = max(SMALLEST, 1 << (length - 1).bit_length())
    return bucket if limit is None else max(length, min(bucket, limit))


def room_of(count: int) -> int:
    """Room for `count` new tokens, so that what is compiled serves many counts.

    A power of two up to 256, from there on at most a quarter more than is asked for: caches are large, then.
    """
    bucket = bucket_of(count)
    step = bucket if bucket <= FINE else bucket // 8
    return -(-count // step) * step


def in_bucket(tokens: Array | np.ndarray, coords: Coords | None, limit: int | None) -> tuple[Array, Coords]:
    """Tokens [B, T] and their coordinates (None: from 0), padded to their bucket, a row of coordinates for each."""
    batch, length = tokens.shape
    bucket = bucket_of(length, limit)
    if coords is None:
        place = np.arange(bucket, dtype=np.int32)[None]
        with jax.ensure_compile_time_eval():  # known within `jit` too
            coords = of_index(jnp.asarray(np.where(place < length, place, PADDING), jnp.int32))
    else:
        check_rows(coords, batch, length)
        coords = padded_to(coords, bucket)
    rows = jax.tree.map(lambda leaf: numpy_of(leaf).broadcast_to(leaf, (batch, *leaf.shape[1:])), coords)
    return numpy_of(tokens).pad(tokens, ((0, 0), (0, bucket - length))).astype(np.int32), rows


def _source(spec: Transformer, given: Given) -> tuple[Array, Coords] | None:
    """What the encoder reads, in its bucket."""
    if given.encoder_tokens is None:
        return None
    tokens = as_array(given.encoder_tokens)
    check_tokens(tokens, spec.embed.vocab)
    if not tokens.size:
        raise ValueError(f"encoder_tokens are {list(tokens.shape)}: none; give the encoder at least one token")
    return in_bucket(tokens, given.encoder_coords, length_limit(spec))


def joined(prompt: Tokens, new: Array, ends: Ends) -> Array:
    """int32 [B, …, T + N]: the prompt [B, T], and behind it what was asked for of the new tokens [B, …, room]."""
    numpy, count = numpy_of(new), int(np.max(ends.most))
    batch, length = np.shape(prompt)
    prompt = numpy.asarray(prompt, np.int32).reshape(batch, *(1,) * (new.ndim - 2), length)
    prompt = numpy.broadcast_to(prompt, (*new.shape[:-1], length))
    return jnp.asarray(numpy.concatenate([prompt, numpy.asarray(new)[..., :count]], axis=-1), jnp.int32)


def check_source(spec: Transformer, encoder_tokens: Tokens | None) -> None:
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
    if traced(count):
        raise ValueError(f"{name} is traced and decides what is compiled; give a number that is known")
    counts = np.asarray(count)
    if counts.shape not in ((), (batch,)) or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"{name} is {counts.dtype} {list(counts.shape)}; give an integer, or [{batch}] of them")
    wrong = counts[(counts < least) | (counts > LAST)]
    if wrong.size:
        raise ValueError(f"{name}={wrong.flat[0]} is out of range; use {least} or more, and at most {LAST}")
    return np.broadcast_to(counts, (batch,)).astype(np.int32)


def check_room(spec: Transformer, coords: Coords, count: int) -> None:
    """Raise ValueError where a row has no token, or the model too few positions; the last new token is not read."""
    if traced(coords):
        return
    index_BT = np.asarray(coords.index)
    last_B = index_BT.max(axis=1)
    if last_B.min() == PADDING:
        raise ValueError(f"prompt {int(last_B.argmin())} is empty, all of it is padding; give at least one token")
    check_positions(spec, coords)
    assert coords.pos is not None, "a prompt has positions"
    newest_Bx = np.asarray(coords.pos)[np.arange(len(index_BT)), index_BT.argmax(axis=1)]
    limit, before = position_limit(spec), int((newest_Bx if newest_Bx.ndim == 1 else newest_Bx[:, -1]).max()) + 1
    if limit is not None and before + count - 1 > limit:
        raise ValueError(f"{before} tokens and {count} new ones are more than the {limit} learned positions")
