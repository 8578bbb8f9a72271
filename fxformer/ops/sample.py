"""Choosing the next token: each function narrows or reshapes logits [..., V]; numbers may be traced arrays."""

import jax
import jax.numpy as jnp
from jax import Array


def temper(logits: Array, temperature: Array | float) -> Array:
    """logits / temperature; temperature 0 leaves only the most likely token."""
    temperature = jnp.asarray(temperature, logits.dtype)
    only_best = keep_top_k(logits, 1)
    return jnp.where(temperature > 0, logits / jnp.where(temperature > 0, temperature, 1), only_best)


def keep_top_k(logits: Array, k: Array | int) -> Array:
    """The k most likely tokens (the earliest ones among equals); the others get -inf. Fan et al. 2018."""
    return jnp.where(_rank(logits) < jnp.asarray(k), logits, -jnp.inf)


def keep_top_p(logits: Array, p: Array | float) -> Array:
    """The fewest most likely tokens whose probabilities reach p, always at least one. Holtzman et al. 2020."""
    order = jnp.argsort(-logits, axis=-1, stable=True)
    sorted_probability = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    before = jnp.cumsum(sorted_probability, axis=-1) - sorted_probability
    kept = jnp.take_along_axis(before, _rank(logits), axis=-1) < jnp.asarray(p)
    return jnp.where(kept | (_rank(logits) == 0), logits, -jnp.inf)


def keep_min_p(logits: Array, p: Array | float) -> Array:
    """Tokens at least p times as likely as the most likely one. Nguyen et al. 2024."""
    logp = jax.nn.log_softmax(logits, axis=-1)
    return jnp.where(logp >= jnp.max(logp, axis=-1, keepdims=True) + jnp.log(jnp.asarray(p)), logits, -jnp.inf)


def choose(key: Array, logits: Array) -> Array:
    """Draw one token from softmax(logits): int32 [...]."""
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)


def _rank(logits: Array) -> Array:
    """How many tokens are more likely (or equal and earlier), int [..., V]."""
    return jnp.argsort(jnp.argsort(-logits, axis=-1, stable=True), axis=-1)
