"""The cache: a pytree of per-token records that the caller owns, with one `extend` for every attention kind.

A `Table` holds the records of one attention layer: what each token left behind (keys and values for GQA) and where
that token stands. Tokens go to slot `index % capacity`, so a sliding window is the same code as a full cache.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from fxformer.coords import PADDING, Coords

Records = dict[str, Array]  # name -> [B, T or S, …]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Table:
    """Records of up to `capacity` tokens and their coordinates; an empty slot has a negative index.

    records: name -> [B, capacity, …]. coords: [B, capacity]. reach: how far back queries look, None for no limit.
    """

    records: Records
    coords: Coords
    reach: int | None = field(metadata={"static": True})

    @property
    def capacity(self) -> int:
        """Number of slots."""
        return self.coords.index.shape[-1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Cache:
    """What a model remembers.

    tables: one `Table` for each attention, in the tree of the model's stack, stacked on the layer axis.
    length_B: int32 [B], tokens remembered in each row: the index of the next one.
    """

    tables: Any
    length_B: Array

    @property
    def capacity(self) -> int | None:
        """Tokens a row can hold: the least over the tables that keep all they are asked for, None if all wrap."""
        tables = jax.tree.leaves(self.tables, is_leaf=lambda node: isinstance(node, Table))
        return min((t.capacity for t in tables if t.reach is None or t.capacity < t.reach), default=None)


def empty_table(
    shapes: dict[str, tuple[int, ...]], *, batch: int, length: int, reach: int | None, dtype: DTypeLike
) -> Table:
    """A table with room for `length` tokens, or for the `reach` of the mask where that is less."""
    capacity = length if reach is None else min(length, reach)
    blank = jnp.zeros((batch, capacity), jnp.int32)
    return Table(
        {name: jnp.zeros((batch, capacity, *shape), dtype) for name, shape in shapes.items()},
        Coords(index=blank + PADDING, segment=blank, prefix=blank.astype(bool)),
        reach,
    )


def extend(table: Table, records: Records, coords: Coords) -> tuple[Table, Table]:
    """Add the records of T new tokens: (what is kept, what the new tokens look at).

    They differ where a window is shorter than the chunk: the first queries of the chunk still need records that its
    last tokens overwrite, so the chunk looks at the old table and itself side by side. A row that went back, to a place
    before tokens it remembers, forgets those.
    """
    batch, capacity = table.coords.index.shape
    new_index_BT = coords.index
    table = _before(table, new_index_BT)
    newest_B1 = jnp.max(new_index_BT, axis=1, keepdims=True)
    kept_BT = (new_index_BT >= 0) & (new_index_BT > newest_B1 - capacity)
    slot_BT = jnp.broadcast_to(jnp.where(kept_BT, new_index_BT % capacity, capacity), (batch, coords.length))
    row_B1 = jnp.arange(batch)[:, None]

    def write(old: Array, new: Array) -> Array:
        return old.at[row_B1, slot_BT].set(new.astype(old.dtype), mode="drop")

    new = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape[1:])), Table(records, coords, table.reach))
    new = replace(new, coords=replace(new.coords, pos=None))
    kept = jax.tree.map(write, table, new)
    if table.reach is None or coords.length == 1 or capacity >= table.reach + coords.length - 1:
        return kept, kept
    return kept, jax.tree.map(lambda old, x: jnp.concatenate([old, x.astype(old.dtype)], axis=1), table, new)


def _before(table: Table, new_index_BT: Array) -> Table:
    """The table as it was before the first of the new tokens: later records are empty slots."""
    index_BT = jnp.where(new_index_BT >= 0, new_index_BT, jnp.iinfo(jnp.int32).max)
    older_BS = table.coords.index < jnp.min(index_BT, axis=1, keepdims=True)
    return replace(table, coords=replace(table.coords, index=jnp.where(older_BS, table.coords.index, PADDING)))


def advance(cache: Cache, tables: Any, coords: Coords) -> Cache:
    """The cache after a chunk: new tables, and lengths that count its tokens."""
    return Cache(tables, jnp.maximum(cache.length_B, jnp.max(coords.index, axis=1) + 1))
