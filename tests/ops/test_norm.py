"""Normalisations against the formulas in float64 and printed vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxformer.ops.norm import NORMS, layer_norm, normalise, rms_norm
from tests.ops import reference

RNG = np.random.default_rng(0)
COUNTING = jnp.array([1.0, 2.0, 3.0, 4.0])


def test_printed_vectors():
    np.testing.assert_allclose(
        layer_norm(COUNTING), [-1.3416354200, -0.4472118067, 0.4472118067, 1.3416354200], rtol=1e-6
    )
    np.testing.assert_allclose(rms_norm(COUNTING), [0.3651483473, 0.7302966947, 1.0954450420, 1.4605933893], rtol=1e-6)


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_a_norm_equals_its_formula_with_gain_and_bias(kind, eps):
    x, scale, bias = 0.1 * RNG.normal(size=(3, 5, 7)) + 0.3, RNG.normal(size=7), RNG.normal(size=7)
    y = normalise(*(jnp.asarray(a, jnp.float32) for a in (x, scale, bias)), kind=kind, eps=eps)
    np.testing.assert_allclose(y, reference.NORMS[kind](x, eps) * scale + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_the_gradient_of_a_norm_is_the_formulas_numeric_one(kind):
    x, toward, weights, step = RNG.normal(size=(5, 7)), RNG.normal(size=(5, 7)), RNG.normal(size=(5, 7)), 1e-5
    rise = [(weights * reference.NORMS[kind](x + sign * step * toward, 1e-3)).sum() for sign in (1, -1)]
    gradient = jax.grad(lambda x: (weights * NORMS[kind](x, 1e-3)).sum())(jnp.asarray(x, jnp.float32))
    assert (gradient * toward).sum() == pytest.approx((rise[0] - rise[1]) / (2 * step), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(shift=st.floats(-50, 50), stretch=st.floats(0.1, 1e4), seed=st.integers(0, 99))
def test_layer_norm_ignores_shift_and_scale_and_rms_norm_scale_only(shift, stretch, seed):
    x = np.random.default_rng(seed).normal(size=9).astype(np.float32)
    near = {"rtol": 0, "atol": 2e-4 * (1 + abs(shift))}  # a shift costs digits before the norm sees them
    np.testing.assert_allclose(layer_norm(stretch * (x + shift), eps=0.0), layer_norm(x, eps=0.0), **near)
    np.testing.assert_allclose(rms_norm(stretch * x, eps=0.0), rms_norm(x, eps=0.0), rtol=1e-5)


def test_layer_norm_is_rms_norm_of_the_centred_vector():
    x = jnp.asarray(RNG.normal(size=(5, 7)) + 2, jnp.float32)
    np.testing.assert_allclose(layer_norm(x, eps=1e-3), rms_norm(x - x.mean(-1, keepdims=True), eps=1e-3), rtol=1e-6)


def test_half_precision_is_reduced_in_float32():
    """4096 values of 8 + 1/16: a sum in bfloat16 stops growing at 2048 of them, and squares lose their last bits."""
    x = jnp.full((4096,), 8.0625, jnp.bfloat16).at[0].set(-8.0625)
    exact = reference.NORMS["layer"](np.asarray(x, np.float64), 1e-5)
    y = layer_norm(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=2**-8)
    np.testing.assert_array_equal(y, layer_norm(x.astype(jnp.float32)).astype(jnp.bfloat16))
