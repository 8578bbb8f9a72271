"""Choosing the next token: each function narrows or reshapes logits [..., V].

A number may be a traced array, one for all rows or [...] with one for each. Everything is computed in float32 where
logits are of less: 8 bits tell neither 200,000 tokens apart nor 0.95 from 0.949.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from fxformer.jit import promoting

COLDEST = 1e-30  # a lower temperature is 0: what is divided by it may overflow
ROUNDING = 2.0**-23  # of float32
SLIVER = 2.0**-8  # of a token's probability


@promoting()
def temper(logits: Array, temperature: ArrayLike) -> Array:
    """logits / temperature, in float32 or more; temperature 0 leaves only the most likely token."""
    logits = precise(logits)
    temperature = _of_rows(temperature, logits)
    best = jnp.argmax(logits, axis=-1, keepdims=True) == jnp.arange(logits.shape[-1])
    warm = temperature >= COLDEST
    return jnp.where(warm, logits / jnp.where(warm, temperature, 1), jnp.where(best, logits, -jnp.inf))


@promoting()
def keep_top_k(logits: Array, k: ArrayLike) -> Array:
    """The k most likely tokens (the earliest ones among equals); the others get -inf. Fan et al. 2018."""
    return jnp.where(_rank(_order(logits)) < _of_rows(k, logits), logits, -jnp.inf)


@promoting()
def keep_top_p(logits: Array, p: ArrayLike) -> Array:
    """The fewest most likely tokens whose probabilities reach p, at least one; p = 1 keeps all. Holtzman et al. 2020.

    A token is left out where it and all less likely ones have 1 - p at most: sums that begin at the least are exact
    where it matters, however many tokens there are. What lacks no more than rounding takes away reaches p.
    """
    order = _order(logits)
    sorted_logits = precise(jnp.take_along_axis(logits, order, axis=-1))
    share = jnp.exp(sorted_logits - sorted_logits[..., :1])
    from_here = jax.lax.cumsum(share, axis=share.ndim - 1, reverse=True)
    total = from_here[..., :1]
    spare = _of_rows(1.0 - p, share)
    rounding = jnp.minimum(ROUNDING * total, SLIVER * share)
    kept = (from_here - spare * total > rounding) | (spare <= 0)
    kept = kept.at[..., 0].set(True)
    return jnp.where(jnp.take_along_axis(kept, _rank(order), axis=-1), logits, -jnp.inf)


@promoting()
def keep_min_p(logits: Array, p: ArrayLike) -> Array:
    """Tokens at least p times as likely as the most likely one, but for rounding. Nguyen et al. 2024."""
    behind = precise(logits) - jnp.max(precise(logits), axis=-1, keepdims=True)
    least = jnp.log(_of_rows(p, behind))
    return jnp.where(behind >= least - 8 * ROUNDING, logits, -jnp.inf)


@promoting()
def penalise(logits: Array, seen: Array, penalty: ArrayLike) -> Array:
    """Where `seen` [..., V]: positive logits over the penalty, negative ones times it. Keskar et al. 2019 (CTRL).

    In float32 or more.
    """
    logits = precise(logits)
    penalty = _of_rows(penalty, logits)
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


@promoting()
def choose(key: Array, logits: Array) -> Array:
    """Draw one token from softmax(logits): int32 [...]."""
    return jax.random.categorical(key, precise(logits), axis=-1).astype(jnp.int32)


def precise(logits: Array) -> Array:
    """The logits in float32, or in what they are where that is more."""
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _of_rows(number: ArrayLike, logits: Array) -> Array:
    """The number as an array that broadcasts against logits."""
    number = jnp.asarray(number)
    number = number.astype(logits.dtype) if jnp.issubdtype(number.dtype, jnp.floating) else number
    return number[..., None] if number.ndim else number


def _order(logits: Array) -> Array:
    """Tokens from the most likely to the least, the earlier one first among equals."""
    return jnp.argsort(-logits, axis=-1, stable=True)


def _rank(order: Array) -> Array:
    """Where each token stands in the order: its inverse permutation."""
    return jnp.put_along_axis(
        jnp.zeros_like(order), order, jnp.broadcast_to(jnp.arange(order.shape[-1]), order.shape), axis=-1, inplace=False
    )
