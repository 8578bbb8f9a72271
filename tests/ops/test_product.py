"""Products of half-precision factors against float64 NumPy on the same factors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxformer.ops.product import product

N, D, F = 5, 300, 7
RNG = np.random.default_rng(0)
HALVES = (jnp.bfloat16, jnp.float16)


def factors(dtype):
    """[N, D] and [D, F] in the dtype, and the same numbers in float64."""
    half = [jnp.asarray(RNG.normal(size=shape), dtype) for shape in ((N, D), (D, F))]
    return half, [np.asarray(x, np.float64) for x in half]


def far(told, known):
    """The largest error as a share of the largest number."""
    return np.abs(np.asarray(told, np.float64) - known).max() / np.abs(known).max()


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", HALVES)
def test_a_widened_product_keeps_the_bits_that_were_summed(dtype):
    (x, matrix), (exact_x, exact_matrix) = factors(dtype)
    known = exact_x @ exact_matrix
    wide, same = product(x, matrix, jnp.float32), product(x, matrix)
    assert wide.dtype == jnp.float32 and same.dtype == dtype
    assert far(wide, known) < 1e-6 < 1e-4 < far(same, known)


def test_float32_factors_make_the_plain_product_bit_for_bit():
    (x, matrix), _ = factors(jnp.float32)
    np.testing.assert_array_equal(product(x, matrix, jnp.float32), x @ matrix)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_derivative_is_that_of_the_product(dtype):
    """Both ways, to the rounding of the factors' dtype, and in that dtype."""
    (x, matrix), (exact_x, exact_matrix) = factors(dtype)
    (dx, dmatrix), (exact_dx, exact_dmatrix) = factors(dtype)
    eps = float(jnp.finfo(dtype).eps)
    out, tangent = jax.jvp(lambda *both: product(*both, jnp.float32), (x, matrix), (dx, dmatrix))
    assert out.dtype == tangent.dtype == jnp.float32
    assert far(tangent, exact_dx @ exact_matrix + exact_x @ exact_dmatrix) < 2 * eps
    cotangent = RNG.normal(size=(N, F)).astype(np.float32)
    _, pull = jax.vjp(lambda *both: product(*both, jnp.float32), x, matrix)
    back_x, back_matrix = pull(cotangent)
    assert back_x.dtype == back_matrix.dtype == dtype
    assert far(back_x, cotangent @ exact_matrix.T) < eps
    assert far(back_matrix, exact_x.T @ cotangent) < eps


def test_small_cotangents_are_not_rounded_to_nothing():
    """1e-8, what an unlikely token's logit gets in a mean over many, is less than half of float16's least number."""
    x, matrix = jnp.full((D, N), 16, jnp.float16), jnp.ones((N, F), jnp.float16)
    _, pull = jax.vjp(lambda matrix: product(x, matrix, jnp.float32), matrix)
    np.testing.assert_allclose(*pull(jnp.full((D, F), 1e-8)), 16 * D * 1e-8, rtol=1e-3)


@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_not_differentiated_is_not_multiplied(dtype):
    """The gradient of one factor is one product more, as of adapters beside a frozen table."""
    (x, matrix), _ = factors(dtype)
    program = jax.make_jaxpr(jax.grad(lambda x: product(x, matrix, jnp.float32).sum()))(x)
    assert str(program).count("dot_general") == 2
