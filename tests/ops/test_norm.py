"""Normalisations against the formulas in float64 and printed vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxformer.layers.norm import Norm, NormModule
from fxformer.ops.norm import ACROSS_TOKENS, NORMS, layer_norm, normalise, rms_norm
from tests.ops import reference

RNG = np.random.default_rng(0)
COUNTING = jnp.array([1.0, 2.0, 3.0, 4.0])


def test_printed_vectors():
    np.testing.assert_allclose(
        layer_norm(COUNTING), [-1.3416354200, -0.4472118067, 0.4472118067, 1.3416354200], rtol=1e-6
    )
    np.testing.assert_allclose(rms_norm(COUNTING), [0.3651483473, 0.7302966947, 1.0954450420, 1.4605933893], rtol=1e-6)
    np.testing.assert_allclose(NORMS["l2"](jnp.array([3.0, 4.0]), 1e-6), [0.6, 0.8], rtol=1e-6)
    columns = jnp.array([[[1.0, 8.0], [2.0, 8.0]], [[3.0, 8.0], [4.0, 8.0]]])
    normed = np.stack([[-1.3416354200, -0.4472118067, 0.4472118067, 1.3416354200], np.zeros(4)], axis=-1)
    np.testing.assert_allclose(NORMS["batch"](columns, 1e-5), normed.reshape(2, 2, 2), rtol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_a_norm_equals_its_formula_with_gain_and_bias(kind, eps):
    x, scale, bias = 0.1 * RNG.normal(size=(3, 5, 7)) + 0.3, RNG.normal(size=7), RNG.normal(size=7)
    y = normalise(*(jnp.asarray(a, jnp.float32) for a in (x, scale, bias)), kind=kind, eps=eps)
    np.testing.assert_allclose(y, reference.NORMS[kind](x, eps) * scale + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_the_gradient_of_a_norm_is_the_formulas_numeric_one(kind):
    x, toward, weights, step = RNG.normal(size=(5, 7)), RNG.normal(size=(5, 7)), RNG.normal(size=(5, 7)), 1e-5
    rise = [(weights * reference.NORMS[kind](x + sign * step * toward, 1e-3)).sum() for sign in (1, -1)]
    gradient = jax.grad(lambda x: (weights * NORMS[kind](x, 1e-3)).sum())(jnp.asarray(x, jnp.float32))
    assert (gradient * toward).sum() == pytest.approx((rise[0] - rise[1]) / (2 * step), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(shift=st.floats(-50, 50), stretch=st.floats(0.1, 1e4), seed=st.integers(0, 99))
def test_layer_norm_ignores_shift_and_scale_and_rms_norm_scale_only(shift, stretch, seed):
    x = np.random.default_rng(seed).normal(size=9).astype(np.float32)
    near = {"rtol": 0, "atol": 2e-4 * (1 + abs(shift))}  # a shift costs digits before the norm sees them
    np.testing.assert_allclose(layer_norm(stretch * (x + shift), eps=0.0), layer_norm(x, eps=0.0), **near)
    np.testing.assert_allclose(rms_norm(stretch * x, eps=0.0), rms_norm(x, eps=0.0), rtol=1e-5)


def test_layer_norm_is_rms_norm_of_the_centred_vector():
    x = jnp.asarray(RNG.normal(size=(5, 7)) + 2, jnp.float32)
    np.testing.assert_allclose(layer_norm(x, eps=1e-3), rms_norm(x - x.mean(-1, keepdims=True), eps=1e-3), rtol=1e-6)


def test_half_precision_is_reduced_in_float32():
    """4096 values of 8 + 1/16: a sum in bfloat16 stops growing at 2048 of them, and squares lose their last bits."""
    x = jnp.full((4096,), 8.0625, jnp.bfloat16).at[0].set(-8.0625)
    exact = reference.NORMS["layer"](np.asarray(x, np.float64), 1e-5)
    y = layer_norm(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=2**-8)
    np.testing.assert_array_equal(y, layer_norm(x.astype(jnp.float32)).astype(jnp.bfloat16))


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_joint_axes_are_normalised_as_one_vector(kind, eps):
    """OLMo 2 normalises all heads of a query together; the gain has a number for each head and channel."""
    x, scale, bias = 0.1 * RNG.normal(size=(3, 5, 2, 7)) + 0.3, RNG.normal(size=(2, 7)), RNG.normal(size=(2, 7))
    y = normalise(*(jnp.asarray(a, jnp.float32) for a in (x, scale, bias)), kind=kind, eps=eps, joint=2)
    expected = reference.NORMS[kind](x.reshape(3, 5, 14), eps) * scale.reshape(14) + bias.reshape(14)
    np.testing.assert_allclose(y, expected.reshape(x.shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_across_tokens_are_the_norms_by_which_a_token_sees_others(kind):
    x_BTD = jnp.asarray(RNG.normal(size=(2, 3, 5)), jnp.float32)
    weights_D = jnp.asarray(RNG.normal(size=5), jnp.float32)
    influence_BTD = jax.grad(lambda x_BTD: NORMS[kind](x_BTD, 1e-6)[1, 1] @ weights_D)(x_BTD)
    others_BT = np.ones((2, 3), bool)
    others_BT[1, 1] = False
    assert np.all(influence_BTD[1, 1] != 0)
    assert np.all(np.any(influence_BTD[others_BT] != 0, axis=-1) == (kind in ACROSS_TOKENS))


def test_short_vectors_are_divided_by_eps_and_zeros_have_a_gradient():
    x, eps = jnp.array([0.03, -0.04, 0.0]), 0.1
    np.testing.assert_allclose(NORMS["l2"](x, eps), x / eps, rtol=1e-6)
    np.testing.assert_allclose(jax.jacobian(NORMS["l2"])(jnp.zeros(3), eps), np.eye(3) / eps, rtol=1e-6)


@pytest.mark.parametrize(("offset", "start"), [(0.0, 1.0), (1.0, 0.0), (0.25, 0.75)])
def test_the_gain_is_its_offset_and_a_parameter_and_starts_at_one(offset, start):
    x = RNG.normal(size=(3, 5, 2, 7))
    module = NormModule(Norm(kind="rms", eps=1e-3, offset=offset), axes="hk")
    params = jax.tree.map(np.asarray, module.init(jax.random.key(0), jnp.asarray(x, jnp.float32)))["params"]
    np.testing.assert_array_equal(params["scale"].unbox(), np.full((2, 7), start))
    assert params["scale"].names == ("head", "key")
    scale = RNG.normal(size=(2, 7))
    y = module.apply({"params": {"scale": jnp.asarray(scale, jnp.float32)}}, jnp.asarray(x, jnp.float32))
    expected = reference.NORMS["rms"](x.reshape(3, 5, 14), 1e-3).reshape(x.shape) * (offset + scale)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_dynamic_tanh_is_the_papers_formula_with_a_learned_alpha():
    """gamma tanh(alpha x) + beta; alpha is one number, learned."""
    x, gamma, alpha, beta = RNG.normal(size=(3, 5, 7)), RNG.normal(size=7), 0.8, RNG.normal(size=7)
    module, x_f32 = NormModule(Norm(kind="dyt", bias=True, alpha=0.5)), jnp.asarray(x, jnp.float32)
    fresh = module.init(jax.random.key(0), x_f32)
    np.testing.assert_allclose(module.apply(fresh, x_f32), reference.NORMS["dyt"](x / 2, None), rtol=1e-5, atol=1e-6)
    params = {name: jnp.float32(value) for name, value in {"scale": gamma, "alpha": alpha, "bias": beta}.items()}
    y, pull = jax.vjp(lambda params: module.apply({"params": params}, x_f32), params)
    tanh = reference.NORMS["dyt"](alpha * x, None)
    np.testing.assert_allclose(y, gamma * tanh + beta, rtol=1e-5, atol=1e-5)
    slope = (gamma * x * (1 - tanh**2)).sum()
    assert pull(jnp.ones_like(y))[0]["alpha"] == pytest.approx(slope, rel=1e-4)


def test_an_offset_without_a_gain_is_refused():
    with pytest.raises(ValueError, match=r"^offset=0\.5 has no gain to move; use offset=0\.0, or scale=True$"):
        Norm(kind="rms", scale=False, offset=0.5)
