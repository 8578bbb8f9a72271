"""Sampling filters against loops that sort tokens by hand; drawn frequencies against shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxformer.ops.sample import choose, keep_min_p, keep_top_k, keep_top_p, penalise, temper

LARGE = 201_088  # tokens of gpt-oss, the largest vocabulary of the zoo
LOGITS = np.log([[0.1, 0.4, 0.05, 0.3, 0.15], [0.02, 0.03, 0.05, 0.2, 0.7]])


def kept(logits):
    return [set(np.flatnonzero(np.isfinite(row)).tolist()) for row in np.asarray(logits)]


def by_share(row):
    """Tokens from most to least likely, the earlier first among equals."""
    return sorted(range(len(row)), key=lambda token: (-row[token], token))


def nucleus(row, p):
    shares, total, tokens = np.exp(row) / np.exp(row).sum(), 0.0, set()
    for token in by_share(row):
        if tokens and total >= p:
            break
        tokens.add(token)
        total += shares[token]
    return tokens


@pytest.mark.oracle
@pytest.mark.parametrize("k", [1, 2, 4, 5, 9])
def test_top_k_keeps_the_k_most_likely(k):
    logits = jnp.asarray(LOGITS)
    assert kept(keep_top_k(logits, k)) == [set(by_share(row)[:k]) for row in LOGITS]


def test_top_k_keeps_the_earlier_of_equals():
    assert kept(keep_top_k(jnp.array([[1.0, 3.0, 3.0, 3.0, 0.0]]), 2)) == [{1, 2}]


@pytest.mark.oracle
@pytest.mark.parametrize("p", [0.01, 0.39, 0.41, 0.69, 0.71, 0.84, 0.96, 1.0])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p):
    assert kept(keep_top_p(jnp.asarray(LOGITS), p)) == [nucleus(row, p) for row in LOGITS]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), p=st.floats(0.02, 0.98))
def test_top_p_keeps_the_smallest_set_that_reaches_p_whatever_the_shares(seed, p):
    row = np.random.default_rng(seed).normal(size=7) * 2
    shares = np.sort(np.exp(row) / np.exp(row).sum())[::-1]
    if np.min(np.abs(np.cumsum(shares) - p)) > 1e-5:  # rounding decides on an edge
        assert kept(keep_top_p(jnp.asarray(row)[None], p)) == [nucleus(row, p)]


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("p", "expected"), [(0.5, [{1, 3}, {4}]), (0.3, [{1, 3, 4}, {4}]), (0.05, [{0, 1, 2, 3, 4}, {2, 3, 4}])]
)
def test_min_p_keeps_tokens_relative_to_the_most_likely(p, expected):
    assert kept(keep_min_p(jnp.asarray(LOGITS), p)) == expected


def test_filters_leave_kept_logits_as_they_are_and_accept_traced_numbers():
    logits = jnp.asarray(LOGITS, jnp.float32)
    for keep, number in ((keep_top_k, 3), (keep_top_p, 0.8), (keep_min_p, 0.2), (temper, 0.0)):
        eager, traced = keep(logits, number), jax.jit(keep)(logits, number)
        np.testing.assert_array_equal(eager, traced)
        assert set(np.asarray(eager)[np.isfinite(eager)]) <= set(np.asarray(logits).ravel())


@pytest.mark.oracle
def test_temperature_divides_and_zero_leaves_the_most_likely():
    logits = jnp.asarray(LOGITS, jnp.float32)
    np.testing.assert_allclose(temper(logits, 0.5), LOGITS / 0.5, rtol=1e-6)
    assert kept(temper(logits, 0.0)) == [{1}, {4}]


def test_chosen_tokens_are_as_frequent_as_their_shares():
    """20 000 draws: a share's standard error is at most 0.0036; four of them are allowed."""
    draws = choose(jax.random.key(0), jnp.broadcast_to(jnp.asarray(LOGITS[0]), (20_000, 5)))
    assert draws.dtype == jnp.int32
    np.testing.assert_allclose(np.bincount(draws, minlength=5) / 20_000, np.exp(LOGITS[0]), atol=0.0145)


def test_filtered_tokens_are_never_chosen():
    logits = jnp.broadcast_to(keep_top_k(jnp.asarray(LOGITS), 2), (500, 2, 5))
    draws = np.asarray(choose(jax.random.key(1), logits))
    assert set(draws[:, 0]) == {1, 3} and set(draws[:, 1]) == {3, 4}


