"""On which side of the softmax each processor stands, and in which order, against float64 NumPy; no model runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxformer.decode import Sampling
from fxformer.decode.processors import choosable, searchable
from fxformer.decode.request import Ends, Given, request_of
from tests.decode.plainly import log_softmax
from tests.laws.specs import toy

VOCAB = 37
STOP = (3, 8)
LEAST = np.array([0, 2, 5])
LOGITS = np.random.default_rng(0).normal(size=(3, VOCAB)) * 3
SEEN = np.random.default_rng(1).random((3, VOCAB)) < 0.3
BIAS = np.random.default_rng(2).normal(size=VOCAB)


def asked(sampling, *, drawn):
    key = jax.random.key(0) if drawn else None
    given, ends = Given(np.zeros((3, 2), int)), Ends(9, LEAST, STOP)
    return request_of(toy(vocab=VOCAB, depth=1), given, ends, sampling=sampling, key=key)


def weighed(row, made):
    """Bias, penalty, stops: what acts on every choice of one token."""
    scores = LOGITS[row] + BIAS
    scores = np.where(SEEN[row], np.where(scores > 0, scores / 1.4, scores * 1.4), scores)
    if made < LEAST[row]:
        scores[list(STOP)] = -np.inf
    return scores


def filtered(scores):
    """Temperature, top-k, top-p, min-p, each on what the one before has left."""
    scores = scores / 0.7
    scores[np.argsort(-scores)[12:]] = -np.inf
    order = np.argsort(-scores)
    reached = np.cumsum(np.exp(log_softmax(scores))[order])
    scores[order[1 + np.searchsorted(reached, 0.93) :]] = -np.inf
    scores[scores < scores.max() + np.log(0.02)] = -np.inf
    return scores


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("made", [1, 2])
def test_all_that_acts_on_a_choice_comes_before_its_softmax(made, drawn):
    draws = {"temperature": 0.7, "top_k": 12, "top_p": 0.93, "min_p": 0.02} if drawn else {}
    request = asked(Sampling(logit_bias=BIAS, repetition_penalty=1.4, **draws), drawn=drawn)
    ours = choosable(request, jnp.asarray(LOGITS, jnp.float32), jnp.int32(made), jnp.asarray(SEEN))
    rows = [weighed(row, made) for row in range(3)]
    expected = np.stack([filtered(row) for row in rows] if drawn else rows)
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(expected))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert not drawn or 1 < np.isfinite(expected).sum(axis=1).min() <= np.isfinite(expected).sum(axis=1).max() < 12


@pytest.mark.parametrize("made", [1, 2])
def test_a_search_forbids_behind_the_softmax(made):
    """What is left does not add up to 1: it is what the model says of it."""
    logits = np.stack([LOGITS, LOGITS[::-1]], axis=1)
    ours = searchable(asked(Sampling(), drawn=False), jnp.asarray(logits, jnp.float32), jnp.int32(made))
    expected = log_softmax(logits)
    for row in np.flatnonzero(made < LEAST):
        expected[row, :, list(STOP)] = -np.inf
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_an_early_stop_that_a_bias_forces_is_forbidden_all_the_same():
    """-inf and +inf make no number."""
    forced = np.where(np.arange(VOCAB) == 3, np.inf, 0.0)
    request = asked(Sampling(logit_bias=forced), drawn=False)
    ours = np.asarray(choosable(request, jnp.asarray(LOGITS, jnp.float32), jnp.int32(1), None))
    assert ours[:, 3].tolist() == [np.inf, -np.inf, -np.inf]
