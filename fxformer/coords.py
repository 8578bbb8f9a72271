"""Where tokens stand. Masks, biases, rotations and caches see coordinates, never array offsets."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

PADDING = -1


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Coords:
    """Coordinates of T tokens in B rows; a leading axis of size 1 stands for every row of a batch.

    index: int32 [B, T], the order of tokens (masks, biases, cache slots); negative means padding.
    segment: int32 [B, T], tokens attend only within their own segment (packed documents).
    prefix: bool [B, T], tokens that `Prefix()` lets everyone see.
    pos: int32 [B, T] or [B, T, 2], what position encodings see; None for keys, which are encoded already.
    """

    index: Array
    segment: Array
    prefix: Array
    pos: Array | None = None

    @property
    def length(self) -> int:
        """Number of tokens T in each row, padding included."""
        return self.index.shape[1]

    @property
    def rows(self) -> int:
        """Size of the leading axis: the batch, or 1 where all rows agree."""
        return self.index.shape[0]

    @property
    def positions(self) -> Array:
        """`pos` of tokens that are still to be encoded."""
        assert self.pos is not None, "keys carry no positions"
        return self.pos

    def slice(self, start: int, stop: int) -> "Coords":
        """The coordinates of tokens `start` to `stop` (exclusive)."""
        return jax.tree.map(lambda leaf: leaf[:, start:stop], self)


def plain(length: int, *, start: Array | int = 0) -> Coords:
    """Tokens `start`, `start + 1`, … of one document; `start` is a number, or [B] for rows that differ."""
    index_BT = jnp.atleast_1d(jnp.asarray(start, jnp.int32))[:, None] + jnp.arange(length, dtype=jnp.int32)
    return of_index(index_BT)


def padded(valid_BT: Array) -> Coords:
    """Rows with padding anywhere: tokens where `valid_BT` is true are counted from 0, the others are padding."""
    valid_BT = jnp.asarray(valid_BT, bool)
    count_BT = jnp.cumsum(valid_BT, axis=1, dtype=jnp.int32) - 1
    return of_index(jnp.where(valid_BT, count_BT, PADDING))


def packed(segment_BT: Array) -> Coords:
    """Several documents in a row: each run of equal `segment_BT` >= 0 is one of its own; negative is padding."""
    segment_BT = jnp.asarray(segment_BT, jnp.int32)
    index_BT = jnp.broadcast_to(jnp.arange(segment_BT.shape[1], dtype=jnp.int32), segment_BT.shape)
    starts_BT = jnp.pad(segment_BT[:, 1:] != segment_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    first_BT = jax.lax.cummax(jnp.where(starts_BT, index_BT, 0), axis=1)
    padding_BT = segment_BT < 0
    return Coords(
        index=jnp.where(padding_BT, PADDING, index_BT),
        segment=jnp.cumsum(starts_BT, axis=1, dtype=jnp.int32) - 1,
        prefix=jnp.zeros_like(segment_BT, bool),
        pos=jnp.where(padding_BT, 0, index_BT - first_BT),
    )


def of_index(index_BT: Array) -> Coords:
    """One segment, no prefix, positions equal to the index (0 at padding)."""
    return Coords(
        index=index_BT,
        segment=jnp.zeros_like(index_BT),
        prefix=jnp.zeros_like(index_BT, bool),
        pos=jnp.maximum(index_BT, 0),
    )


def check_rows(coords: Coords, batch: int, length: int) -> None:
    """Raise ValueError unless `coords` describe `batch` rows (or one for all) of `length` tokens."""
    if coords.rows not in (1, batch):
        raise ValueError(f"coords have {coords.rows} rows, tokens have {batch}; give 1 or {batch} rows")
    if coords.length != length:
        raise ValueError(f"coords have {coords.length} tokens a row, tokens have {length}; give {length}")


def largest(index_BT: Array) -> int | None:
    """The largest index as a Python number, or None where it is traced and cannot be known."""
    return None if isinstance(index_BT, jax.core.Tracer) else int(np.max(np.asarray(index_BT), initial=PADDING))
