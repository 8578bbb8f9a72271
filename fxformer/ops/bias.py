"""Logit biases: pytrees with `(q_index_BT, k_index_BS) -> bias [B, H, T, S]`, added to attention logits."""

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fxformer.jit import compiled


def buckets_by_distance(count: int, max_distance: int) -> np.ndarray:
    """int [max_distance + 1]: T5's bucket of each distance 0 … max_distance, one-sided.

    The first half of the buckets are exact, the rest logarithmic. Built on the host: boundary distances sit exactly
    on the edge of a floor, which an accelerator's logarithm would miss. Raffel et al. 2020, section 2.1; code.
    """
    check_buckets(count, max_distance)
    exact = count // 2
    distance = np.arange(max_distance + 1)
    ratio = np.log(np.maximum(distance, 1) / exact) / math.log(max_distance / exact)
    logarithmic = exact + (ratio * (count - exact)).astype(int)
    return np.where(distance < exact, distance, np.minimum(logarithmic, count - 1))


def check_buckets(count: int, max_distance: int) -> None:
    """Raise ValueError where the exact or the logarithmic half of the buckets is empty."""
    exact = count // 2
    if exact < 1 or max_distance <= exact:
        raise ValueError(f"{count} buckets for distances up to {max_distance}; use 2 or more for at least as many")


@compiled(static=("count", "max_distance", "bidirectional"))
def t5_buckets(relative: Array, *, count: int, max_distance: int, bidirectional: bool) -> Array:
    """The bucket of each relative position `key - query`; bidirectional gives half of them to keys on the right."""
    count = count // 2 if bidirectional else count
    side = jnp.where(relative > 0, count, 0) if bidirectional else 0
    distance = jnp.abs(relative) if bidirectional else jnp.maximum(-relative, 0)
    table = jnp.asarray(buckets_by_distance(count, max_distance), jnp.int32)
    return side + table[jnp.minimum(distance, max_distance)]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BucketBias:
    """T5's bias: a learned number for each head and bucket of the distance. `table_XH`: [buckets, heads]."""

    table_XH: Array
    max_distance: int = field(metadata={"static": True})
    bidirectional: bool = field(metadata={"static": True})

    def __call__(self, q_index_BT: Array, k_index_BS: Array) -> Array:
        bucket_BTS = t5_buckets(
            k_index_BS[:, None, :] - q_index_BT[:, :, None],
            count=self.table_XH.shape[0],
            max_distance=self.max_distance,
            bidirectional=self.bidirectional,
        )
        return jnp.moveaxis(self.table_XH[bucket_BTS], -1, 1)


def alibi_slopes(heads: int) -> np.ndarray:
    """float [H]: 2^(-8/H), 2^(-16/H), …; other head counts interleave the next power of two. Press et al. 2022."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = 2.0 ** (-8 / power * np.arange(1, power + 1))
    between = 2.0 ** (-4 / power * np.arange(1, 2 * power + 1, 2))
    return np.concatenate([slopes, between])[:heads]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DistanceBias:
    """ALiBi: each head subtracts its slope times the distance. `slope_H`: [heads]. Press et al. 2022, section 3."""

    slope_H: Array

    def __call__(self, q_index_BT: Array, k_index_BS: Array) -> Array:
        distance_BTS = jnp.abs(k_index_BS[:, None, :] - q_index_BT[:, :, None]).astype(jnp.float32)
        return -self.slope_H[:, None, None] * distance_BTS[:, None]


LogitBias = BucketBias | DistanceBias
