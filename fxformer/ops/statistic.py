"""Statistics of a batch that its parts can say together: what is kept of each part, and the number that it stands for.

`value` is the number. `pooled` takes equal parts of one batch, stacked on a new leading axis, to the whole of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array


class Statistic(Protocol):
    """A pytree that has both."""

    @property
    def value(self) -> Array: ...

    def pooled(self) -> "Statistic": ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Largest:
    """The largest of some numbers."""

    value: Array

    def pooled(self) -> "Largest":
        return Largest(jnp.max(self.value, axis=0))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Mean:
    """total / count of what there may be none of: then 0."""

    total: Array
    count: Array

    @property
    def value(self) -> Array:
        return self.total / jnp.maximum(self.count, 1)

    def pooled(self) -> "Mean":
        return Mean(jnp.sum(self.total, axis=0), jnp.sum(self.count, axis=0))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Root:
    """sqrt(over) of a mean over the batch, or sqrt(over) / sqrt(under) of two."""

    over: Array
    under: Array

    @property
    def value(self) -> Array:
        return jnp.sqrt(self.over) / jnp.sqrt(self.under)

    def pooled(self) -> "Root":
        return Root(jnp.mean(self.over, axis=0), jnp.mean(self.under, axis=0))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Rows:
    """Something of each row, [B, …]; pooled [parts, layers, B / parts, …] -> [layers, B, …].

    Part i has rows i + parts k.
    """

    value: Array

    def pooled(self) -> "Rows":
        value = jnp.moveaxis(self.value, 0, 2)
        return Rows(value.reshape(value.shape[0], -1, *value.shape[3:]))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Whole:
    """What is of the batch as a whole, and cannot be said of its parts."""

    value: Array

    def pooled(self) -> "Whole":
        raise ValueError("a statistic of the whole batch is not one of its parts; give the batch at once")


def numbers(statistics: Mapping[str, Statistic]) -> dict[str, Array]:
    """What each of them stands for, by its name."""
    return {name: statistic.value for name, statistic in statistics.items()}
