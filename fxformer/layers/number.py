"""Numbers of a spec where they meet activations."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def like(number: ArrayLike, x: Array) -> Array:
    """The number in the dtype of `x`. Python's own take it by themselves; NumPy's and traced ones would widen `x`."""
    return jnp.asarray(number, x.dtype)


def weighted(number: ArrayLike, x: Array) -> Array:
    """number * x in the dtype of `x`, and `x` itself where the number is Python's 1: that is no operation."""
    return x if isinstance(number, float) and number == 1 else like(number, x) * x
