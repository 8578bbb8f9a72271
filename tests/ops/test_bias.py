"""Logit biases against T5's code written as a loop, and printed tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxformer.ops.bias import BucketBias, DistanceBias, alibi_slopes, t5_buckets
from tests.ops import reference

RNG = np.random.default_rng(0)


def buckets(relative, **options):
    return np.asarray(t5_buckets(jnp.asarray(relative), **{"count": 32, "max_distance": 128, **options})).tolist()


def test_printed_bidirectional_buckets():
    near = [10, 10, 10, 10, 10, 9, 9, 9, 9, 8, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1, 0, 17, 18, 19, 20, 21, 22, 23, 24, 24, 24, 24, 25, 25, 25, 25, 26, 26, 26, 26, 26]  # fmt: skip  # noqa: E501
    assert buckets(range(-20, 21), bidirectional=True) == near
    far = {-33: 12, -64: 14, -90: 14, -91: 15, -100: 15, -(10**6): 15, 64: 30, 90: 30, 91: 31, 10**6: 31}
    assert buckets(list(far), bidirectional=True) == list(far.values())


def test_printed_causal_buckets():
    runs = {bucket: 1 for bucket in range(16)} | {16: 3, 17: 2, 18: 3, 19: 3, 20: 4, 21: 4, 22: 5, 23: 1}
    expected = [bucket for bucket, length in runs.items() for _ in range(length)]
    assert buckets([-distance for distance in range(41)], bidirectional=False) == expected
    far = {-64: 26, -112: 30, -113: 31, -128: 31, -(10**6): 31, 1: 0, 50: 0}
    assert buckets(list(far), bidirectional=False) == list(far.values())


def test_printed_buckets_of_a_small_table():
    small = {"count": 8, "max_distance": 20}
    expected = [3, 3, 3, 3, 2, 2, 2, 2, 2, 1, 0, 5, 6, 6, 6, 6, 6, 7, 7, 7, 7]
    assert buckets(range(-10, 11), bidirectional=True, **small) == expected
    expected = [7] * 9 + [6] * 5 + [5] * 3 + [4] * 2 + [3, 2, 1, 0, 0, 0]
    assert buckets(range(-22, 3), bidirectional=False, **small) == expected


@pytest.mark.oracle
@settings(max_examples=60, deadline=None)
@given(
    count=st.sampled_from([4, 6, 8, 10, 32, 34]),
    beyond=st.integers(1, 300),
    relative=st.integers(-600, 600),
    bidirectional=st.booleans(),
)
def test_buckets_equal_the_loop(count, beyond, relative, bidirectional):
    options = {"count": count, "max_distance": count + beyond, "bidirectional": bidirectional}
    assert buckets([relative], **options) == [reference.bucket(relative, **options)]


@settings(max_examples=20, deadline=None)
@given(count=st.sampled_from([8, 32]), max_distance=st.integers(33, 200), bidirectional=st.booleans())
def test_farther_keys_never_get_a_nearer_bucket_and_every_bucket_is_used(count, max_distance, bidirectional):
    past = buckets(range(0, -201, -1), count=count, max_distance=max_distance, bidirectional=bidirectional)
    assert past == sorted(past)
    assert past[max_distance] == (count // 2 if bidirectional else count) - 1


def test_alibi_slopes():
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-n for n in range(1, 9)], rtol=1e-12)
    np.testing.assert_allclose(alibi_slopes(16), [2.0 ** (-n / 2) for n in range(1, 17)], rtol=1e-12)
    for heads in range(1, 40):
        np.testing.assert_allclose(alibi_slopes(heads), reference.slopes(heads), rtol=1e-12)


@pytest.mark.oracle
@pytest.mark.parametrize("bidirectional", [True, False])
def test_biases_equal_the_loop_at_any_index(bidirectional):
    q_index, k_index = np.array([[0, 5, 200], [17, 3, 60]]), np.array([[0, 1, 40, 7, 199], [9, 18, 17, 3, 2]])
    table = RNG.normal(size=(10, 7))
    biases = (
        BucketBias(jnp.asarray(table, jnp.float32), max_distance=50, bidirectional=bidirectional),
        DistanceBias(jnp.asarray(alibi_slopes(7), jnp.float32)),
    )
    for bias in biases:
        expected = np.zeros((2, 7, 3, 5))
        for b, t, s in np.ndindex(2, 3, 5):
            expected[b, :, t, s] = reference.logit_bias(bias, q_index[b, t], k_index[b, s])
        np.testing.assert_allclose(bias(jnp.asarray(q_index), jnp.asarray(k_index)), expected, rtol=1e-6)


def test_the_gradient_of_the_table_gathers_every_pair_of_its_bucket():
    """The gradient of sum(bias) counts the pairs of each bucket."""
    index = np.arange(9)
    table = jnp.zeros((8, 3))
    gradient = jax.grad(
        lambda table: BucketBias(table, max_distance=20, bidirectional=True)(index[None], index[None]).sum()
    )(table)
    pairs = np.zeros((8, 3))
    for t, s in np.ndindex(9, 9):
        pairs[reference.bucket(s - t, count=8, max_distance=20, bidirectional=True)] += 1
    np.testing.assert_array_equal(gradient, pairs)
