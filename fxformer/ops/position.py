"""Absolute positions as fixed vectors."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from fxformer.jit import promoting


@promoting()
def sinusoids(pos_BT: Array, width: int, *, base: float = 10_000.0) -> Array:
    """float32 [B, T, width]: channel 2i is sin(pos / base^(2i / width)), channel 2i + 1 its cosine.

    Vaswani et al. 2017, section 3.5.
    """
    rate_P = base ** (-np.arange(0, width, 2) / width)
    phase_BTP = pos_BT[..., None].astype(jnp.float32) * jnp.asarray(rate_P, jnp.float32)
    pairs_BTP2 = jnp.stack([jnp.sin(phase_BTP), jnp.cos(phase_BTP)], axis=-1)
    return pairs_BTP2.reshape(*pos_BT.shape, -1)[..., :width]
