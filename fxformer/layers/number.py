"""Numbers of a spec where they meet activations."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def like(number: ArrayLike, x: Array) -> Array:
    """The number in the dtype of `x`. Python's own take it by themselves; NumPy's and traced ones would widen `x`."""
    return jnp.asarray(number, x.dtype)
