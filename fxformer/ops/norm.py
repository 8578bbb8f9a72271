"""Normalisation formulas: `(x_f32, eps) -> x_hat` over the last axis; gain, bias and alpha are the caller's.

A new norm is one function and one line in NORMS; one that looks at other tokens stands in ACROSS_TOKENS too.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.lax import rsqrt

from fxformer.jit import promoting


def layer(x: Array, eps: float) -> Array:
    """(x - mean(x)) / sqrt(var(x) + eps), population variance. Ba, Kiros & Hinton 2016, eq. 3."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return rms(centred, eps)


def rms(x: Array, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps). Zhang & Sennrich 2019, eq. 4."""
    return x * rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)


def l2(x: Array, eps: float) -> Array:
    """x / max(|x|, eps), |x| the Euclidean norm; zeros have a gradient."""
    return x * rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), eps**2))


def dyt(x: Array, eps: float) -> Array:
    """tanh(x): with gain, bias and alpha the Dynamic Tanh gamma tanh(alpha x) + beta. Zhu et al. 2025, section 4."""
    return jnp.tanh(x)


def batch(x: Array, eps: float) -> Array:
    """(x - mean(x)) / sqrt(var(x) + eps), each channel over batch and tokens. Ioffe & Szegedy 2015, algorithm 1.

    For ablation only: every token sees all others, padding too, and there are no running statistics.
    """
    axes = tuple(range(x.ndim - 1))
    centred = x - jnp.mean(x, axis=axes, keepdims=True)
    return centred * rsqrt(jnp.mean(centred * centred, axis=axes, keepdims=True) + eps)


def none(x: Array, eps: float) -> Array:
    """x unchanged: the ablation of the norm itself."""
    return x


NORMS: dict[str, Callable[[Array, float], Array]] = {
    "layer": layer,
    "rms": rms,
    "l2": l2,
    "dyt": dyt,
    "batch": batch,
    "none": none,
}

# Formulas by which a token depends on others: no cache can serve them.
ACROSS_TOKENS = frozenset({"batch"})


@promoting()
def normalise(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    *,
    kind: str,
    eps: float,
    alpha: Array | None = None,
    joint: int = 1,
) -> Array:
    """NORMS[kind](alpha x) * scale + bias, reduced in float32, returned in the dtype of `x`; None leaves a term out.

    joint: how many trailing axes are normalised as one; gain and bias have their shape.
    """
    x_f32 = x.astype(jnp.float32)
    if alpha is not None:
        x_f32 = alpha * x_f32
    x_hat = NORMS[kind](x_f32.reshape(*x.shape[: x.ndim - joint], -1), eps).reshape(x.shape)
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
