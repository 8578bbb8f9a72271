"""What cannot be done is refused with one sentence that carries the numbers and the remedy."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import padded, plain
from fxformer.layers.attention import GQA
from fxformer.layers.bias import Buckets
from fxformer.layers.embed import Embed
from fxformer.layers.norm import Norm
from fxformer.layers.project import FanIn
from fxformer.layers.residual import Residual
from fxformer.ops.rotary import NTK, Rotary, frequencies
from fxformer.stack import Repeat

TOY = {"width": 24, "depth": 2, "heads": 3, "inner": 40}
SPEC = fx.zoo.toy(**TOY)
LEARNED = fx.zoo.toy(**TOY, position="learned", length=7)
TOKENS = np.arange(10, dtype=np.int32).reshape(2, 5)


@pytest.fixture(scope="module")
def params():
    return fx.init(SPEC, jax.random.key(0))


@pytest.fixture(scope="module")
def learned_params():
    return fx.init(LEARNED, jax.random.key(0))


def refuses(make, *words):
    """One sentence, on one line, with each of these words in it, in this order."""
    with pytest.raises(ValueError, match=".*".join(map(re.escape, words))) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"heads": 8, "width": 64, "kv_heads": 3}, ["kv_heads=3 does not divide heads=8; use 1, 2, 4 or 8"]),
        ({"kv_heads": 0}, ["kv_heads=0", "heads=3; use 1 or 3"]),
        ({"heads": 5}, ["heads=5 does not divide width=24; use 1, 2, 3, 4, 6, 8, 12 or 24"]),
        ({"heads": 0}, ["heads=0 does not divide width=24"]),
        ({"heads": 24}, ["rotary width=1", "even", "2 or more"]),
        ({"width": 27}, ["rotary width=9", "even"]),
        ({"depth": 0}, ["depth 0 x 1 blocks", "1 or more"]),
        ({"window": 0}, ["window size=0", "1 or more"]),
        ({"inner": 0}, ["inner=0", "1 or more"]),
        ({"vocab": 0}, ["vocab=0", "1 or more"]),
        ({"dropout": 1.0}, ["dropout=1.0", "less than 1"]),
        ({"dropout": -0.1}, ["dropout=-0.1", "0 or more"]),
        ({"softcap": 0.0}, ["softcap=0.0", "more than 0"]),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_together(choices, words):
    refuses(lambda: fx.zoo.toy(**{**TOY, **choices}), *words)


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("norm", "rmss", "rms"),
        ("placement", "sandwhich", "sandwich"),
        ("position", "rotery", "rotary"),
        ("activation", "gelu_tan", "gelu_tanh"),
        ("ffn", "glue", "glu"),
        ("head", "teid", "tied"),
        ("qk_norm", "layr", "layer"),
    ],
)
def test_an_unknown_choice_is_told_the_nearest_one(name, wrong, right):
    refuses(lambda: fx.zoo.toy(**{**TOY, name: wrong}), f"{wrong!r} is unknown; did you mean {right!r}?")


def test_a_choice_that_resembles_none_is_told_all():
    refuses(lambda: fx.zoo.toy(**TOY, placement="zzz"), "placement='zzz' is unknown; use one of pre, post, sandwich")


def test_an_unknown_model_is_told_the_nearest_one():
    for look_up in (fx.zoo.get, fx.zoo.tiny, fx.zoo.family_of):
        refuses(lambda look_up=look_up: look_up("lama2-7b"), "model='lama2-7b' is unknown; did you mean 'llama2-7b'?")


def test_unknown_names_in_specs_are_told_the_nearest_one():
    refuses(lambda: Norm(kind="layernorm"), "norm kind='layernorm' is unknown; did you mean 'layer'?")
    refuses(lambda: Residual(placement="pots", norm=Norm(kind="rms")), "placement='pots'", "did you mean 'post'?")
    refuses(lambda: Rotary(width=8, pairing="interleave"), "pairing='interleave'", "did you mean 'interleaved'?")


def test_specs_that_cannot_be():
    refuses(lambda: Rotary(width=8, streams=0), "streams=0", "1 or more")
    refuses(lambda: GQA(heads=0, kv_heads=1, key_width=8), "heads=0", "1 or more")
    refuses(lambda: GQA(heads=2, kv_heads=1, key_width=0), "key_width=0", "1 or more")
    refuses(
        lambda: GQA(heads=2, kv_heads=1, key_width=6, rotary=Rotary(width=4, streams=2)),
        "rotates 8 channels, key_width=6",
    )
    refuses(lambda: Repeat(2, ()), "depth 2 x 0 blocks", "1 or more")
    refuses(lambda: Embed(vocab=11, width=0, init=FanIn()), "vocab=11, width=0", "1 or more")
    refuses(lambda: replace(SPEC.stack, bias=Buckets(heads=4)), "bias has heads=4, attention has heads=3")
    refuses(lambda: Buckets(heads=3, count=1), "1 buckets", "128", "2 or more")
    refuses(lambda: Buckets(heads=3, count=32, max_distance=16), "32 buckets for distances up to 16")
    refuses(lambda: frequencies(Rotary(width=2, scaling=NTK(factor=2.0))), "width=2", "4 or more")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (np.array([[3, 256]]), ["token 256 is outside the vocabulary of 256"]),
        (np.array([[3, -1]]), ["token -1 is outside the vocabulary of 256"]),
        (np.arange(5), ["tokens are int64 [5]; give integers [batch, length]"]),
        (np.zeros((2, 3, 4), np.int32), ["tokens are int32 [2, 3, 4]", "[batch, length]"]),
        (np.zeros((2, 3), np.float32), ["tokens are float32 [2, 3]; give integers"]),
        (np.zeros((2, 3), bool), ["tokens are bool [2, 3]; give integers"]),
        (np.zeros((2, 0), np.int32), ["tokens are int32 [2, 0]: none; give at least one"]),
    ],
    ids=str,
)
def test_tokens_that_are_none(params, tokens, words):
    refuses(lambda: fx.apply(SPEC, params, tokens), *words)


def test_tokens_of_any_integer_type_are_tokens(params):
    expected = fx.apply(SPEC, params, TOKENS).logits
    for dtype in (np.uint8, np.int16, np.int64):
        np.testing.assert_array_equal(fx.apply(SPEC, params, TOKENS.astype(dtype)).logits, expected)


def test_a_sequence_longer_than_the_learned_positions(learned_params):
    refuses(lambda: fx.apply(LEARNED, learned_params, np.zeros((2, 8), int)), "8 tokens is longer than the 7 learned")
    refuses(
        lambda: fx.apply(LEARNED, learned_params, TOKENS, coords=plain(5, start=3)),
        "8 tokens is longer than the 7 learned",
    )
    refuses(lambda: fx.empty_cache(LEARNED, 2, 8), "length=8 is beyond the 7 learned positions; use 7 or less")
    with pytest.raises(ValueError, match="8 tokens is longer than the 7 learned"):
        jax.eval_shape(lambda tokens: fx.apply(LEARNED, learned_params, tokens), jnp.zeros((2, 8), int))
    # Only tokens that are there need a position: one more of padding does no harm.
    valid = jnp.array([[True] * 7 + [False]] * 2)
    fx.apply(LEARNED, learned_params, np.zeros((2, 8), int), coords=padded(valid))


def test_a_full_cache(params):
    cache = fx.empty_cache(SPEC, 2, 7)
    cache = fx.apply(SPEC, params, TOKENS, cache=cache).cache
    refuses(lambda: fx.apply(SPEC, params, TOKENS[:, :3], cache=cache), "token 7 does not fit a cache of 7 tokens")
    cache = fx.apply(SPEC, params, TOKENS[:, :2], cache=cache).cache
    refuses(lambda: fx.apply(SPEC, params, TOKENS[:, :1], cache=cache), "token 7 does not fit a cache of 7 tokens")


def test_a_cache_that_holds_nothing():
    refuses(lambda: fx.empty_cache(SPEC, 0, 5), "batch=0, length=5", "1 or more")
    refuses(lambda: fx.empty_cache(SPEC, 2, 0), "batch=2, length=0", "1 or more")


@pytest.mark.parametrize("rows", [1, 3])
def test_a_cache_of_another_batch(params, rows):
    cache = fx.empty_cache(SPEC, rows, 9)
    for coords in (None, plain(5)):
        refuses(
            lambda coords=coords: fx.apply(SPEC, params, TOKENS, cache=cache, coords=coords),
            f"cache has {rows} rows, tokens have 2; make an empty cache of batch=2",
        )


def test_coordinates_of_other_tokens(params):
    rows = padded(jnp.ones((3, 5), bool))
    refuses(lambda: fx.apply(SPEC, params, TOKENS, coords=rows), "coords have 3 rows, tokens have 2; give 1 or 2 rows")
    refuses(
        lambda: fx.apply(SPEC, params, TOKENS, coords=plain(4)), "coords have 4 tokens a row, tokens have 5; give 5"
    )
    two = replace(plain(5), pos=jnp.zeros((1, 5, 2), int))
    refuses(lambda: fx.apply(SPEC, params, TOKENS, coords=two), "positions have 2 streams, rotary has 1; give 1")


def test_ways_to_compute_that_do_not_exist(params):
    refuses(
        lambda: fx.apply(SPEC, params, TOKENS, kernel="blockwize"),
        "kernel='blockwize' is unknown; did you mean 'blockwise'?",
    )
    refuses(lambda: fx.apply(SPEC, params, TOKENS, unroll=0), "unroll=0", "1 or more")


def test_arrays_that_cannot_attend():
    q, k = jnp.zeros((2, 5, 6, 8)), jnp.zeros((2, 7, 4, 8))
    refuses(lambda: fx.ops.attend(q, k, k), "kv_heads=4 does not divide heads=6; use 1, 2, 3 or 6")
    k = k[:, :, :3]
    refuses(lambda: fx.ops.attend(q, k, k, q=plain(4)), "coords have 4 tokens a row, tokens have 5")
    refuses(lambda: fx.ops.attend(q, k, k, k=padded(jnp.ones((3, 7), bool))), "coords have 3 rows, tokens have 2")
    refuses(lambda: fx.ops.rotate(q, jnp.arange(5)[None], Rotary(width=10)), "rotates 10 channels, heads have 8")
