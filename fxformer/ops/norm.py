"""Normalisation formulas: `(x_f32, eps) -> x_hat` over the last axis; gain and bias are the caller's.

A new norm is one function and one line in NORMS.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.lax import rsqrt


def layer(x: Array, eps: float) -> Array:
    """(x - mean(x)) / sqrt(var(x) + eps), population variance. Ba, Kiros & Hinton 2016, eq. 3."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return rms(centred, eps)


def rms(x: Array, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps). Zhang & Sennrich 2019, eq. 4."""
    return x * rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)


def none(x: Array, eps: float) -> Array:
    """x unchanged: the ablation of the norm itself."""
    return x


NORMS: dict[str, Callable[[Array, float], Array]] = {
    "layer": layer,
    "rms": rms,
    "none": none,
}


def normalise(x: Array, scale: Array | None, bias: Array | None, *, kind: str, eps: float) -> Array:
    """NORMS[kind](x) * scale + bias, reduced in float32, returned in the dtype of `x`; None leaves a factor out."""
    x_hat = NORMS[kind](x.astype(jnp.float32), eps)
    if scale is not None:
        x_hat = x_hat * scale
    if bias is not None:
        x_hat = x_hat + bias
    return x_hat.astype(x.dtype)


def layer_norm(x: Array, scale: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5) -> Array:
    """Layer normalisation over the last axis, with an optional gain and bias of its size."""
    return normalise(x, scale, bias, kind="layer", eps=eps)


def rms_norm(x: Array, scale: Array | None = None, *, eps: float = 1e-6) -> Array:
    """RMS normalisation over the last axis, with an optional gain of its size."""
    return normalise(x, scale, None, kind="rms", eps=eps)
