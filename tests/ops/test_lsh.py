"""LSH attention against the paper's sets of keys, one query at a time in float64, and against exact attention."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxformer.ops.lsh import lsh_attend, lsh_buckets
from tests.ops.reference import softmax

attend = jax.jit(lsh_attend, static_argnames=("buckets", "rounds", "chunk"))
B, T, H, K, U = 2, 24, 3, 5, 7
RNG = np.random.default_rng(0)
QK, V = RNG.normal(size=(B, T, H, K)).astype(np.float32), RNG.normal(size=(B, T, H, U)).astype(np.float32)
KEY = jax.random.key(3)
CLUSTERED = np.repeat(RNG.normal(size=(1, 6, 1, K)), 16, axis=1) + 0.3 * RNG.normal(size=(1, 96, 1, K))
CLUSTERED = RNG.permutation(CLUSTERED, axis=1).astype(np.float32)


def over(qk, v, sees):
    """Softmax of q k / |k| over the keys that `sees(b, h, t)` lists; a query is one only where it is alone."""
    y = np.zeros(v.shape)
    for b, t, h in np.ndindex(v.shape[:3]):
        keys = sorted(set(sees(b, h, t)) - {t}) or [t]
        q, k = qk[b, t, h].astype(np.float64), qk[b, keys, h].astype(np.float64)
        y[b, t, h] = softmax(k @ q / np.sqrt((k**2).sum(-1))) @ v[b, keys, h]
    return y


def union(bucket, chunk):
    """Keys that some round puts in the query's bucket, and in its chunk or the one before. Section 2, figure 2."""

    def sees(b, h, t):
        for row in bucket[b, h]:
            order = sorted(range(len(row)), key=lambda i: (row[i], i))
            place = order.index(t) // chunk
            near = order[max(place - 1, 0) * chunk : (place + 1) * chunk]
            yield from (i for i in near if row[i] == row[t] and i <= t)

    return sees


def exact(qk, v):
    return over(qk, v, lambda b, h, t: range(t + 1))


