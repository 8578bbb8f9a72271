"""Pointwise activations. A new one is one function and one line in ACTIVATIONS."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from fxformer.jit import promoting


@promoting()
def relu(x: Array) -> Array:
    """max(0, x). Vaswani et al. 2017."""
    return jax.nn.relu(x)


@promoting()
def gelu_erf(x: Array) -> Array:
    """x/2 (1 + erf(x / sqrt 2)): the exact form (BERT). Hendrycks & Gimpel 2016."""
    return jax.nn.gelu(x, approximate=False)


@promoting()
def gelu_tanh(x: Array) -> Array:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): the approximation (GPT-2, T5 v1.1)."""
    return jax.nn.gelu(x, approximate=True)


@promoting()
def gelu_sigmoid(x: Array) -> Array:
    """x sigmoid(1.702 x): the coarse approximation, also called quick (gpt-oss). Hendrycks & Gimpel 2016, section 2."""
    return x * jax.nn.sigmoid(1.702 * x)


@promoting()
def silu(x: Array) -> Array:
    """x sigmoid(x), also called Swish-1 (LLaMA). Elfwing et al. 2017."""
    return jax.nn.silu(x)


@promoting()
def relu2(x: Array) -> Array:
    """max(0, x)^2. So et al. 2021 (Primer)."""
    return jnp.square(jax.nn.relu(x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": relu,
    "gelu_erf": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "gelu_sigmoid": gelu_sigmoid,
    "silu": silu,
    "relu2": relu2,
}
