"""Where no token can follow, the user is told; what is closed over or too large is checked before anything is read."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import padded
from fxformer.decode import beam, fill_masks, speculate, stream

TINY = {"width": 24, "depth": 1, "heads": 3, "inner": 8, "vocab": 11}
SPEC = fx.zoo.toy(**TINY)
LEARNED = fx.zoo.toy(**TINY, position="learned", length=7)
TOKENS = np.arange(10, dtype=np.int32).reshape(2, 5)
KEY = jax.random.key(0)
EMPTY_ROW = padded(np.array([[1] * 5, [0] * 5], bool))


def filled(spec, value=0.1):
    shapes = jax.eval_shape(partial(fx.init, spec), KEY)
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value), shapes)


NOTHING = "^no token can follow in row 0: all its logits are NaN or -inf"


@pytest.mark.parametrize("key", [None, KEY], ids=["likeliest", "drawn"])
def test_parameters_that_are_nan_say_nothing(key):
    params = filled(SPEC, jnp.nan)
    with pytest.raises(ValueError, match=NOTHING):
        fx.generate(SPEC, params, TOKENS, 3, key=key)
    with pytest.raises(ValueError, match=NOTHING):
        next(stream(SPEC, params, TOKENS, 3, key=key))
    with pytest.raises(ValueError, match=NOTHING):
        speculate(SPEC, params, TOKENS, 3, draft=(SPEC, filled(SPEC)), key=key)


def test_a_search_and_masks_have_nothing_to_choose_from():
    with pytest.raises(ValueError, match=NOTHING):
        beam(SPEC, filled(SPEC, jnp.nan), TOKENS, 3, beams=2)
    encoder = fx.zoo.toy(**TINY, mask="full")
    with pytest.raises(ValueError, match=NOTHING):
        fill_masks(encoder, filled(encoder, jnp.nan), TOKENS, 3)


def test_a_row_without_a_token_that_is_allowed_is_named():
    """The bias of the second row forbids all tokens; that of the first all but one."""
    bias = np.full((2, 11), -np.inf)
    bias[0, 4] = 0
    with pytest.raises(ValueError, match=r"^no token can follow in row 1: "):
        fx.generate(SPEC, filled(SPEC), TOKENS, 3, logit_bias=bias)
    bias[1, 5] = np.inf  # an infinite preference is one
    text = fx.generate(SPEC, filled(SPEC), TOKENS, 3, logit_bias=bias)
    np.testing.assert_array_equal(text[:, 5:], [[4] * 3, [5] * 3])


@pytest.mark.parametrize(
    ("say", "sentence"),
    [
        (lambda params: fx.generate(LEARNED, params, TOKENS, 9), "5 tokens and 9 new ones are more than the 7 learned"),
        (lambda params: fx.generate(LEARNED, params, TOKENS + 9, 2), "token 18 is outside the vocabulary of 11"),
        (
            lambda params: fx.generate(LEARNED, params, TOKENS, 2, coords=EMPTY_ROW),
            "prompt 1 is empty",
        ),
        (
            lambda params: fx.generate(LEARNED, params, TOKENS.astype(np.int64) + 2**32, 2),
            "token 4294967305 is outside the vocabulary of 11",
        ),
    ],
    ids=["positions", "tokens", "padding", "64 bits"],
)
def test_what_is_known_is_checked_before_and_within_jit(say, sentence):
    params = filled(LEARNED)
    for where in (say, partial(jax.eval_shape, say)):
        with pytest.raises(ValueError, match=sentence):
            where(params)


def test_the_count_of_new_tokens_has_to_be_known():
    with pytest.raises(ValueError, match=r"^max_new_tokens is traced and decides what is compiled"):
        jax.eval_shape(lambda count: fx.generate(SPEC, filled(SPEC), TOKENS, count), 3)
