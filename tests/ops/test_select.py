"""Selection of keys against loops in float64: scores, the best k with their ties, and what the indexer learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxformer.coords import of_index, plain
from fxformer.ops.loss import divergence
from fxformer.ops.mask import Causal
from fxformer.ops.scores import Scores, Terms
from fxformer.ops.select import index_scores, mean_weights, top_k_mask
from tests.ops import reference

B, T, S, I, J = 2, 5, 7, 3, 4
RNG = np.random.default_rng(0)


def best(scores, seen, k, index):
    """The k best of the keys that are seen, one query at a time."""
    mask = np.zeros_like(seen)
    for b, t in np.ndindex(seen.shape[:2]):
        order = sorted(np.flatnonzero(seen[b, t]), key=lambda s: (-scores[b, t, s], index[b, s]))
        mask[b, t, order[:k]] = True
    return mask


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_scores_are_the_weighted_sum_of_what_heads_like(dtype):
    """In float32 whatever the data: in bfloat16 the scores of many keys would tie."""
    shapes = (B, T, I, J), (B, S, J), (B, T, I)
    arrays = [jnp.asarray(RNG.normal(size=shape), dtype) for shape in shapes]
    q, k, weight = (np.asarray(x, np.float64) for x in arrays)
    expected = np.zeros((B, T, S))
    for b, t, s in np.ndindex(expected.shape):
        expected[b, t, s] = sum(weight[b, t, i] * max(q[b, t, i] @ k[b, s], 0) for i in range(I)) / np.sqrt(I * J)
    np.testing.assert_allclose(index_scores(*arrays), expected, atol=1e-6)


@pytest.mark.oracle
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), k=st.integers(1, S + 1), kinds=st.sampled_from([2, 4, 10**6]))
def test_the_best_k_are_kept_and_ties_go_to_the_smaller_index(seed, k, kinds):
    """Scores of a few kinds tie often; some queries see fewer than k keys, some none; slots stand in any order."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-kinds, kinds, (B, T, S)) / 2
    scores = np.where(scores == 0, rng.choice([0.0, -0.0], scores.shape), scores)
    seen = rng.random((B, T, S)) < rng.choice([0.2, 0.9], (B, T, 1))
    index = np.stack([rng.permutation(S) for _ in range(B)])
    mask = top_k_mask(jnp.asarray(scores, jnp.float32), jnp.asarray(seen), k, jnp.asarray(index))
    np.testing.assert_array_equal(mask, best(scores, seen, k, index))
    np.testing.assert_array_equal(mask.sum(-1), np.minimum(k, seen.sum(-1)))


def test_keys_without_an_index_stand_in_order():
    scores = jnp.asarray(RNG.integers(0, 2, (B, T, S)), jnp.float32)
    mask = top_k_mask(scores, jnp.ones((B, T, S), bool), 3)
    expected = best(np.asarray(scores), np.ones((B, T, S), bool), 3, np.tile(np.arange(S), (B, 1)))
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("k", [0, -2])
def test_no_key_at_all_is_refused(k):
    with pytest.raises(ValueError, match=f"k={k} selects no key of {S}"):
        top_k_mask(jnp.zeros((B, T, S)), jnp.ones((B, T, S), bool), k)


def test_mean_weights_are_the_average_over_heads_of_what_is_selected():
    heads, kv_heads, width = 6, 2, 3
    q, k = RNG.normal(size=(B, T, heads, width)), RNG.normal(size=(B, S, kv_heads, width))
    start = np.array([-1, 2])  # the first query of row 0 is padding
    index = start[:, None] + np.arange(T)
    selected = RNG.random((B, T, S)) < 0.6
    seen = selected & (np.arange(S) <= index[:, :, None])
    rows = {"q_index": index, "k_index": np.tile(np.arange(S), (B, 1))}
    weights = reference.attend(q, k, np.zeros((B, S, kv_heads, 1)), seen=seen, scale=0.7, **rows)[2]
    terms = Terms(
        q=of_index(jnp.asarray(start)[:, None] + jnp.arange(T)), k=plain(S), selected_BTS=jnp.asarray(selected)
    )
    ours = mean_weights(*(jnp.asarray(x, jnp.float32) for x in (q, k)), Scores(mask=Causal(), scale=0.7), terms)
    np.testing.assert_allclose(ours, weights.mean(1), atol=1e-6)


def test_divergence_is_measured_over_what_is_seen():
    seen = RNG.random((B, T, S)) < 0.7
    seen[1, 2] = False
    logits, p = 3 * RNG.normal(size=(B, T, S)), RNG.random((B, T, S)) * seen
    p = p / np.maximum(p.sum(-1, keepdims=True), 1e-9)
    p[0, 0] = np.eye(S)[np.flatnonzero(seen[0, 0])[0]]
    expected, q = np.zeros((B, T)), np.zeros((B, T, S))
    for b, t in np.ndindex(B, T):
        at = seen[b, t]
        if at.any():
            q[b, t, at] = reference.softmax(logits[b, t, at])
        expected[b, t] = sum(x * np.log(x / y) for x, y in zip(p[b, t, at], q[b, t, at], strict=True) if x > 0)
    target, mask = jnp.asarray(p, jnp.float32), jnp.asarray(seen)
    np.testing.assert_allclose(divergence(target, jnp.asarray(logits), mask), expected, atol=2e-6)
    assert expected[1, 2] == 0 and expected.max() > 0.5
    gradient = jax.grad(lambda x: divergence(target, x, mask).sum())(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(gradient, q - p, atol=1e-6)