@pytest.mark.parametrize(("buckets", "rounds", "chunk"), [(2, 1, 4), (4, 1, 6), (4, 3, 4), (6, 5, 8), (1, 2, 6)])
def test_the_weights_are_a_softmax_over_what_the_rounds_find_together(buckets, rounds, chunk):
    bucket = np.asarray(lsh_buckets(QK, KEY, buckets=buckets, rounds=rounds))
    y = attend(QK, V, KEY, buckets=buckets, rounds=rounds, chunk=chunk)
    np.testing.assert_allclose(y, over(QK, V, union(bucket, chunk)), rtol=1e-4, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("rounds", [1, 2])
def test_one_bucket_in_one_chunk_is_exact_attention(rounds):
    y = attend(QK, V, KEY, buckets=1, rounds=rounds, chunk=T)
    np.testing.assert_allclose(y, exact(QK, V), rtol=1e-4, atol=1e-5)


def over_keys(v, rounds):
    """The answer for the clustered tokens by each of five keys: [keys, tokens, channels]."""
    answer = jax.vmap(lambda key: lsh_attend(CLUSTERED, v, key, buckets=8, rounds=rounds, chunk=16)[0, :, 0])
    return jax.jit(answer)(jax.random.split(jax.random.key(11), 5))


def test_it_is_an_approximation_that_more_rounds_improve():
    """Far from exact with one round of many buckets; no rounding error explains what is left after many."""
    v = RNG.normal(size=(1, 96, 1, U)).astype(np.float32)
    truth = exact(CLUSTERED, v)[0, :, 0]
    errors = [math.sqrt(np.mean(np.square(over_keys(v, rounds) - truth))) / truth.std() for rounds in (1, 4, 16)]
    assert 2 > errors[0] > errors[1] > errors[2] > 1e-3


def test_more_rounds_find_the_key_that_matters_most_more_often():
    """With an identity for values the output is the weights: is the nearest earlier key among those seen?"""
    length = CLUSTERED.shape[1]
    unit = CLUSTERED[0, :, 0] / np.linalg.norm(CLUSTERED[0, :, 0], axis=-1, keepdims=True)
    likeness = np.where(np.tri(length, k=-1) > 0, unit @ unit.T, -np.inf)
    top, queries = likeness.argmax(-1), np.arange(1, length)
    weights = [over_keys(np.eye(length, dtype=np.float32)[None, :, None], rounds) for rounds in (1, 2, 8)]
    recalls = [np.mean(w[:, queries, top[queries]] > 0) for w in weights]
    assert 0.3 < recalls[0] < recalls[1] < recalls[2] and recalls[2] > 0.9


def test_future_tokens_have_zero_gradient_and_seen_ones_do_not():
    def said(qk, v, t):
        return jnp.sum(attend(qk, v, KEY, buckets=4, rounds=3, chunk=6)[0, t] * V[1, 0])

    bucket = np.asarray(lsh_buckets(QK, KEY, buckets=4, rounds=3))
    gradient = jax.jit(jax.grad(said, argnums=(0, 1)))
    for t in (0, 5, 11, 22):
        dqk, dv = (np.abs(g[0]).sum(-1) > 0 for g in gradient(QK, V, t))
        assert not np.any(dqk[t + 1 :]) and not np.any(dv[t + 1 :])
        for h in range(H):
            others = set(union(bucket, 6)(0, h, t)) - {t}
            assert set(np.flatnonzero(dv[:, h])) == (others or {t})


def test_the_same_key_gives_the_same_and_another_key_another_answer():
    first, again, other = (attend(QK, V, key, buckets=4, rounds=2, chunk=6) for key in (KEY, KEY, jax.random.key(4)))
    np.testing.assert_array_equal(first, again)
    assert np.mean(np.any(np.abs(first - other) > 1e-3, axis=-1)) > 0.2


def test_the_gradient_is_the_numeric_one_while_no_token_changes_its_bucket():
    """Float64 differences of the union's formula, with the buckets as they are."""
    toward, weights, step = RNG.normal(size=QK.shape), RNG.normal(size=V.shape), 1e-5
    sees = union(np.asarray(lsh_buckets(QK, KEY, buckets=4, rounds=2)), 6)
    rise = [(weights * over(QK + sign * step * toward, V, sees)).sum() for sign in (1, -1)]

    def said(qk):
        return jnp.sum(attend(qk, V, KEY, buckets=4, rounds=2, chunk=6) * weights)

    slope = (jax.grad(said)(jnp.asarray(QK)) * toward).sum()
    assert slope == pytest.approx((rise[0] - rise[1]) / (2 * step), rel=1e-3)


def test_buckets_follow_directions_and_opposite_vectors_fall_in_opposite_ones():
    x = RNG.normal(size=(1, 40, 2, K)).astype(np.float32)
    bucket, longer, opposite = (np.asarray(lsh_buckets(y, KEY, buckets=6, rounds=4)) for y in (x, 7 * x, -x))
    assert bucket.shape == (1, 2, 4, 40) and set(np.unique(bucket)) == set(range(6))
    np.testing.assert_array_equal(bucket, longer)
    np.testing.assert_array_equal((bucket + 3) % 6, opposite)


def test_two_vectors_collide_by_their_angle():
    """In two buckets one random plane cuts the sphere: the chance to collide is 1 - angle / pi."""
    for angle in (0.2, 1.0, 2.5):
        pair = np.array([[1, 0, 0], [math.cos(angle), math.sin(angle), 0]], np.float32)[None, :, None]
        bucket = np.asarray(lsh_buckets(pair, KEY, buckets=2, rounds=4000))
        assert np.mean(bucket[..., 0] == bucket[..., 1]) == pytest.approx(1 - angle / math.pi, abs=0.03)


def test_rounds_and_heads_hash_differently():
    x = np.broadcast_to(RNG.normal(size=(1, 50, 1, K)), (1, 50, 2, K)).astype(np.float32)
    bucket = np.asarray(lsh_buckets(x, KEY, buckets=8, rounds=2)).reshape(4, 50)
    for i, j in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        assert np.mean(bucket[i] == bucket[j]) < 0.6


def test_half_precision_comes_back_in_its_dtype():
    y = attend(jnp.asarray(QK, jnp.bfloat16), jnp.asarray(V, jnp.bfloat16), KEY, buckets=1, rounds=2, chunk=T)
    rounded = (np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64) for x in (QK, V))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), exact(*rounded), rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"chunk": 5}, "chunk=5 does not divide 24 tokens; use 1, 2, 3, 4, 6, 8, 12 or 24"),
        ({"chunk": 0}, "chunk=0 does not divide 24 tokens; use 1, 2, 3, 4, 6, 8, 12 or 24"),
        ({"buckets": 3}, "buckets=3 are not pairs of opposite directions; use 1, or an even number"),
        ({"buckets": 0}, "buckets=0 are not pairs of opposite directions; use 1, or an even number"),
        ({"rounds": 0}, "rounds=0 hash nothing; use 1 or more"),
    ],
)
def test_what_is_refused(knobs, sentence):
    with pytest.raises(ValueError) as error:
        lsh_attend(QK, V, KEY, **{"buckets": 4, "rounds": 2, "chunk": 6, **knobs})
    assert str(error.value) == sentence
