"""Sampling filters against loops that sort tokens by hand; drawn frequencies against shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxformer.ops.sample import choose, keep_min_p, keep_top_k, keep_top_p, penalise, temper

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


@pytest.mark.parametrize("k", [1, 2, 4, 5, 9])
def test_top_k_keeps_the_k_most_likely(k):
    logits = jnp.asarray(LOGITS)
    assert kept(keep_top_k(logits, k)) == [set(by_share(row)[:k]) for row in LOGITS]


def test_top_k_keeps_the_earlier_of_equals():
    assert kept(keep_top_k(jnp.array([[1.0, 3.0, 3.0, 3.0, 0.0]]), 2)) == [{1, 2}]


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
