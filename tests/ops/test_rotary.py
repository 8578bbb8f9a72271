"""Rotary positions against complex multiplication in float64, printed vectors, and their relative law."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxformer.ops.rotary import (
    NTK,
    PAIRINGS,
    SCALINGS,
    Dynamic,
    Linear,
    Llama3,
    Rotary,
    YaRN,
    angles,
    frequencies,
    rotate,
)
from tests.ops import reference

RNG = np.random.default_rng(0)
SCALED = {
    Linear: Linear(factor=3.0),
    NTK: NTK(factor=4.0),
    Dynamic: Dynamic(factor=2.5, original_length=128),
    YaRN: YaRN(factor=8.0, original_length=64, fast=8.0, slow=0.5),
    Llama3: Llama3(factor=8.0, original_length=64, low=1.0, high=4.0),
}


def turned(x, pos, rotary):
    """One head of one token at one position."""
    return np.asarray(rotate(jnp.asarray(x, jnp.float32)[None, None, None], jnp.array([[pos]]), rotary))[0, 0, 0]


@pytest.mark.parametrize(
    ("pairing", "pos", "printed"),
    [
        ("interleaved", 1, [-1.1426396637, 1.9220755965, 2.9598506679, 4.0297995017]),
        ("half", 1, [-1.9841106486, 1.9599006675, 2.4623779024, 4.0197996683]),
        ("interleaved", 3, [-1.2722325127, -1.8388649851, 2.8786681004, 4.0881866356]),
        ("half", 3, [-1.4133525208, 1.8791180667, -2.8288574817, 4.0581911354]),
    ],
)
def test_printed_vectors(pairing, pos, printed):
    np.testing.assert_allclose(turned([1, 2, 3, 4], pos, Rotary(width=4, pairing=pairing)), printed, rtol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("scaling", [None, *SCALINGS])
def test_rotation_equals_complex_multiplication(pairing, scaling):
    rotary = Rotary(width=6, base=500.0, pairing=pairing, scaling=None if scaling is None else SCALED[scaling])
    x, pos = RNG.normal(size=(2, 5, 3, 7)), np.array([[0, 1, 2, 9, 40], [7, 7, 0, 3, 100]])
    expected = [
        [[reference.rotate(x[b, t, h], [pos[b, t]], rotary) for h in range(3)] for t in range(5)] for b in range(2)
    ]
    y = rotate(jnp.asarray(x, jnp.float32), jnp.asarray(pos), rotary)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    np.testing.assert_array_equal(y[..., 6:], jnp.asarray(x, jnp.float32)[..., 6:])


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_two_streams_turn_two_runs_of_channels_by_two_positions_and_gain_is_on_them_alone(pairing):
    rotary = Rotary(width=4, base=50.0, pairing=pairing, streams=2, gain=1.3)
    x, pos = RNG.normal(size=(1, 5, 3, 11)), RNG.integers(0, 30, size=(1, 5, 2))
    expected = [[[reference.rotate(x[0, t, h], pos[0, t], rotary) for h in range(3)] for t in range(5)]]
    np.testing.assert_allclose(rotate(jnp.asarray(x, jnp.float32), jnp.asarray(pos), rotary), expected, atol=1e-5)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_products_of_rotated_vectors_have_the_sign_of_key_minus_query(pairing):
    """R_m q . R_n k = q . R_(n-m) k; turning the other way would give 0.1565 for half-split pairs."""
    rotary, q, k = Rotary(width=4, pairing=pairing), [0.1, 0.2, 0.3, 0.4], [0.5, -0.6, 0.7, 0.8]
    at_5_3 = turned(q, 5, rotary) @ turned(k, 3, rotary)
    assert at_5_3 == pytest.approx(turned(q, 12, rotary) @ turned(k, 10, rotary), abs=1e-6)
    assert at_5_3 == pytest.approx(reference.rotate(q, [2], rotary) @ np.array(k), abs=1e-6)
    if pairing == "half":
        assert at_5_3 == pytest.approx(0.0270174963623, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(m=st.integers(0, 2000), n=st.integers(0, 2000), shift=st.integers(0, 2000), seed=st.integers(0, 99))
def test_products_depend_on_the_distance_only(m, n, shift, seed):
    q, k = np.random.default_rng(seed).normal(size=(2, 8))
    rotary = Rotary(width=8, base=100.0)
    here = turned(q, m, rotary) @ turned(k, n, rotary)
    there = turned(q, m + shift, rotary) @ turned(k, n + shift, rotary)
    assert here == pytest.approx(there, abs=4e-7 * 4000 * 4)  # phases of 4000 radians in float32


def test_half_split_is_interleaved_after_a_permutation():
    x, order = RNG.normal(size=8), [0, 2, 4, 6, 1, 3, 5, 7]
    half = turned(x[order], 5, Rotary(width=8, pairing="half"))
    np.testing.assert_allclose(half, turned(x, 5, Rotary(width=8, pairing="interleaved"))[order], rtol=1e-6)


def test_the_gradient_turns_back():
    rotary, x, dy, pos = (
        Rotary(width=6),
        RNG.normal(size=(1, 3, 2, 7)),
        RNG.normal(size=(1, 3, 2, 7)),
        jnp.arange(3)[None],
    )
    gradient = jax.grad(lambda x: (rotate(x, pos, rotary) * dy).sum())(jnp.asarray(x, jnp.float32))
    expected = [[[reference.rotate(dy[0, t, h], [-t], rotary) for h in range(2)] for t in range(3)]]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_phases_are_float32_under_bfloat16_data():
    """At position 4095 a phase in bfloat16 is wrong by up to 16 radians; the data may be, the phase may not."""
    rotary, pos = Rotary(width=6), np.array([[4095, 4094, 3001]])
    phase = angles(jnp.asarray(pos), rotary)
    assert phase.dtype == jnp.float32
    np.testing.assert_allclose(phase[0, :, 0], pos[0, :, None] * np.array(reference.frequencies(rotary)), rtol=1e-6)
    x = jnp.asarray(RNG.normal(size=(1, 3, 2, 6)), jnp.bfloat16)
    y = rotate(x, jnp.asarray(pos), rotary)
    assert y.dtype == jnp.bfloat16
    exact = [
        [
            [reference.rotate(np.asarray(x, np.float64)[0, t, h], [pos[0, t]], rotary) for h in range(2)]
            for t in range(3)
        ]
    ]
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, atol=2**-8 * np.abs(exact).max())


@pytest.mark.parametrize("last", [127, 128, 300])
def test_dynamic_scaling_stretches_by_the_longest_row(last):
    """Up to the original length, here 128, it is no scaling; beyond it every row turns as the longest one does."""
    rotary, pos = Rotary(width=10, base=500.0, scaling=SCALED[Dynamic]), np.array([[0, 5, last], [3, 1, 2]])
    phase = angles(jnp.asarray(pos), rotary)
    np.testing.assert_allclose(
        phase[:, :, 0], pos[..., None] * np.array(reference.frequencies(rotary, last + 1)), rtol=2e-6
    )
    same = np.array_equal(phase, angles(jnp.asarray(pos), Rotary(width=10, base=500.0)))
    assert same == (last < 128)


def test_ntk_stretches_the_base_by_the_printed_amount():
    scaled = frequencies(Rotary(width=128, scaling=NTK(factor=4.0)))
    np.testing.assert_allclose(scaled[1] ** -(128 / 2), 40_889.94, rtol=1e-6)
    assert scaled[0] == 1
    slowest = frequencies(Rotary(width=128))[-1]
    np.testing.assert_allclose(scaled[-1], slowest / 4, rtol=1e-12)  # the slowest channel is interpolated in full


def test_yarn_of_deepseek_v2_ramps_from_channel_10_to_23():
    scaled = frequencies(Rotary(width=64, scaling=YaRN(factor=40.0, original_length=4096)))
    plain = np.array([10_000 ** (-2 * i / 64) for i in range(32)])
    ramp = (plain - scaled) / (plain - plain / 40)
    np.testing.assert_allclose(ramp, np.clip((np.arange(32) - 10) / 13, 0, 1), atol=1e-12)


def test_llama3_keeps_short_waves_and_stretches_long_ones():
    """Llama 3.1: base 500 000, width 128, factor 8, original length 8192: the edges are waves of 2048 and 8192."""
    scaled = frequencies(Rotary(width=128, base=500_000.0, scaling=Llama3(factor=8.0, original_length=8192)))
    plain = np.array([500_000 ** (-2 * i / 128) for i in range(64)])
    wave = 2 * math.pi / plain
    np.testing.assert_allclose(scaled[wave < 2048], plain[wave < 2048], rtol=1e-12)
    np.testing.assert_allclose(scaled[wave > 8192], plain[wave > 8192] / 8, rtol=1e-12)
    between = (wave >= 2048) & (wave <= 8192)
    assert between.sum() > 3
    assert np.all((scaled < 0.999 * plain) & (scaled > 1.001 * plain / 8) == between)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scaling_by_one_is_no_scaling(scaling):
    one = frequencies(Rotary(width=10, scaling=replace(SCALED[scaling], factor=1.0)))
    np.testing.assert_allclose(one, frequencies(Rotary(width=10)), rtol=1e-12)


@pytest.mark.parametrize(
    ("length", "truncate", "expected"),
    [
        (4096, False, np.clip((np.arange(32) - 8.0927789) / (17.3980245 - 8.0927789), 0, 1)),  # gpt-oss
        (4096, True, np.clip((np.arange(32) - 8) / (18 - 8), 0, 1)),
        (3, True, np.zeros(32)),  # no channel turns once: high < low
        (10**16, True, np.ones(32)),  # every channel turns more than 32 times
    ],
)
def test_yarn_of_gpt_oss_ramps_between_fractions_of_a_channel(length, truncate, expected):
    scaling = YaRN(factor=32.0, original_length=length, truncate=truncate)
    scaled = frequencies(Rotary(width=64, base=150_000.0, scaling=scaling))
    plain = np.array([150_000 ** (-2 * i / 64) for i in range(32)])
    np.testing.assert_allclose((plain - scaled) / (plain - plain / 32), expected, atol=1e-7)


@pytest.mark.oracle
@pytest.mark.parametrize("scaling", SCALINGS)
def test_scaled_frequencies_equal_the_formula(scaling):
    rotary = Rotary(width=24, base=2_000.0, scaling=SCALED[scaling])
    np.testing.assert_allclose(frequencies(rotary), reference.frequencies(rotary), rtol=1e-12)
