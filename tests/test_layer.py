"""Layers, blocks and stacks by themselves say what they say within a model, and what their formulas say."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.cache import empty_table
from fxformer.layer import ALONE
from fxformer.layers import GLU, GQA, MLP, Norm
from fxformer.layers.attention import ATTENTION
from fxformer.layers.ffn import FFN
from fxformer.stack import StackModule

KEY = jax.random.key(0)
SPEC = fx.zoo.toy(width=24, depth=1, heads=3, kv_heads=1, inner=40, position="t5")
X = np.random.default_rng(0).normal(size=(2, 7, 24)).astype(np.float32)
MASK = np.array([[True] * 7, [True] * 5 + [False] * 2])


def test_a_stack_says_what_the_model_does():
    params = fx.init(SPEC, KEY)
    tokens = np.arange(14).reshape(2, 7)
    x = params["embed"]["table"][tokens] * SPEC.embed.scale
    coords = fx.padded(MASK)
    alone = fx.apply_layer(SPEC.stack, params["stack"], x, coords=coords)
    within = fx.apply(SPEC, params, tokens, coords=coords)
    np.testing.assert_allclose(alone.hidden, within.hidden, rtol=1e-5, atol=1e-5)
    assert list(alone.stats) == list(within.stats) and alone.table is None


def test_a_block_is_its_layers_joined():
    """Pre-norm, x + f(norm x) twice: block, attention, norm and feed-forward layer, each called alone."""
    spec = fx.zoo.toy(width=24, heads=3, inner=40, ffn="glu").stack.blocks[0]
    params = fx.init_layer(spec, KEY, X)
    whole = fx.apply_layer(spec, params, X).hidden

    def join(x, part, layer):
        h = fx.apply_layer(spec.residual.norm, params[f"{part}_residual"]["before"], x).hidden
        return x + fx.apply_layer(layer, params[part], h).hidden

    joined = join(join(X, "attention", spec.attention), "ffn", spec.ffn)
    np.testing.assert_allclose(whole, joined, rtol=1e-5, atol=1e-5)


def test_dense_layers_and_norms_are_their_formulas():
    """In float64 NumPy: relu(x U) D, (relu(x G) * x U) D and x / rms(x)."""
    for spec in (MLP(inner=10, activation="relu"), GLU(inner=10, activation="relu")):
        params = fx.init_layer(spec, KEY, X)
        weights = {name: np.asarray(leaf["weight"], np.float64) for name, leaf in params.items()}
        inner = X @ weights["up"]
        inner = np.maximum(X @ weights["gate"], 0) * inner if "gate" in weights else np.maximum(inner, 0)
        said = fx.apply_layer(spec, params, X).hidden
        np.testing.assert_allclose(said, inner @ weights["down"], rtol=1e-5, atol=1e-5)
    norm = Norm(kind="rms", scale=False)
    expected = X / np.sqrt(np.mean(X.astype(np.float64) ** 2, axis=-1, keepdims=True) + norm.eps)
    assert fx.init_layer(norm, KEY, X) == {}
    np.testing.assert_allclose(fx.apply_layer(norm, {}, X).hidden, expected, rtol=1e-5)


def test_attention_to_a_memory_of_the_same_tokens_is_self_attention():
    spec = GQA(heads=3, kv_heads=1, key_width=8, mask=fx.ops.Full())
    params, coords = fx.init_layer(spec, KEY, X), fx.padded(MASK)
    itself = fx.apply_layer(spec, params, X, coords=coords).hidden
    crossed = fx.apply_layer(spec, params, X, coords=coords, memory=fx.Memory(X, coords)).hidden
    np.testing.assert_allclose(itself, crossed, rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(fx.init_layer(spec, KEY, X, memory=fx.Memory(X, coords))) == jax.tree.structure(params)


def test_a_layer_reads_piece_by_piece_with_a_table():
    spec = fx.zoo.toy(width=24, heads=3, inner=40).stack.blocks[0].attention
    params = fx.init_layer(spec, KEY, X)
    table = empty_table(spec.records, batch=2, length=7, reach=None, dtype=jnp.float32)
    first = fx.apply_layer(spec, params, X[:, :4], table=table, coords=fx.plain(4))
    second = fx.apply_layer(spec, params, X[:, 4:], table=first.table, coords=fx.plain(3, start=4))
    pieces = jnp.concatenate([first.hidden, second.hidden], axis=1)
    np.testing.assert_allclose(pieces, fx.apply_layer(spec, params, X).hidden, rtol=1e-5, atol=1e-5)


def test_every_attention_and_every_feed_forward_layer_stands_alone():
    assert set(ALONE) >= {*ATTENTION, *FFN, Norm, fx.Block, fx.Stack}
    assert all(kind.__name__ in vars(fx.layers) for kind in (*ATTENTION, *FFN))


PARAMS = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, np.float32),
    jax.eval_shape(partial(fx.init_layer, MLP(inner=10, activation="relu")), KEY, X),
)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda spec: fx.apply_layer("mlp", PARAMS, X), "spec='mlp' does not fit; give GQA, "),
        (lambda spec: fx.init_layer(StackModule, KEY, X), "does not fit; give GQA, "),
        (
            lambda spec: fx.apply_layer(spec, PARAMS, X[0]),
            "x=float32 [7, 24] does not fit; give floating point",
        ),
        (lambda spec: fx.apply_layer(spec, PARAMS, X.astype(int)), "x=int64 [2, 7, 24] does not fit; give floating"),
        (lambda spec: fx.apply_layer(spec, PARAMS, X[..., :9]), "down.weight is [10, 24], the model needs [10, 9]"),
        (lambda spec: fx.apply_layer(spec, {}, X), "parameter down.weight is missing, the model needs"),
        (
            lambda spec: fx.apply_layer(spec, PARAMS, X, coords=MASK),
            "coords=bool [2, 7] does not fit; give Coords (fx",
        ),
        (lambda spec: fx.apply_layer(spec, PARAMS, X, coords=fx.plain(5)), "coords have 5 tokens a row, tokens have 7"),
        (lambda spec: fx.apply_layer(spec, PARAMS, X, table=3), "a table says not where the new tokens stand; give c"),
        (lambda spec: fx.init_layer(spec, 3, X), "key=3 is no key; give jax.random.key(seed)"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        make(MLP(inner=10, activation="relu"))
    assert "\n" not in str(caught.value)
