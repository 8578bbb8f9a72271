"""Losses against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxformer.ops.loss import cross_entropy, weighted_mean, z_loss

RNG = np.random.default_rng(0)
LOGITS = 5 * RNG.normal(size=(3, 5, 7))
TARGETS = RNG.integers(0, 7, size=(3, 5))


@pytest.mark.oracle
def test_cross_entropy_is_minus_log_of_the_targets_share():
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    expected = [[-np.log(shares[b, t, TARGETS[b, t]]) for t in range(5)] for b in range(3)]
    np.testing.assert_allclose(cross_entropy(jnp.asarray(LOGITS), jnp.asarray(TARGETS)), expected, rtol=1e-5)


def test_cross_entropy_of_uniform_logits_is_log_of_the_vocabulary():
    loss = cross_entropy(jnp.full((2, 11), 30.0), jnp.array([0, 10]))
    np.testing.assert_allclose(loss, np.log(11), rtol=1e-6)


def test_cross_entropy_does_not_overflow():
    loss = cross_entropy(jnp.array([[3e38, 0.0], [3e38, 0.0]]), jnp.array([0, 1]))
    np.testing.assert_allclose(loss, [0.0, 3e38], rtol=1e-6)


def test_the_gradient_of_cross_entropy_is_share_minus_target():
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    gradient = jax.grad(lambda x: cross_entropy(x, jnp.asarray(TARGETS)).sum())(jnp.asarray(LOGITS, jnp.float32))
    np.testing.assert_allclose(gradient, shares - np.eye(7)[TARGETS], atol=1e-6)


def test_losses_of_half_precision_logits_are_computed_in_float32():
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    targets = jnp.asarray(TARGETS)
    for loss in (cross_entropy(half, targets), z_loss(half)):
        assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(cross_entropy(half, targets), cross_entropy(half.astype(jnp.float32), targets))


@pytest.mark.oracle
def test_z_loss_is_the_squared_log_of_the_sum():
    np.testing.assert_allclose(z_loss(jnp.asarray(LOGITS)), np.log(np.exp(LOGITS).sum(-1)) ** 2, rtol=1e-5)


@pytest.mark.oracle
def test_weighted_mean_counts_tokens_and_is_zero_without_any():
    values, weights = RNG.normal(size=(3, 5)), RNG.integers(0, 3, size=(3, 5))
    mean = weighted_mean(jnp.asarray(values), jnp.asarray(weights))
    np.testing.assert_allclose(mean, (values * weights).sum() / weights.sum(), rtol=1e-5)
    zero, gradient = jax.value_and_grad(weighted_mean)(jnp.asarray(values), jnp.zeros((3, 5)))
    assert zero == 0 and not gradient.any()
