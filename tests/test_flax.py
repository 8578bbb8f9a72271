"""Any spec as a module of Flax, Linen or NNX: the same parameters, the same answers, and trained in Flax's own way."""

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import nnx

import fxformer as fx
import fxformer.nnx
from fxformer.linen import Layer, Model

KEY = jax.random.key(0)
SPEC = fx.zoo.toy(width=24, depth=2, heads=3, inner=40, vocab=31, dropout=0.3)
TOKENS = np.random.default_rng(0).integers(0, 31, (2, 9)).astype(np.int32)


@pytest.fixture(scope="module")
def params():
    return fx.init(SPEC, KEY)


def loss_of(logits):
    return fx.ops.cross_entropy(logits[:, :-1], TOKENS[:, 1:]).mean()


def expected_losses(params, steps):
    """Training without a framework: gradients of `apply`, updates of Adam."""
    optimiser = optax.adam(1e-2)
    state, losses = optimiser.init(params), []
    step = jax.jit(jax.value_and_grad(lambda params: loss_of(fx.apply(SPEC, params, TOKENS).logits)))
    for _ in range(steps):
        loss, gradients = step(params)
        updates, state = optimiser.update(gradients, state)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    return losses


def test_a_linen_model_has_the_parameters_of_init(params):
    made = jax.eval_shape(partial(Model(SPEC).init), KEY, TOKENS)["params"]
    shapes = jax.tree.map(lambda leaf: leaf.shape, nn.meta.unbox(made))
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, params)
    assert all(isinstance(box, nn.LogicallyPartitioned) for box in jax.tree.leaves(
        made, is_leaf=lambda node: isinstance(node, nn.LogicallyPartitioned)))  # fmt: skip


def test_linen_and_nnx_models_train_as_the_pure_function_does(params):
    expected = expected_losses(params, 4)
    model, optimiser = Model(SPEC), optax.adam(1e-2)
    variables, losses = {"params": params}, []
    state = optimiser.init(variables)
    step = jax.jit(jax.value_and_grad(lambda variables: loss_of(model.apply(variables, TOKENS).logits)))
    for _ in range(4):
        loss, gradients = step(variables)
        updates, state = optimiser.update(gradients, state)
        variables = optax.apply_updates(variables, updates)
        losses.append(float(loss))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)

    module = fxformer.nnx.model(SPEC, params)
    optimizer = nnx.Optimizer(module, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def train_step(module, optimizer):
        loss, gradients = nnx.value_and_grad(lambda module: loss_of(module(TOKENS).logits))(module)
        optimizer.update(module, gradients)
        return loss

    np.testing.assert_allclose([float(train_step(module, optimizer)) for _ in range(4)], expected, rtol=1e-5)
    trained = fxformer.nnx.params_of(module)
    for leaf, other in zip(jax.tree.leaves(trained), jax.tree.leaves(variables["params"]), strict=True):
        np.testing.assert_allclose(leaf, other, atol=1e-4)
    assert jax.tree.structure(trained) == jax.tree.structure(params)


def test_dropout_follows_the_stream_of_that_name(params):
    """In NNX as in Linen: without one two calls agree, with one they do not."""
    for rngs, same in ((None, True), (nnx.Rngs(dropout=0), False)):
        module = fxformer.nnx.model(SPEC, params, rngs)
        first, second = (module(TOKENS).logits for _ in range(2))
        assert bool((first == second).all()) is same
    model = Model(SPEC)
    dropped = model.apply({"params": params}, TOKENS, rngs={"dropout": KEY}).logits
    np.testing.assert_allclose(dropped, fx.apply(SPEC, params, TOKENS, key=KEY).logits, atol=1e-5)


class Summary(nn.Module):
    """A model of one's own with a stack of ours in it: numbers in, one number out."""

    stack: fx.Stack

    @nn.compact
    def __call__(self, x_BTC):
        x_BTD = nn.Dense(24, name="in")(x_BTC)
        said = Layer(self.stack, name="stack")(x_BTD)
        return nn.Dense(1, name="out")(said.hidden.mean(axis=1))


def test_a_stack_stands_in_a_linen_model_of_ones_own_and_in_nnx():
    x = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    variables = nn.meta.unbox(Summary(SPEC.stack).init(KEY, x))
    y_B1 = Summary(SPEC.stack).apply(variables, x)
    weights = variables["params"]
    own = weights["stack"]["layer"]
    x_BTD = x @ weights["in"]["kernel"] + weights["in"]["bias"]
    hidden = fx.apply_layer(SPEC.stack, own, x_BTD).hidden
    expected = hidden.mean(axis=1) @ weights["out"]["kernel"] + weights["out"]["bias"]
    np.testing.assert_allclose(y_B1, expected, rtol=1e-5, atol=1e-5)
    module = fxformer.nnx.layer(SPEC.stack, own)
    np.testing.assert_allclose(module(x_BTD).hidden, hidden, rtol=1e-5, atol=1e-5)
    assert jax.tree.all(jax.tree.map(np.array_equal, fxformer.nnx.params_of(module), own))


def test_parameters_of_another_model_are_refused(params):
    with pytest.raises(ValueError, match=r"parameters of stack\.group_0 are of 2 layers, the model has 3; give the"):
        fxformer.nnx.model(fx.zoo.toy(width=24, depth=3, heads=3, inner=40, vocab=31), params)
