"""Beam search against the enumeration of every continuation, and against passes that know no cache."""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import padded
from fxformer.decode import beam
from fxformer.verify import disturbed
from tests.decode.plainly import filled_up, log_softmax, logits_of
from tests.laws.specs import toy

SPEC = toy(vocab=5, head="untied")
PARAMS = disturbed(SPEC, seed=3)
PROMPT = np.array([[1, 2, 3], [4, 0, 2]])
PAD = 0


def continuations(spec, params, prompt, count, *, stop, power, least=0, **source):
    """Every text of at most `count` tokens that ends with a stop or is as long, with its score, the best first."""
    texts = np.array(list(product(range(spec.embed.vocab), repeat=count)))
    rows = np.concatenate([np.repeat([prompt], len(texts), axis=0), texts], axis=1)
    source = {name: jnp.repeat(read, len(texts), axis=0) for name, read in source.items()}
    logp = log_softmax(logits_of(spec, params, rows, **source)[:, len(prompt) - 1 : -1])
    logp[:, :least, list(stop)] = -np.inf  # what the model says of the others stays
    logp = np.take_along_axis(logp, texts[..., None], axis=-1)[..., 0]
    found = {}
    for text, own in zip(texts.tolist(), logp, strict=True):
        length = next((i + 1 for i, token in enumerate(text) if token in stop), count)
        found[tuple(text[:length])] = own[:length].sum() / length**power
    return sorted(found.items(), key=lambda item: -item[1])


def same(found, texts, scores, count):
    for (text, score), ours, theirs in zip(found, texts.tolist(), scores, strict=False):
        assert ours == filled_up(text, count, PAD)
        np.testing.assert_allclose(theirs, score, atol=1e-4)


@pytest.mark.parametrize("stop", [(), (3,), (3, 1)])
@pytest.mark.parametrize("power", [0.0, 0.7, 2.0])
def test_a_beam_that_is_wide_enough_finds_the_best_of_all_texts(stop, power):
    """beams=200 drop no text of four tokens that could be among the best ten: 64 or fewer go on to the last."""
    text, scores = beam(SPEC, PARAMS, PROMPT, 4, beams=200, length_penalty=power, stop=stop, pad=PAD)
    assert text.shape == (2, 200, 3 + 4)
    np.testing.assert_array_equal(text[:, :, :3], np.broadcast_to(PROMPT[:, None], (2, 200, 3)))
    for row in range(2):
        found = continuations(SPEC, PARAMS, PROMPT[row], 4, stop=stop, power=power)[:10]
        same(found, text[row, :10, 3:], scores[row], 4)


def test_no_text_stops_before_the_least_tokens():
    text, scores = beam(SPEC, PARAMS, PROMPT, 4, beams=200, stop=3, min_new_tokens=2, pad=PAD)
    for row in range(2):
        found = continuations(SPEC, PARAMS, PROMPT[row], 4, stop=(3,), power=1.0, least=2)[:10]
        same(found, text[row, :10, 3:], scores[row], 4)


def test_a_stop_that_comes_too_early_takes_its_probability_with_it():
    """As in transformers, where min_new_tokens acts on log probabilities: the second text is (2, 0, 0) at -0.8025."""
    spec = fx.zoo.toy(vocab=4, width=16, depth=1, heads=2)
    params = fx.init(spec, jax.random.key(1))
    text, scores = beam(spec, params, np.array([[1, 2]]), 3, beams=40, stop=3, min_new_tokens=2)
    assert text[0, 1, 2:].tolist() == [2, 0, 0]
    np.testing.assert_allclose(scores[0, 1], -0.8025, atol=5e-5)


def test_what_stands_behind_a_stop_can_be_chosen():
    """By default it is the first stop token, as in `generate`."""
    for pad, behind in ((4, 4), (None, 3)):
        text = np.asarray(beam(SPEC, PARAMS, PROMPT, 4, beams=200, stop=3, pad=pad).text)[:, :, 3:]
        ended = np.cumsum(text == 3, axis=-1) - (text == 3) > 0
        assert ended.any() and (text[ended] == behind).all()


def test_an_encoder_decoder_searches_beside_its_source():
    tiny = fx.zoo.tiny("t5-small")
    spec = replace(tiny, embed=replace(tiny.embed, vocab=6))
    params = disturbed(spec)
    source = jnp.asarray(np.random.default_rng(1).integers(0, 6, (2, 5)))
    text, scores = beam(spec, params, PROMPT[:, :1], 3, beams=60, stop=2, pad=PAD, encoder_tokens=source)
    best = []
    for row in range(2):
        own = source[row : row + 1]
        found = continuations(spec, params, PROMPT[row, :1], 3, stop=(2,), power=1.0, encoder_tokens=own)[:8]
        same(found, text[row, :8, 1:], scores[row], 3)
        best.append(found[0][0])
    assert best[0] != best[1]


def test_one_beam_is_greedy():
    """With a length penalty of 0: with another, a text that goes on may beat one that has stopped."""
    whole = fx.generate(SPEC, PARAMS, PROMPT, 9)
    np.testing.assert_array_equal(beam(SPEC, PARAMS, PROMPT, 9, beams=1).text[:, 0], whole)
    stop = int(whole[0, 5])
    options = {"stop": stop, "pad": 4}
    ours = beam(SPEC, PARAMS, PROMPT, 9, beams=1, length_penalty=0.0, **options).text[:, 0]
    np.testing.assert_array_equal(ours, fx.generate(SPEC, PARAMS, PROMPT, 9, **options))


def test_a_narrow_beam_on_ragged_rows_and_windows_says_the_probabilities_of_its_texts():
    """Rows padded on the left, each as alone; four different texts, the best first, scored as an uncached pass does."""
    spec = toy(vocab=11, window=4, head="untied")
    params, tokens = disturbed(spec), np.random.default_rng(2).integers(0, 11, (2, 6))
    valid = np.array([[0, 0, 1, 1, 1, 1], [1] * 6], bool)
    text, scores = beam(spec, params, tokens, 8, beams=4, length_penalty=0.6, coords=padded(valid))
    for row in range(2):
        prompt = tokens[row, valid[row]]
        alone = beam(spec, params, prompt[None], 8, beams=4, length_penalty=0.6)
        np.testing.assert_array_equal(text[row, :, 6:], alone.text[0, :, len(prompt) :])
        new = np.asarray(text[row, :, 6:])
        assert len(np.unique(new, axis=0)) == 4 and (np.diff(scores[row]) <= 0).all()
        rows = np.concatenate([np.repeat([prompt], 4, axis=0), new], axis=1)
        logp = log_softmax(logits_of(spec, params, rows))[:, len(prompt) - 1 : -1]
        likelihood = np.take_along_axis(logp, new[..., None], axis=-1)[..., 0].sum(axis=1)
        np.testing.assert_allclose(scores[row], likelihood / 8**0.6, atol=1e-4)
        greedy = np.asarray(fx.generate(spec, params, prompt[None], 8))
        own = log_softmax(logits_of(spec, params, greedy))[0, len(prompt) - 1 : -1]
        assert likelihood[0] >= own[np.arange(8), greedy[0, len(prompt) :]].sum() - 1e-4
