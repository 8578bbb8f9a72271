"""The absorbed form of latent attention: matrices that make keys and values act on queries and outputs instead."""

import jax.numpy as jnp
import numpy as np
import pytest

from fxformer.ops.latent import fold, unfold

B, T, S, H, K, U, R = 2, 3, 4, 5, 6, 7, 8
RNG = np.random.default_rng(0)


@pytest.mark.oracle
def test_folded_queries_see_latents_as_queries_see_the_keys_made_of_them():
    q, up, latent = (RNG.normal(size=shape) for shape in ((B, T, H, K), (R, H, K), (B, S, R)))
    folded = fold(*(jnp.asarray(x, jnp.float32) for x in (q, up)))
    keys = np.einsum("bsr,rhk->bshk", latent, up)
    exact = np.einsum("bthk,bshk->bhts", q, keys)
    np.testing.assert_allclose(np.einsum("bthr,bsr->bhts", folded, latent), exact, atol=2e-5 * np.abs(exact).max())


@pytest.mark.oracle
def test_unfolded_latents_are_the_weighted_values_made_of_them():
    weights, up, latent = (RNG.uniform(size=shape) for shape in ((B, H, T, S), (R, H, U), (B, S, R)))
    weighted = np.einsum("bhts,bsr->bthr", weights, latent)
    exact = np.einsum("bhts,bsr,rhu->bthu", weights, latent, up)
    unfolded = unfold(*(jnp.asarray(x, jnp.float32) for x in (weighted, up)))
    np.testing.assert_allclose(unfolded, exact, rtol=2e-5)
