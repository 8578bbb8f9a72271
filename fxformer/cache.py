"""The cache: a pytree of per-token records that the caller owns, with one `extend` for every attention kind.

A `Table` holds the records of one attention layer: what each token left behind (keys and values for GQA) and where
that token stands. Tokens go to slot `index % capacity`, so a sliding window is the same code as a full cache. What
belongs to one head lies together, [B, G, S, K], as the products of a decoding step want it: no copy is made of it.
A cache is forked with `fork`, taken back with `rollback`, and saved like any pytree.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from fxformer.coords import PADDING, Coords, after_memory
from fxformer.fields import LAST, shown
from fxformer.jit import as_array, known, promoting, traced
from fxformer.written import Brief

Records = dict[str, Array]  # name -> [B, T or S, …, K]
Sizes = Mapping[str, Mapping[str, int]]  # name of a record -> letter of the alphabet -> size, of one token


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, repr=False)
class Int8(Brief):
    """Vectors in 8 bits: value / scale rounded, with one float32 scale for the last axis of each token's record.

    values: int8 [..., K]. scale: float32 [..., 1], the largest absolute value over 127.
    """

    values: Array
    scale: Array


Stored = Array | Int8


def store(record: Array, dtype: DTypeLike) -> Stored:
    """A record as a table of `dtype` keeps it."""
    if jnp.dtype(dtype) != jnp.int8:
        return record.astype(dtype)
    record = record.astype(jnp.float32)
    scale = jnp.max(jnp.abs(record), axis=-1, keepdims=True) / 127
    return Int8(jnp.rint(record / jnp.where(scale > 0, scale, 1)).astype(jnp.int8), scale)


def recall(stored: Stored, dtype: DTypeLike) -> Array:
    """What was stored, to the precision it was stored in."""
    return (stored.values * stored.scale if isinstance(stored, Int8) else stored).astype(dtype)


def _kept_as(stored: Stored) -> jnp.dtype:
    return jnp.dtype(jnp.int8) if isinstance(stored, Int8) else stored.dtype


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, repr=False)
class Table(Brief):
    """Records of up to `capacity` tokens and their coordinates; an empty slot has a negative index.

    records: name -> [B, …, capacity, K]. coords: [B, capacity]. reach: how far back queries look, None for no limit.
    """

    records: dict[str, Stored]
    coords: Coords
    reach: int | None = field(metadata={"static": True})

    @property
    def capacity(self) -> int:
        """Number of slots."""
        return self.coords.index.shape[-1]

    @property
    def wraps(self) -> bool:
        """Whether later tokens take the slots of those that no query sees any more."""
        return self.reach is not None and self.capacity >= self.reach


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, repr=False)
class CrossTable(Brief):
    """Records of an encoder's tokens: written whole when the encoder has run, then read at every step.

    records: name -> [B, …, capacity, K]. coords: [B, capacity]; an empty slot has a negative index.
    """

    records: dict[str, Stored]
    coords: Coords


class Seen(NamedTuple):
    """What queries look at: records by name [B, S, …], and where their tokens stand."""

    records: Records
    coords: Coords


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, repr=False)
class Cache(Brief):
    """What a model remembers.

    tables: a `Table` for each attention and a `CrossTable` for each cross-attention, in the tree of the model's stack,
    stacked on the layer axis where a group has one.
    length_B: int32 [B], tokens remembered in each row: the index of the next one.
    """

    tables: Any
    length_B: Array

    @property
    def capacity(self) -> int | None:
        """Tokens a row can hold: the least over the tables that keep all they are asked for, None if all wrap."""
        return min((table.capacity for table in _tables(self.tables) if not table.wraps), default=None)

    @property
    def overflow_B(self) -> Array:
        """bool [B]: rows that were given more tokens than they can hold; what they say since then is wrong."""
        return self.length_B > (LAST if self.capacity is None else self.capacity)

    @property
    def nbytes(self) -> int:
        """Bytes of all records; coordinates, a few integers a slot, are not counted."""
        holders = (Table, CrossTable)
        nodes = jax.tree.leaves(self.tables, is_leaf=lambda node: isinstance(node, holders))
        leaves = jax.tree.leaves([node.records for node in nodes if isinstance(node, holders)])
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def _tables(tables: Any) -> list[Table]:
    nodes = jax.tree.leaves(tables, is_leaf=lambda node: isinstance(node, Table))
    return [node for node in nodes if isinstance(node, Table)]


def empty_table(sizes: Sizes, *, batch: int, length: int, reach: int | None, dtype: DTypeLike, spare: int = 0) -> Table:
    """A table with room for `length` tokens, or for the `reach` of the mask and `spare` more where that is less."""
    capacity = length if reach is None else min(length, reach + spare)
    blank = jnp.zeros((batch, capacity), jnp.int32)
    return Table(
        {name: store(jnp.zeros(_shape(batch, capacity, of)), dtype) for name, of in sizes.items()},
        Coords(index=blank + PADDING, segment=blank, prefix=blank.astype(bool)),
        reach,
    )


def _shape(batch: int, capacity: int, sizes: Mapping[str, int]) -> tuple[int, ...]:
    *heads, width = sizes.values()
    return (batch, *heads, capacity, width)


def empty_cross_table(sizes: Sizes, *, batch: int, length: int, dtype: DTypeLike) -> CrossTable:
    """A table with room for `length` tokens of an encoder."""
    table = empty_table(sizes, batch=batch, length=length, reach=None, dtype=dtype)
    return CrossTable(table.records, table.coords)


@promoting()
def fill(table: CrossTable, records: Records, coords: Coords) -> CrossTable:
    """The table with these records instead of what it held; raises ValueError where they are too many."""
    batch, capacity = table.coords.index.shape
    if coords.length > capacity:
        raise ValueError(f"encoder of {coords.length} tokens does not fit a cache made for {capacity}")
    blank = CrossTable(table.records, replace(table.coords, index=jnp.full_like(table.coords.index, PADDING)))

    new = CrossTable(jax.tree.map(_by_head, _stored_like(table, records)), coords.as_keys)

    def write(old: Array, new: Array) -> Array:
        new = jnp.broadcast_to(new, (batch, *new.shape[1:]))
        return jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0,) * old.ndim)

    return jax.tree.map(write, blank, new)


@promoting()
def look(table: Table | CrossTable, dtype: DTypeLike) -> Seen:
    """All that a table holds, in `dtype`."""
    records = {name: recall(stored, dtype) for name, stored in table.records.items()}
    return Seen({name: jnp.moveaxis(record, -2, 1) for name, record in records.items()}, table.coords)


def _by_head(record: Array) -> Array:
    """[B, T, …, K] as a table keeps it: [B, …, T, K]."""
    return jnp.moveaxis(record, 1, -2)


@promoting()
def extend(table: Table, records: Records, coords: Coords, memory_tokens: int = 0) -> tuple[Table, Seen]:
    """Add the records of T new tokens: (what is kept, what the new tokens look at).

    They differ where a window is shorter than the chunk: the first queries of the chunk still need records that its
    last tokens overwrite, so the chunk looks at the old table and itself side by side. What is looked at has the dtype
    of the new records. memory_tokens: how many of them stand before the text; they are not kept but looked at, for the
    model makes them again at every call. A row that went back, to a place before tokens it remembers, forgets those. A
    token beyond the end of a table that does not wrap is not kept; see `Cache.overflow_B`.
    """
    batch, capacity = table.coords.index.shape
    new_index_BT = coords.index
    table = _before(table, jnp.min(jnp.where(new_index_BT >= 0, new_index_BT, LAST), axis=1))
    slot_BT = new_index_BT
    if table.wraps:
        newest_B1 = jnp.max(new_index_BT, axis=1, keepdims=True)
        slot_BT = jnp.where(new_index_BT > newest_B1 - capacity, new_index_BT % capacity, capacity)
    slot_BT = jnp.broadcast_to(jnp.where(new_index_BT >= 0, slot_BT, capacity), (batch, coords.length))
    row_B1 = jnp.arange(batch)[:, None]

    def write(old: Array, new: Array) -> Array:
        between = (slice(None),) * (old.ndim - 3)
        return old.at[(row_B1, *between, slot_BT)].set(new.astype(old.dtype), mode="drop")

    new = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (batch, *x.shape[1:])),
        Table(_stored_like(table, records), coords.as_keys, table.reach),
    )
    kept = jax.tree.map(write, table, new)
    seen = kept
    text = coords.length - memory_tokens
    if table.reach is not None and table.wraps and capacity < table.reach + text - 1:
        seen = Table(
            jax.tree.map(lambda old, x: _beside(old, _by_head(x), -2), table.records, new.records),
            jax.tree.map(lambda old, x: _beside(old, x, 1), table.coords, new.coords),
            table.reach,
        )
    recalled = look(seen, next(iter(records.values())).dtype)
    return kept, _behind_memory(recalled, records, memory_tokens) if memory_tokens else recalled


def _behind_memory(seen: Seen, records: Records, count: int) -> Seen:
    """What is seen behind the first `count` of the new records."""
    fronted = {name: _beside(records[name][:, :count], record, 1) for name, record in seen.records.items()}
    return Seen(fronted, after_memory(seen.coords, count))


def _beside(old: Array, new: Array, axis: int) -> Array:
    return jnp.concatenate([old, new.astype(old.dtype)], axis=axis)


def _stored_like(table: Table | CrossTable, records: Records) -> dict[str, Stored]:
    return {name: store(record, _kept_as(table.records[name])) for name, record in records.items()}


def _before(table: Table, first_B: Array) -> Table:
    """The table as it was before token `first_B` of each row: that and later ones are empty slots."""
    older_BS = table.coords.index < first_B[..., None]
    return replace(table, coords=replace(table.coords, index=jnp.where(older_BS, table.coords.index, PADDING)))


def advance(cache: Cache, tables: Any, coords: Coords) -> Cache:
    """The cache after a chunk: new tables, and lengths that count up to its last token; a row of padding stays."""
    newest_B = jnp.max(coords.index, axis=1)
    return Cache(tables, jnp.where(newest_B >= 0, newest_B + 1, cache.length_B))


@promoting()
def fork(cache: Cache, rows: ArrayLike) -> Cache:
    """A cache whose row i is row `rows[i]` of this one: beams that go on, or one prompt that goes on in several ways.

    Raises ValueError for what are no rows, and for a row that is not there, where that can be known.
    """
    batch, rows = cache.length_B.shape[0], as_array(rows)
    if rows.ndim != 1 or not rows.size or not jnp.issubdtype(rows.dtype, jnp.integer):
        raise ValueError(f"fork takes rows as integers [n], 1 or more; these are {shown(rows)}")
    numbers = known(rows)
    if numbers is not None and (numbers.min() < 0 or numbers.max() >= batch):
        wrong = numbers[(numbers < 0) | (numbers >= batch)][0]
        raise ValueError(f"fork takes row {wrong} of a cache of {batch} rows; use 0 to {batch - 1}")
    rows_N = jnp.asarray(rows)

    def of_rows(table: Table | CrossTable) -> Table | CrossTable:
        return jax.tree.map(lambda leaf: jnp.take(leaf, rows_N, axis=table.coords.index.ndim - 2), table)

    tables = jax.tree.map(of_rows, cache.tables, is_leaf=lambda node: isinstance(node, Table | CrossTable))
    return Cache(tables, cache.length_B[rows_N])


@promoting()
def rollback(cache: Cache, length: ArrayLike) -> Cache:
    """The cache as it was when its rows had `length` tokens, a number or int [B]; a row that has fewer stays as it is.

    A window has overwritten what it saw then: a cache made with spare=n can go back n + 1 tokens, and any cache to a
    place before its windows wrapped. Raises ValueError where it cannot, if that can be known.
    """
    length = as_array(length)
    if length.shape not in ((), cache.length_B.shape) or not jnp.issubdtype(length.dtype, jnp.integer):
        rows = cache.length_B.shape[0]
        raise ValueError(f"rollback is to {length.dtype} {list(length.shape)}; give an integer, or [{rows}] of them")
    places = known(length)
    if places is not None:
        if places.min() < 0:
            raise ValueError(f"rollback to {places.min()} tokens is further than the beginning; use 0 or more")
        length = np.minimum(places, LAST).astype(np.int32)
        if not traced(cache):
            _check_rollback(cache, np.minimum(np.asarray(cache.length_B), length))
    length_B = jnp.minimum(cache.length_B, length)

    def back(node: Any) -> Any:
        return _before(node, length_B) if isinstance(node, Table) else node

    return Cache(jax.tree.map(back, cache.tables, is_leaf=lambda node: isinstance(node, Table)), length_B)


def _check_rollback(cache: Cache, length_B: np.ndarray) -> None:
    """Raise ValueError where a window has lost what is seen from there."""
    goes_B = length_B < np.asarray(cache.length_B)
    for table in _tables(cache.tables):
        if table.reach is None or not table.wraps:
            continue
        index_LBS = np.asarray(table.coords.index).reshape(-1, len(length_B), table.capacity)
        oldest_B = np.where(index_LBS >= 0, index_LBS, LAST).min(axis=(0, 2))
        first_B = np.maximum(length_B - table.reach + 1, 0)
        lost_B = np.where(goes_B & (first_B < length_B), oldest_B - first_B, 0)
        if lost_B.max() > 0:
            row = int(lost_B.argmax())
            raise ValueError(
                f"a window of {table.reach} tokens that keeps {table.capacity} cannot go back to {length_B[row]}: "
                f"token {first_B[row]} is overwritten; make the cache with "
                f"spare={table.capacity - table.reach + lost_B[row]} or more"
            )
