"""Activations against the formulas in float64 and printed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxformer.ops.activation import ACTIVATIONS
from tests.ops import reference

POINTS = [-3.0, -2.0, -1.0, 0.5, 1.0, 2.0, 3.0]
PRINTED = {
    "gelu_erf": [-0.004049694, -0.045500264, -0.158655254, 0.345731231, 0.841344746, 1.954499736, 2.995950306],
    "gelu_tanh": [-0.003637392, -0.045402306, -0.158808009, 0.345714010, 0.841191991, 1.954597694, 2.996362608],
    "gelu_sigmoid": [-0.018071310, -0.064341377, -0.154204234, 0.350388437, 0.845795766, 1.935658623, 2.981928690],
    "silu": [-0.142277620, -0.238405844, -0.268941421, 0.311229666, 0.731058579, 1.761594156, 2.857722380],
    "relu": [0, 0, 0, 0.5, 1, 2, 3],
    "relu2": [0, 0, 0, 0.25, 1, 4, 9],
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_equals_its_formula_and_the_printed_values(name):
    np.testing.assert_allclose(reference.ACTIVATIONS[name](np.array(POINTS)), PRINTED[name], rtol=0, atol=6e-10)
    x = np.linspace(-6, 6, 241)
    exact = reference.ACTIVATIONS[name](x)
    cancels = 6 * 2.0**-24 * np.abs(x) / 2  # 1 + tanh or 1 + erf is right to a few ulp of 1; x / 2 multiplies that
    error = np.abs(np.asarray(ACTIVATIONS[name](jnp.asarray(x, jnp.float32))) - exact)
    assert (error <= cancels + 2e-6 * np.abs(exact)).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_slope_of_an_activation_is_the_formulas_numeric_one(name):
    x, step = np.linspace(-3.05, 3.05, 62), 1e-5  # 0, where relu has a corner, is not among them
    formula = reference.ACTIVATIONS[name]
    slope = jax.vmap(jax.grad(ACTIVATIONS[name]))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(slope, (formula(x + step) - formula(x - step)) / (2 * step), atol=1e-5)


def test_the_two_gelus_differ_most_where_and_by_what_is_known():
    x = np.linspace(-4, 4, 80_001)
    gap = np.abs(reference.ACTIVATIONS["gelu_erf"](x) - reference.ACTIVATIONS["gelu_tanh"](x))
    assert gap.max() == pytest.approx(4.7324e-4, abs=1e-8)
    at = jnp.float32(2.699)
    assert abs(ACTIVATIONS["gelu_erf"](at) - ACTIVATIONS["gelu_tanh"](at)) == pytest.approx(4.7324e-4, abs=5e-7)
