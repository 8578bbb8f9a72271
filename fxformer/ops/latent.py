"""Multi-head latent attention without keys and values: the matrices that would make them act on queries and outputs.

q . (W_UK c) = (W_UK^T q) . c and sum_s p_s (W_UV c_s) = W_UV (sum_s p_s c_s). DeepSeek-AI 2024 (V2), section 2.1.2.
"""

import jax.numpy as jnp
from jax import Array


def fold(q_BTHK: Array, key_up_RHK: Array) -> Array:
    """W_UK^T q: queries [B, T, H, R] that are compared with latents as they would be with the keys made of them."""
    return jnp.einsum("bthk,rhk->bthr", q_BTHK, key_up_RHK.astype(q_BTHK.dtype))


def unfold(y_BTHR: Array, value_up_RHU: Array) -> Array:
    """W_UV y: weighted latents of each head to the weighted values [B, T, H, U]."""
    return jnp.einsum("bthr,rhu->bthu", y_BTHR, value_up_RHU.astype(y_BTHR.dtype))


def absorbed_is_cheaper(tokens: int, seen: int, latent: int, rope: int, key: int, value: int) -> bool:
    """Does it take fewer multiplications a head to fold than to expand `seen` latents? Yes where few queries look.

    Folded T R (K + U) + T S (2 R + P); expanded S R (K + U) + T S (K + P + U).
    """
    maps = latent * (key + value)
    return tokens * maps + tokens * seen * (2 * latent + rope) < seen * maps + tokens * seen * (key + rope + value)
