"""Attention maps are the weights that layers compute with: of every kind of attention and every choice it has.

What the weights make of the values is compared with what the layer itself hands to its last matrix, which goes the
way of every other run: the two share the logits and nothing after them.
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import Coords, packed
from fxformer.layers.attention import ATTENTION, GQA, MLA, Differential, MLAModule
from fxformer.layers.attention.indexer import Indexer
from fxformer.layers.bias import BIASES
from fxformer.layers.context import Context
from fxformer.ops.mask import visible
from fxformer.walk import parts
from tests.laws.specs import PUBLISHED, STRUCTURES, tokens_of

BATCH, TOKENS, WIDTH = 2, 7, 24
AFTER = {"gate": None, "head_gains": False, "out_norm": None}  # between what is read and the last matrix

UNEVEN = {(GQA, "sinks"), (GQA, "mix_weights"), (Differential, "heads")}  # whose weights do not sum to 1


def choices(attention) -> set:
    """What an attention has: each field that is not at its default, its mask, whether heads share keys."""
    own = {field.name for field in fields(attention) if getattr(attention, field.name) != field.default}
    return {(type(attention), name) for name in own} | {type(part) for part in parts(attention.mask, object)}


def attentions() -> Iterator:
    """Of all models those attentions that have a choice that none before them has."""
    met: set = set()
    for name, spec in {**STRUCTURES, **PUBLISHED}.items():
        for block in spec.stack.blocks:
            for attention in (block.attention, block.cross):
                if attention is not None and not choices(attention) <= met:
                    met |= choices(attention)
                    bare = {name: plain for name, plain in AFTER.items() if name in {f.name for f in fields(attention)}}
                    yield pytest.param(replace(attention, **bare), spec.stack.bias, id=name)


def places() -> Coords:
    """Two documents and padding in one row, one document with a prefix in the other."""
    coords = packed(np.array([[0, 0, 0, 1, 1, 1, -1], [0] * 7]))
    return replace(coords, prefix=jnp.array([[False] * 7, [True] * 3 + [False] * 4]))


def looked(module: nn.Module, bias=None):
    """(map, the values that it weighs, what the last matrix is given) of a layer by itself."""
    rng = np.random.default_rng(0)
    x_BTD = rng.normal(size=(BATCH, TOKENS, WIDTH)).astype(np.float32)
    slots = {} if bias is None else {"bias": BIASES[type(bias)](bias).init_with_output(jax.random.key(1))[0]}
    context = Context(coords=places(), **slots)
    shapes = jax.eval_shape(lambda x_BTD: module.init(jax.random.key(2), x_BTD, context, None), x_BTD)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 4, nn.meta.unbox(shapes))

    @jax.jit
    def look(params, x_BTD, context):
        seen = {}

        def record(call, arguments, options, where):
            result = call(*arguments, **options)
            seen[where.module.name] = arguments[0] if where.module.name in ("out", "norm") else result
            return result

        with nn.intercept_methods(record):
            _, side = module.apply(params, x_BTD, context, None)
        values = next(seen[name] for name in ("value_up", "value_norm", "value") if name in seen)
        return side.stats["map"].value, values, seen.get("norm", seen["out"])

    return jax.tree.map(np.asarray, look(params, x_BTD, replace(context, maps=True)))


def expanded(attention) -> nn.Module:
    """Its layer, with values of every head."""
    module = ATTENTION[type(attention)]
    return partial(module, form="expanded")(attention) if type(attention) is MLA else module(attention)


@pytest.mark.parametrize(("attention", "bias"), list(attentions()))
def test_a_map_is_the_weights_of_the_values(attention, bias):
    map_BHTS, values_BSGU, read_BTHU = looked(expanded(attention), bias)
    heads = map_BHTS.shape[1]
    values_BSHU = np.repeat(values_BSGU.astype(np.float64), heads // values_BSGU.shape[2], axis=2)
    expected = np.einsum("bhts,bshu->bthu", map_BHTS.astype(np.float64), values_BSHU)
    np.testing.assert_allclose(read_BTHU, expected, rtol=1e-5, atol=1e-6)

    seen_BTS = np.asarray(visible(attention.mask, places(), places()))
    assert not np.any(np.where(seen_BTS[:, None], 0, map_BHTS)), "a key that the mask hides has weight"
    count_BT = seen_BTS.sum(-1)
    for index in parts(attention, Indexer):
        count_BT = np.minimum(count_BT, index.keep)
    assert (np.count_nonzero(map_BHTS, axis=-1) == count_BT[:, None]).all(), "each key that is seen has weight"
    if not choices(attention) & UNEVEN:
        sums_BHT = np.broadcast_to(count_BT[:, None] > 0, map_BHTS.shape[:3])
        np.testing.assert_allclose(np.sum(map_BHTS, axis=-1, dtype=np.float64), sums_BHT, atol=1e-6)


def test_every_attention_has_a_map():
    assert {type(parameters.values[0]) for parameters in attentions()} == set(ATTENTION)


def test_the_form_of_a_latent_attention_changes_no_weight():
    spec = STRUCTURES["attention=sparse"].stack.blocks[0].attention
    ways = [looked(MLAModule(spec, form=form))[0] for form in ("expanded", "absorbed")]
    np.testing.assert_allclose(*ways, atol=1e-6)


def test_sinks_take_what_is_missing():
    """Rows sum to one less exp(sink) / (exp(sink) + sum of exp(logits)): sinks of 0 and logits of 0 here."""
    spec = STRUCTURES["attention=sinks"]
    shapes = jax.eval_shape(partial(fx.init, spec), jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    map_LBHTS = fx.attention_maps(spec, params, tokens_of(spec, 2, 5))["attention"]
    expected_TS = np.tril(np.ones((5, 5))) / (2 + np.arange(5)[:, None])
    np.testing.assert_allclose(map_LBHTS, np.broadcast_to(expected_TS, (2, 2, 3, 5, 5)), atol=1e-7)


def test_maps_of_a_model_with_an_encoder_have_its_layers_and_heads():
    spec = fx.zoo.tiny("t5-small")
    params = fx.init(spec, jax.random.key(0))
    read = {"encoder_tokens": tokens_of(spec, 2, 5), "kernel": "blockwise"}
    maps = fx.attention_maps(spec, params, tokens_of(spec, 2, 7), **read)
    heads = spec.stack.blocks[0].attention.heads
    shapes = {
        "attention": (spec.stack.depth, 2, heads, 7, 7),
        "cross": (spec.stack.depth, 2, heads, 7, 5),
        "encoder_attention": (spec.encoder.depth, 2, heads, 5, 5),
    }
    assert {name: map.shape for name, map in maps.items()} == shapes
    for map_LBHTS in maps.values():
        np.testing.assert_allclose(map_LBHTS.sum(-1), 1, atol=1e-6)
    assert not np.any(np.triu(maps["attention"], 1)) and np.all(np.triu(maps["encoder_attention"], 1)[..., 0, 1] > 0)