@pytest.mark.oracle
def test_seen_tokens_are_weakened_whatever_their_sign():
    logits = np.array([[2.0, -3.0, 0.5, 0.0, -1.0], [1.0, 4.0, -2.0, 3.0, -0.5]])
    seen = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 0, 0]], bool)
    for penalty in (1.0, 2.0, 0.5, np.array([1.5, 3.0])):
        expected = logits.copy()
        for row, token in zip(*np.nonzero(seen), strict=True):
            own = np.broadcast_to(penalty, 2)[row]
            expected[row, token] = logits[row, token] / own if logits[row, token] > 0 else logits[row, token] * own
        np.testing.assert_allclose(penalise(jnp.asarray(logits), jnp.asarray(seen), penalty), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("narrow", "numbers"),
    [
        (temper, [0.5, 0.0]),
        (keep_top_k, [1, 4]),
        (keep_top_p, [0.69, 0.92]),
        (keep_min_p, [0.5, 0.05]),
        (lambda logits, penalty: penalise(logits, logits > -1.3, penalty), [1.3, 4.0]),
    ],
)
def test_each_row_may_have_a_number_of_its_own(narrow, numbers):
    """Leading axes may be more than one: [2, 3] numbers for logits [2, 3, V]."""
    logits = jnp.asarray(LOGITS, jnp.float32)
    together = narrow(logits, np.array(numbers))
    alone = [narrow(logits[row : row + 1], number) for row, number in enumerate(numbers)]
    np.testing.assert_array_equal(together, jnp.concatenate(alone))
    assert (np.asarray(together) != np.asarray(narrow(logits, numbers[0]))).any()
    several = narrow(jnp.stack([logits] * 3, axis=1), np.stack([numbers] * 3, axis=1))
    np.testing.assert_array_equal(several, jnp.stack([together] * 3, axis=1))


def wide(spread, dtype=jnp.float32):
    """Logits of a large vocabulary, two rows of them, and the same numbers in float64."""
    logits = jnp.asarray(np.random.default_rng(5).normal(size=(2, LARGE)) * spread, dtype)
    return logits, np.asarray(logits.astype(jnp.float32), np.float64)


def most_likely(row, count):
    """bool [V]: so many of the most likely tokens, the earlier among equals."""
    return np.isin(np.arange(len(row)), np.argsort(-row, kind="stable")[:count])


def nucleus_of(row, p):
    """As `nucleus`, for many tokens."""
    share = np.sort(np.exp(row - row.max()))[::-1]
    reached = np.cumsum(share) / share.sum()
    return most_likely(row, len(row) if p == 1 else 1 + np.searchsorted(reached, p))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("spread", [0.3, 4.0])
def test_filters_keep_of_a_large_vocabulary_what_they_keep_in_float64(spread, dtype):
    """To the token, whatever the logits are stored in. Traced numbers: one program serves all."""
    logits, exact = wide(spread, dtype)
    for p in (0.3, 0.9, 0.95, 0.99, 0.999, 1.0):
        expected = np.stack([nucleus_of(row, float(np.float32(p))) for row in exact])
        np.testing.assert_array_equal(finite(TOP_P(logits, np.float32(p))), expected, err_msg=f"p = {p}")
    for k in (1, 40, 70_000, LARGE):
        expected = np.stack([most_likely(row, k) for row in exact])
        np.testing.assert_array_equal(finite(TOP_K(logits, np.int32(k))), expected, err_msg=f"k = {k}")
    for p in (0.0, 0.01, 0.5, 1.0):
        expected = np.exp(exact - exact.max(axis=-1, keepdims=True)) >= p
        np.testing.assert_array_equal(finite(MIN_P(logits, np.float32(p))), expected, err_msg=f"min_p = {p}")


TOP_P, TOP_K, MIN_P = jax.jit(keep_top_p), jax.jit(keep_top_k), jax.jit(keep_min_p)


def finite(logits):
    return np.isfinite(np.asarray(logits.astype(jnp.float32)))


def test_an_edge_is_reached_but_for_rounding():
    """0.5 and 0.3 make 0.8, and 0.2 is half of 0.4, which sums and quotients in float32 miss by a digit."""
    for scale in (1.0, 8.0):  # logits are known up to a constant
        logits = jnp.log(jnp.array([[0.5, 0.3, 0.1, 0.1]]) * scale)
        assert kept(keep_top_p(logits, 0.8)) == kept(jax.jit(keep_top_p)(logits, 0.8)) == [{0, 1}]
        assert kept(keep_top_p(logits, 0.5)) == [{0}] and kept(keep_top_p(logits, 0.51)) == [{0, 1}]
    for top in (0.3, 0.4, 0.6, 0.7):
        assert kept(keep_min_p(jnp.log(jnp.array([[top, top / 2, top / 4]])), 0.25)) == [{0, 1, 2}]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_numbers_are_computed_in_float32(dtype):
    """Quotients, products and draws of half precision are those of the same logits in float32."""
    logits, exact = wide(3.0, dtype)
    np.testing.assert_allclose(temper(logits, 0.95), exact / 0.95, rtol=1e-6)
    seen = np.arange(LARGE) % 3 == 0
    expected = np.where(seen, np.where(exact > 0, exact / 1.1, exact * 1.1), exact)
    np.testing.assert_allclose(penalise(logits, jnp.asarray(seen), 1.1), expected, rtol=1e-6)
    key = jax.random.key(3)
    assert choose(key, logits).tolist() == choose(key, logits.astype(jnp.float32)).tolist()


def test_a_temperature_as_small_as_a_number_can_be_takes_the_most_likely():
    logits = jnp.array([[30.0, 31.0, 29.0]])
    for temperature in (1e-6, 1e-20, 1e-38, 0.0):
        assert choose(jax.random.key(0), temper(logits, temperature)).tolist() == [1]
