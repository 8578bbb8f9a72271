"""Losses on logits, reduced in float32, in nats."""

import jax
import jax.numpy as jnp
from jax import Array

from fxformer.jit import promoting


@promoting()
def cross_entropy(logits: Array, targets: Array) -> Array:
    """-log softmax(logits)[target] of each token in nats; logits [..., V], integer targets [...] -> float32 [...]."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


@promoting()
def z_loss(logits: Array) -> Array:
    """(log Z)^2 of each token: keeps output logits from drifting. Chowdhery et al. 2022, section 5."""
    return jnp.square(jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1))


@promoting()
def weighted_mean(values: Array, weights: Array) -> Array:
    """sum(values * weights) / sum(weights); zero where all weights are zero."""
    total = jnp.sum(weights)
    return jnp.sum(values * weights) / jnp.where(total == 0, 1, total)


@promoting()
def divergence(p: Array, logits: Array, seen: Array) -> Array:
    """KL(p || q) of each row in nats, q the softmax of `logits` over what is `seen`; p is 0 elsewhere."""
    logits = jnp.where(seen, logits.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    return jnp.sum(jax.scipy.special.xlogy(p, p) - p * jax.nn.log_softmax(logits, axis=-1), axis=-1)
