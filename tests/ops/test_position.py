"""Sinusoidal positions against section 3.5 of Vaswani et al. 2017 and printed values."""

import jax.numpy as jnp
import numpy as np
import pytest

from fxformer.ops.position import sinusoids
from tests.ops import reference


def vector(pos, width):
    return np.asarray(sinusoids(jnp.array([[pos]]), width))[0, 0]


@pytest.mark.parametrize(
    ("pos", "printed"),
    [
        (0, [0, 1, 0, 1]),
        (1, [0.8414709848, 0.5403023059, 0.0099998333, 0.9999500004]),
        (2, [0.9092974268, -0.4161468365, 0.0199986667, 0.9998000067]),
        (10, [-0.5440211109, -0.8390715291, 0.0998334166, 0.9950041653]),
    ],
)
def test_printed_vectors_of_width_4(pos, printed):
    np.testing.assert_allclose(vector(pos, 4), printed, atol=1e-7)


def test_printed_vectors_of_larger_widths():
    slow = [0.0299955002, 0.9995500337, 0.0029999955, 0.9999955]
    expected = [0.1411200081, -0.9899924966, 0.2955202067, 0.9553364891, *slow]
    np.testing.assert_allclose(vector(3, 8), expected, atol=1e-7)
    wide = vector(1, 512)
    first = [0.8414709848, 0.5403023059, 0.82185619, 0.5696950087, 0.8019617952, 0.5973753251]
    np.testing.assert_allclose(wide[:6], first, atol=1e-7)
    np.testing.assert_allclose(wide[-2:], [1.0366329266e-4, 0.9999999946], rtol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("width", [6, 7])
def test_sinusoids_equal_the_formula_for_every_position_and_channel(width):
    pos = np.array([[0, 1, 5], [3, 900, 0]])
    expected = [[reference.sinusoids(p, width, base=500.0) for p in row] for row in pos]
    np.testing.assert_allclose(sinusoids(jnp.asarray(pos), width, base=500.0), expected, atol=5e-5)


def test_a_shift_is_a_rotation_so_products_depend_on_distance_only():
    table = np.asarray(sinusoids(jnp.arange(9)[None], 8), np.float64)[0]
    products = [table[p] @ table[p + 2] for p in range(7)]
    np.testing.assert_allclose(products, 2.5637177480, rtol=1e-6)
