"""Where tokens stand. Masks, biases, rotations and caches see coordinates, never array offsets."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fxformer.fields import LAST, Count, checked, conform, shown
from fxformer.jit import as_array, compiled, known, numpy_of, promoting, traced
from fxformer.written import Brief

PADDING = -1


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Coords(Brief):
    """Coordinates of T tokens in B rows; a leading axis of size 1 stands for every row of a batch.

    index: int32 [B, T], the order of tokens (masks, biases, cache slots); negative means padding.
    segment: int32 [B, T], tokens attend only within their own segment (packed documents).
    prefix: bool [B, T], tokens that `Prefix()` lets everyone see.
    pos: int32 [B, T] or [B, T, streams], what position encodings see; None for keys, which are encoded already.
    type: int32 [B, T], which learned type vector a token gets (BERT's sentence A or B); None is 0 for all.
    start: int32 [B, T], index of the first token of a token's segment, from where `Blocks` count; None is 0 for all.
    memory_token: bool [B, T], a model's own tokens, which stand nowhere in the text: their index is that of padding,
    but every token sees them; None is none, and no caller gives any: see `after_memory`.
    """

    index: Array
    segment: Array
    prefix: Array
    pos: Array | None = None
    type: Array | None = None
    start: Array | None = None
    memory_token: Array | None = None

    @property
    def length(self) -> int:
        """Number of tokens T in each row, padding included."""
        return self.index.shape[1]

    @property
    def rows(self) -> int:
        """Size of the leading axis: the batch, or 1 where all rows agree."""
        return self.index.shape[0]

    @property
    def there(self) -> Array:
        """bool [B, T]: what is a token and no padding."""
        text_BT = self.index >= 0
        return text_BT if self.memory_token is None else text_BT | self.memory_token

    def streams(self, count: int) -> Array:
        """int32 [B, T, count]: the positions of tokens still to be encoded; a stream that is not given is 0.

        Raises ValueError where more are given than asked for.
        """
        self.check_streams(count)
        assert self.pos is not None
        pos_BTx = self.pos[..., None] if self.pos.ndim == 2 else self.pos
        return jnp.pad(pos_BTx, ((0, 0), (0, 0), (0, count - pos_BTx.shape[-1])))

    def check_streams(self, count: int) -> None:
        """Raise ValueError where positions have more streams than `count`."""
        assert self.pos is not None, "keys carry no positions"
        given = 1 if self.pos.ndim == 2 else self.pos.shape[-1]
        if given > count:
            raise ValueError(f"coords have {given} streams of positions, the model sees {count}")

    def at_tokens(self, values: Array) -> np.ndarray | None:
        """Those of `values` [B, T] or [B, T, …] that are not at padding, flat; None where they are not known."""
        if traced((self.index, values)):
            return None
        there, flat = np.asarray(self.index) >= 0, np.asarray(values)
        shape = np.broadcast_shapes(there.shape, flat.shape[:2])
        return np.broadcast_to(flat, (*shape, *flat.shape[2:]))[np.broadcast_to(there, shape)]

    @property
    def as_keys(self) -> "Coords":
        """What of them a cache remembers: where the tokens stand, not how they were embedded nor what they see."""
        return replace(self, pos=None, type=None, start=None, memory_token=None)

    def slice(self, start: int, stop: int) -> "Coords":
        """The coordinates of tokens `start` to `stop` (exclusive)."""
        return jax.tree.map(lambda leaf: leaf[:, start:stop], self)


@checked
def plain(length: Count, *, start: ArrayLike = 0) -> Coords:
    """Tokens `start`, `start + 1`, … of one document; `start` is a number, or [B] for rows that differ.

    Raises ValueError for places that are none, or that int32 does not count.
    """
    start = as_array(start)
    if start.ndim > 1 or not jnp.issubdtype(start.dtype, jnp.integer):
        raise ValueError(f"start={shown(start)} is no place; give an integer, or one for each row")
    first = known(start)
    if first is not None and (first.min(initial=0) < 0 or first.max(initial=0) > LAST - length):
        place = first.min() if first.min() < 0 else first.max()
        raise ValueError(f"start={place} is no place for {length} tokens; use 0 to {LAST - length}")
    return _plain(length, start)


@compiled(static=("length",))
def _plain(length: int, start: ArrayLike) -> Coords:
    index_BT = jnp.atleast_1d(jnp.asarray(start, jnp.int32))[:, None] + jnp.arange(length, dtype=jnp.int32)
    return of_index(index_BT)


@promoting()
def padded(valid_BT: Array) -> Coords:
    """Rows with padding anywhere: tokens where `valid_BT` is true are counted from 0, the others are padding.

    Numbers 0 and 1 count too. Raises ValueError for another shape or kind.
    """
    mask = _rows_of("mask", valid_BT, "booleans", (jnp.bool_, jnp.integer))
    wrong = [] if (numbers := known(mask)) is None else numbers[(numbers != 0) & (numbers != 1)]
    if len(wrong):
        raise ValueError(f"mask has {wrong[0]}, and a token is there or not; give booleans, or numbers 0 and 1")
    valid_BT = jnp.asarray(mask, bool)
    count_BT = jnp.cumsum(valid_BT, axis=1, dtype=jnp.int32) - 1
    return of_index(jnp.where(valid_BT, count_BT, PADDING))


@promoting()
def packed(segment_BT: Array) -> Coords:
    """Several documents in a row: each run of equal `segment_BT` >= 0 is one of its own; negative is padding.

    Raises ValueError for another shape or kind.
    """
    segment_BT = jnp.asarray(_rows_of("segments", segment_BT, "integers", (jnp.integer,)), jnp.int32)
    index_BT = jnp.broadcast_to(jnp.arange(segment_BT.shape[1], dtype=jnp.int32), segment_BT.shape)
    starts_BT = jnp.pad(segment_BT[:, 1:] != segment_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    first_BT = jax.lax.cummax(jnp.where(starts_BT, index_BT, 0), axis=1)
    padding_BT = segment_BT < 0
    return Coords(
        index=jnp.where(padding_BT, PADDING, index_BT),
        segment=jnp.cumsum(starts_BT, axis=1, dtype=jnp.int32) - 1,
        prefix=jnp.zeros_like(segment_BT, bool),
        pos=jnp.where(padding_BT, 0, index_BT - first_BT),
        start=first_BT,
    )


def _rows_of(name: str, values: ArrayLike, what: str, kinds: tuple[type, ...]) -> Array | np.ndarray:
    """The values as an array [B, T] of one of these kinds; raises ValueError for another shape or kind."""
    array = as_array(values)
    if array.ndim != 2 or not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise ValueError(f"{name}={shown(array)} does not fit; give {what} [batch, length]")
    return array


@compiled()
def of_index(index_BT: Array) -> Coords:
    """One segment, no prefix, positions equal to the index (0 at padding)."""
    return Coords(
        index=index_BT,
        segment=jnp.zeros_like(index_BT),
        prefix=jnp.zeros_like(index_BT, bool),
        pos=jnp.maximum(index_BT, 0),
        start=jnp.zeros_like(index_BT),
    )


@promoting()
def last(coords: Coords) -> Coords:
    """[B, 1]: where the last token of each row stands, the one of greatest index."""
    at_B = jnp.argmax(coords.index, axis=1)
    return jax.tree.map(lambda leaf: leaf[jnp.arange(coords.rows), at_B][:, None], coords)


@promoting()
def succeeding(coords: Coords) -> Coords:
    """Where the next token of the same segment stands: one further in the order and in the last stream of positions.

    It belongs to no prefix.
    """
    assert coords.pos is not None, "keys carry no positions"
    pos = coords.pos + 1 if coords.pos.ndim == 2 else coords.pos.at[..., -1].add(1)
    return replace(coords, index=coords.index + 1, prefix=jnp.zeros_like(coords.prefix), pos=pos)


def following(coords: Coords, count: int) -> Coords:
    """[B, count + 1]: tokens at coords [B, 1] and the `count` that succeed each."""
    chain = [coords]
    for _ in range(count):
        chain.append(succeeding(chain[-1]))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *chain)


@promoting()
def preceding(coords: Coords) -> Coords:
    """Where the token before stands, of the same segment: `succeeding` the other way; before the first is padding."""
    assert coords.pos is not None, "keys carry no positions"
    pos = coords.pos - 1 if coords.pos.ndim == 2 else coords.pos.at[..., -1].add(-1)
    return replace(coords, index=coords.index - 1, pos=jnp.maximum(pos, 0))


@promoting()
def without(coords: Coords, padding_BT: Array) -> Coords:
    """The coordinates with padding where `padding_BT` is true."""
    return replace(coords, index=jnp.where(padding_BT, PADDING, coords.index))


def padded_to(coords: Coords, length: int) -> Coords:
    """The coordinates with padding behind them, up to `length` tokens."""
    more = length - coords.length

    def pad(leaf: Array, fill: int) -> Array:
        return numpy_of(leaf).pad(leaf, [(0, 0), (0, more), (0, 0)][: leaf.ndim], constant_values=fill)

    return replace(jax.tree.map(lambda leaf: pad(leaf, 0), coords), index=pad(coords.index, PADDING))


def after_memory(coords: Coords, count: int) -> Coords:
    """The coordinates behind `count` memory tokens, whose positions are 0."""
    fronted = jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, 0), (count, 0), (0, 0)][: leaf.ndim]), coords)
    memory_BT = jnp.broadcast_to(jnp.arange(fronted.length) < count, fronted.index.shape)
    return replace(fronted, index=jnp.where(memory_BT, PADDING, fronted.index), memory_token=memory_BT)


def check_rows(coords: Coords, batch: int, length: int) -> None:
    """Raise ValueError unless they are Coords of `batch` rows (or one for all) of `length` tokens."""
    conform("coords", coords, Coords)
    if coords.rows not in (1, batch):
        raise ValueError(f"coords have {coords.rows} rows, tokens have {batch}; give 1 or {batch} rows")
    if coords.length != length:
        raise ValueError(f"coords have {coords.length} tokens a row, tokens have {length}; give {length}")
