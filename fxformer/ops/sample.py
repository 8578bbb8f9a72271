"""Choosing the next token: each function narrows or reshapes logits [..., V].

A number may be a traced array, one for all rows or [...] with one for each.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from fxformer.jit import promoting


@promoting()
def temper(logits: Array, temperature: ArrayLike) -> Array:
    """logits / temperature; temperature 0 leaves only the most likely token."""
    temperature = _of_rows(temperature, logits)
    best = jnp.argmax(logits, axis=-1, keepdims=True) == jnp.arange(logits.shape[-1])
    cold = jnp.where(best, logits, -jnp.inf)
    return jnp.where(temperature > 0, logits / jnp.where(temperature > 0, temperature, 1), cold)


@promoting()
def keep_top_k(logits: Array, k: ArrayLike) -> Array:
    """The k most likely tokens (the earliest ones among equals); the others get -inf. Fan et al. 2018."""
    return jnp.where(_rank(_order(logits)) < _of_rows(k, logits), logits, -jnp.inf)


@promoting()
def keep_top_p(logits: Array, p: ArrayLike) -> Array:
    """The fewest most likely tokens whose probabilities reach p, always at least one. Holtzman et al. 2020."""
    order = _order(logits)
    sorted_probability = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    before = jnp.cumsum(sorted_probability, axis=-1) - sorted_probability
    kept = (before < _of_rows(p, logits)).at[..., 0].set(True)
    return jnp.where(jnp.take_along_axis(kept, _rank(order), axis=-1), logits, -jnp.inf)


@promoting()
def keep_min_p(logits: Array, p: ArrayLike) -> Array:
    """Tokens at least p times as likely as the most likely one. Nguyen et al. 2024."""
    logp = jax.nn.log_softmax(logits, axis=-1)
    least = jnp.max(logp, axis=-1, keepdims=True) + jnp.log(_of_rows(p, logits))
    return jnp.where(logp >= least, logits, -jnp.inf)


@promoting()
def penalise(logits: Array, seen: Array, penalty: ArrayLike) -> Array:
    """Where `seen` [..., V]: positive logits over the penalty, negative ones times it. Keskar et al. 2019 (CTRL)."""
    penalty = _of_rows(penalty, logits)
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


@promoting()
def choose(key: Array, logits: Array) -> Array:
    """Draw one token from softmax(logits): int32 [...]."""
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)


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
