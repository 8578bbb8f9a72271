"""Checks on the host decide on what is known, within `jit` too, and stage nothing; what is not known becomes NaN."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.cache import fork, rollback
from fxformer.coords import Coords, plain
from fxformer.decode import Sampling
from fxformer.decode.sampling import check_sampling
from fxformer.given import check_capacity, check_end, check_memory, check_positions, check_tokens, check_types
from fxformer.model import Transformer, abstract_params

TINY = {"width": 24, "depth": 1, "heads": 3, "inner": 8, "vocab": 11}
SPEC = fx.zoo.toy(**TINY)
LEARNED = fx.zoo.toy(**TINY, position="learned", length=7)
TYPED = replace(LEARNED, embed=replace(LEARNED.embed, types=2))
TOKENS = np.arange(10, dtype=np.int32).reshape(2, 5)


def filled(spec: Transformer) -> Any:
    """Parameters that take no program to make."""
    return jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, np.float32), jax.tree.map(lambda x: x, of_shapes(spec)))


def of_shapes(spec: Transformer) -> Any:
    return jax.tree.map(lambda box: box.value, abstract_params(spec), is_leaf=lambda node: not isinstance(node, dict))


def of_length(spec: Transformer, length: int, capacity: int = 9, source: int | None = None) -> Any:
    """A cache that holds so many tokens of each row."""
    cache = fx.empty_cache(spec, 2, capacity, encoder_length=source)
    return replace(cache, length_B=jnp.full(2, length, jnp.int32))


CACHED = {
    "toy": SPEC,
    "learned": LEARNED,
    "window": fx.zoo.toy(**TINY, window=3),
    "mla": fx.zoo.toy(**TINY, attention="mla"),
    "encoder": fx.zoo.tiny("t5-small"),
}


@pytest.mark.parametrize("around", [lambda f: f, jax.checkpoint], ids=["jit", "checkpoint"])
@pytest.mark.parametrize("spec", CACHED.values(), ids=CACHED)
def test_a_cache_may_be_closed_over(spec, around):
    params, cache = filled(spec), of_length(spec, 2, 7)
    say = around(lambda tokens: fx.apply(spec, params, tokens, cache=cache).logits)
    assert jax.eval_shape(say, TOKENS).shape == (2, 5, spec.embed.vocab)


def test_what_is_closed_over_is_checked():
    params = filled(LEARNED)

    def refused(say: Any, sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            jax.eval_shape(say, TOKENS)

    full = of_length(SPEC, 6)
    refused(lambda t: fx.apply(SPEC, filled(SPEC), t, cache=full), "token 10 does not fit a cache of 9 tokens")
    late = of_length(LEARNED, 4, 7)
    refused(lambda t: fx.apply(LEARNED, params, t, cache=late), "9 tokens is longer than the 7 learned positions")
    far = plain(5, start=3)
    refused(lambda t: fx.apply(LEARNED, params, t, coords=far), "8 tokens is longer than the 7 learned positions")
    unread = of_length(CACHED["encoder"], 0)
    encoder = CACHED["encoder"]
    refused(lambda t: fx.apply(encoder, filled(encoder), t, cache=unread), "an encoder and nothing to read")
    refused(lambda t: fork(full, [0, 2]).length_B, "fork takes row 2 of a cache of 2 rows")
    refused(lambda t: rollback(full, -1).length_B, "rollback to -1 tokens")


def test_checks_stage_nothing():
    coords = replace(plain(5, start=2), type=jnp.ones((1, 5), jnp.int32))
    cache, encoder = of_length(SPEC, 2), CACHED["encoder"]
    tokens = jnp.asarray(TOKENS)

    def checks() -> None:
        check_tokens(tokens, 11)
        check_positions(TYPED, coords)
        check_types(TYPED, coords)
        check_end(TYPED, cache, 3, cache.length_B)
        check_capacity(cache, coords)
        check_memory(encoder, None, None, of_two)
        check_sampling(sampling, 2, 11, key)

    of_two, sampling, key = of_length(encoder, 2), Sampling(temperature=jnp.ones(2)), jax.random.key(0)
    assert jax.make_jaxpr(checks)().eqns == []


def test_types_and_positions_that_no_table_has():
    params = filled(TYPED)

    def refused(coords: Coords, sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            fx.apply(TYPED, params, TOKENS, coords=coords)

    for kind in (2, -1):
        types = jnp.zeros((1, 5), jnp.int32).at[0, 3].set(kind)
        refused(replace(plain(5), type=types), f"token type {kind} is none of the model's 2")
    before = replace(plain(5), pos=jnp.arange(5)[None] - 1)
    refused(before, "position -1 is before the first of the 7 learned ones; use 0 or more")


def test_within_jit_what_no_table_has_is_nan_and_padding_is_nothing():
    """The row of a token that is none is; the row beside it, and what stands at padding, are not."""
    params = filled(TYPED)

    @jax.jit
    def say(tokens: jax.Array, coords: Coords) -> jax.Array:
        return fx.apply(TYPED, params, tokens, coords=coords).logits

    def places(token: int = 3, pos: int = 3, kind: int = 0, index: int = 3) -> tuple[jax.Array, Coords]:
        def at_three(x: jax.Array, value: int) -> jax.Array:
            return jnp.tile(x, (2, 1)).at[0, 3].set(value)

        row = jnp.arange(5)[None]
        coords = Coords(
            index=at_three(row, index),
            segment=jnp.zeros((2, 5), int),
            prefix=jnp.zeros((2, 5), bool),
            pos=at_three(row, pos),
            type=at_three(0 * row, kind),
        )
        return at_three(row, token), coords

    right = np.asarray(say(*places()))
    assert np.isfinite(right).all()
    for wrong in ({"token": 11}, {"token": -1}, {"pos": 7}, {"pos": -1}, {"kind": 2}, {"kind": -1}):
        said = np.asarray(say(*places(**wrong)))
        assert np.isnan(said[0, 3:]).all(), wrong
        np.testing.assert_array_equal(said[1], right[1])
    hole = np.asarray(say(*places(index=-1)))
    junk = np.asarray(say(*places(index=-1, token=-100, pos=-1, kind=5)))
    assert np.isfinite(junk).all()
    np.testing.assert_array_equal(junk[:, [0, 1, 2, 4]], hole[:, [0, 1, 2, 4]])


@pytest.mark.parametrize("wide", [np.int64(2**32 + 3), np.array([2**32 + 3, 5])], ids=["number", "rows"])
def test_numbers_that_int32_does_not_hold_are_not_cut_off(wide):
    cache, params = of_length(SPEC, 4), filled(SPEC)
    np.testing.assert_array_equal(rollback(cache, wide).length_B, [4, 4])
    with pytest.raises(ValueError, match=r"start=4294967299 is no place"):
        plain(3, start=wide)
    with pytest.raises(ValueError, match=r"fork takes row 4294967299"):
        fork(cache, np.atleast_1d(wide))
    with pytest.raises(ValueError, match=r"max_new_tokens=4294967299 is out of range; use 1 or more, and at most 2147"):
        fx.generate(SPEC, params, TOKENS, wide)


def test_lists_of_tokens_are_tokens():
    say = partial(fx.apply, SPEC, filled(SPEC))
    shape = jax.eval_shape(lambda: say(TOKENS.tolist(), encoder_tokens=None).logits).shape
    assert shape == (2, 5, 11)
    for tokens, sentence in (
        ([[1, 2], [3]], "tokens are rows of unequal lengths; pad them"),
        ([[1.5]], r"tokens are float64 \[1, 1\]; give integers"),
        ("abc", "tokens are <U3 .*; give integers"),
        ([1, 2], r"tokens are int64 \[2\]; give integers \[batch, length\]"),
        (None, r"tokens are object \[\]; give integers"),
    ):
        with pytest.raises(ValueError, match=sentence):
            say(tokens)


OTHERS = {
    "depth": ({"depth": 2}, r"parameters of stack\.group_0 are of 2 layers, the model has 1"),
    "width": ({"inner": 9}, r"stack\.group_0\.blocks\.block_0\.ffn\.down\.weight is \[1, 9, 24\]"),
    "too many": ({"head": "untied"}, r"head\.out\.weight is \[24, 11\], the model needs nothing"),
    "too few": ({"norm": "none"}, r"stack\.final_norm\.scale is missing, the model needs \[24\]"),
}


@pytest.mark.parametrize(("choices", "sentence"), OTHERS.values(), ids=OTHERS)
def test_parameters_of_another_model_are_named(choices, sentence):
    params = filled(fx.zoo.toy(**{**TINY, **choices}))
    with pytest.raises(ValueError, match=sentence) as caught:
        fx.apply(SPEC, params, TOKENS)
    assert "\n" not in str(caught.value)
    if "head" not in choices:  # what is not read does not fail within `jit`
        with pytest.raises(ValueError, match=sentence):
            jax.eval_shape(lambda tokens: fx.apply(SPEC, params, tokens), TOKENS)
    for none in (None, {}, [], "parameters"):
        with pytest.raises(ValueError, match=r"^there are no parameters"):
            fx.apply(SPEC, none, TOKENS)
