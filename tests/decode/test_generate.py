"""`generate` and `stream` against a loop that knows no cache and no batch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import Coords, padded, plain
from fxformer.decode import prefill, step, stream
from fxformer.decode.request import Ends, Given, request_of, room_of
from fxformer.decode.state import read_prompt
from fxformer.ops.mask import Causal, Prefix
from fxformer.verify import disturbed
from tests.decode.plainly import filled_up, greedy, logits_of
from tests.laws.specs import toy, with_mask

SPEC = toy(vocab=11, head="untied")
PARAMS = disturbed(SPEC, seed=3)
TOKENS = np.random.default_rng(3).integers(0, 11, (3, 9)).astype(np.int32)
COUNTS = [5, 9, 2]  # tokens of each prompt


def ragged(side):
    """The prompts, and the batch of them with padding on one side."""
    prompts = [row[:count] for row, count in zip(TOKENS.tolist(), COUNTS, strict=True)]
    batch, valid = np.full((3, 9), 7), np.zeros((3, 9), bool)
    for row, prompt in enumerate(prompts):
        place = slice(9 - len(prompt), 9) if side == "left" else slice(0, len(prompt))
        batch[row, place], valid[row, place] = prompt, True
    return prompts, batch, padded(jnp.asarray(valid))


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_row_has_its_own_prompt_and_settings(side):
    """Stops, least and most tokens, penalty and bias of three rows, each as if it were alone."""
    prompts, batch, coords = ragged(side)
    most, least, penalty = [12, 7, 9], [0, 6, 3], [1.0, 1.8, 1.3]
    bias = np.random.default_rng(4).normal(size=(3, 11)).astype(np.float32)
    own = [{"penalty": penalty[row], "bias": bias[row]} for row in range(3)]
    free = [greedy(SPEC, PARAMS, prompts[row], 12, **own[row]) for row in range(3)]
    stop = (free[0][3], free[2][4])
    options = {"stop": stop, "pad": 10, "coords": coords, "logit_bias": bias, "repetition_penalty": np.array(penalty)}
    text = fx.generate(SPEC, PARAMS, batch, np.array(most), min_new_tokens=np.array(least), **options)
    assert text.shape == (3, 9 + 12) and text.dtype == jnp.int32
    np.testing.assert_array_equal(text[:, :9], batch)
    for row in range(3):
        new = greedy(SPEC, PARAMS, prompts[row], most[row], stop=stop, least=least[row], **own[row])
        assert text[row, 9:].tolist() == filled_up(new, 12, 10)


def test_stops_and_biases_may_be_arrays_of_jax():
    one = fx.generate(SPEC, PARAMS, TOKENS, 6, stop=[3, 7], logit_bias=np.arange(11.0))
    other = fx.generate(SPEC, PARAMS, TOKENS, 6, stop=jnp.array([3, 7]), logit_bias=jnp.arange(11, dtype=jnp.bfloat16))
    np.testing.assert_array_equal(one, other)


def stopping(params, prompt, most):
    """A token that the greedy text of a prompt has somewhere, but not at its beginning."""
    text = greedy(SPEC, params, prompt, most)
    return next(token for token in text if text.index(token) > 1)


def test_a_stop_counts_only_after_the_least_tokens_and_the_first_stop_is_what_pads():
    prompt = TOKENS[:1]
    stop = stopping(PARAMS, prompt[0], 12)
    free = greedy(SPEC, PARAMS, prompt[0], 12, stop=[stop])
    assert fx.generate(SPEC, PARAMS, prompt, 12, stop=stop)[0, 9:].tolist() == filled_up(free, 12, stop)
    late = fx.generate(SPEC, PARAMS, prompt, 12, stop=stop, min_new_tokens=len(free))[0, 9:].tolist()
    assert late[: len(free) - 1] == free[:-1] and stop not in late[: len(free)]


def test_a_row_drawn_with_its_key_is_the_same_alone_and_among_others():
    """Temperatures, filters and keys of three rows; temperature 0 and top_k 1 leave the likeliest text."""
    prompts, batch, coords = ragged("left")
    keys = jax.random.split(jax.random.key(5), 3)
    numbers = {
        "temperature": np.array([0.0, 0.9, 1.4]),
        "top_k": np.array([9, 1, 7]),
        "top_p": np.array([0.9, 0.9, 0.97]),
        "min_p": np.array([0.0, 0.0, 0.01]),
    }
    text = np.asarray(fx.generate(SPEC, PARAMS, batch, 8, key=keys, coords=coords, **numbers))[:, 9:]
    for row in range(2):
        assert text[row].tolist() == greedy(SPEC, PARAMS, prompts[row], 8)
    assert text[2].tolist() != greedy(SPEC, PARAMS, prompts[2], 8)
    for row in range(3):
        own = {name: number[row] for name, number in numbers.items()}
        alone = fx.generate(SPEC, PARAMS, np.array([prompts[row]]), 8, key=keys[row : row + 1], **own)
        assert alone[0, len(prompts[row]) :].tolist() == text[row].tolist()
    other = np.where(np.arange(3)[:, None] == 1, (batch + 1) % 11, batch)
    beside = np.asarray(fx.generate(SPEC, PARAMS, other, 8, key=keys, coords=coords, **numbers))[:, 9:]
    np.testing.assert_array_equal(beside[[0, 2]], text[[0, 2]])
    assert (beside[1] != text[1]).any()


def test_one_key_gives_each_row_one_of_its_own_whatever_their_number():
    batch, key = np.repeat(TOKENS[:1], 3, axis=0), jax.random.key(6)
    three = np.asarray(fx.generate(SPEC, PARAMS, batch, 8, key=key))
    two = np.asarray(fx.generate(SPEC, PARAMS, batch[:2], 8, key=key))
    np.testing.assert_array_equal(three[:2], two)
    assert len({tuple(row) for row in three.tolist()}) == 3


def test_tokens_are_drawn_with_the_probability_of_the_text():
    """20 000 rows, two tokens: chi-square against the exact probabilities of all 25, at five standard deviations."""
    spec = toy(vocab=5, head="untied")
    params = disturbed(spec)
    many = np.broadcast_to(np.array([[1, 2]]), (20_000, 2))
    new = np.asarray(fx.generate(spec, params, many, 2, key=jax.random.key(7)))[:, 2:]
    assert chi_square(new, exact(spec, params, [1, 2], 2)) < 5


def exact(spec, params, prompt, count):
    """The probability of every text of `count` new tokens: [V] * count."""
    vocab = spec.embed.vocab
    texts = np.array(list(np.ndindex(*(vocab,) * count)))
    logits = logits_of(spec, params, np.concatenate([np.repeat([prompt], len(texts), axis=0), texts], axis=1))
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    at = np.arange(count)
    return shares[np.arange(len(texts))[:, None], len(prompt) - 1 + at, texts].prod(axis=1).reshape((vocab,) * count)


def chi_square(drawn, probability):
    """How far frequencies are from probabilities, in standard deviations of the statistic; rare texts are pooled."""
    expected = probability.reshape(-1) * len(drawn)
    observed = np.bincount(np.ravel_multi_index(drawn.T, probability.shape), minlength=probability.size)
    rare = expected < 10
    groups = [(observed[~rare], expected[~rare]), ([observed[rare].sum()], [max(expected[rare].sum(), 1e-9)])]
    observed, expected = (np.concatenate(parts) for parts in zip(*groups, strict=True))
    freedom = len(expected) - 1
    return (np.sum((observed - expected) ** 2 / expected) - freedom) / np.sqrt(2 * freedom)


def test_all_requests_of_a_bucket_share_what_is_compiled(programs):
    """Lengths of the prompt, new tokens, stops, numbers of any type; the next bucket of each is one more program."""
    spec = toy(vocab=13, depth=1, inner=7)
    params, tokens = disturbed(spec), np.random.default_rng(0).integers(0, 13, (2, 20))
    key = jax.random.key(0)
    fx.generate(spec, params, tokens[:, :5], 4, key=key, temperature=0.5, top_p=0.9, stop=2)
    first = programs()
    for count in range(2, 17):
        options = {"stop": 5, "min_new_tokens": 2, "temperature": count, "top_p": np.float64(0.5)}
        length = min(count, 16)
        text = fx.generate(spec, params, tokens[:, :length], count, key=key, **options)
        assert text.shape == (2, length + count)
    assert first > 0 and programs() == first
    options = {"key": key, "temperature": 0.5, "top_p": 0.9, "stop": 2}
    assert fx.generate(spec, params, tokens[:, :5], 17, **options).shape == (2, 5 + 17)
    assert 1 <= programs() - first <= 3


def test_text_is_that_of_a_cache_without_spare_room():
    """Twelve numbers of tokens out of one buffer, against steps in a cache that holds no token more."""
    most, length = 12, 4
    prompt = jnp.asarray(TOKENS[:2, :length])
    logits, cache = prefill(SPEC, PARAMS, prompt, fx.empty_cache(SPEC, 2, length + most - 1))
    new = [jnp.argmax(logits, axis=-1)]
    one = jax.jit(lambda token, cache: step(SPEC, PARAMS, token, cache))
    for _ in range(most - 1):
        logits, cache = one(new[-1], cache)
        new.append(jnp.argmax(logits, axis=-1))
    assert cache.capacity == cache.length_B[0] == length + most - 1
    for count in range(1, most + 1):
        text = fx.generate(SPEC, PARAMS, prompt, count)
        np.testing.assert_array_equal(text[:, length:], np.stack(new[:count], axis=1))


def test_room_for_new_tokens_is_doubled_until_it_is_large():
    rooms = [room_of(count) for count in range(1, 5000)]
    for count, room in enumerate(rooms, start=1):
        assert count <= room <= (max(2 * count, 16) if count <= 256 else count * 5 / 4)
    assert len(set(rooms)) == 5 + 4 * 4 + 1  # 16 to 256, four an octave, 5120


@pytest.mark.parametrize("drawn", [False, True])
def test_stream_says_what_generate_says_until_all_rows_have_stopped(drawn):
    _, batch, coords = ragged("left")
    stop = stopping(PARAMS, TOKENS[1], 12)
    options = {"stop": stop, "pad": 10, "coords": coords, "repetition_penalty": 1.2}
    options |= {"key": jax.random.key(2), "temperature": np.array([0.5, 1.0, 2.0])} if drawn else {}
    most = np.array([4, 9, 6])
    said = [np.asarray(token) for token in stream(SPEC, PARAMS, batch, most, **options)]
    text = np.asarray(fx.generate(SPEC, PARAMS, batch, most, **options))[:, 9:]
    np.testing.assert_array_equal(np.stack(said, axis=1), text[:, : len(said)])
    assert (text[:, len(said) :] == 10).all() and (text[:, len(said) - 1] != 10).any()


def test_a_stream_may_be_left_and_its_tokens_stay():
    """What was given out is not taken back by the next step, which gives its own state away."""
    tokens = stream(SPEC, PARAMS, TOKENS, 5)
    first, second = next(tokens), next(tokens)
    text = np.asarray(fx.generate(SPEC, PARAMS, TOKENS, 5))[:, 9:]
    np.testing.assert_array_equal(np.stack([first, second], axis=1), text[:, :2])


def test_an_encoder_decoder_writes_what_each_source_asks_for(programs):
    """Sources and prompts of two lengths, padded on both sides, each as alone; sources of a bucket share programs."""
    spec = replace(fx.zoo.tiny("t5-small"), embed=replace(fx.zoo.tiny("t5-small").embed, vocab=13))
    params = disturbed(spec)
    rng = np.random.default_rng(5)
    prompt, source = rng.integers(0, 13, (2, 3)), rng.integers(0, 13, (2, 6))
    valid, read = np.array([[0, 1, 1], [1, 1, 1]], bool), np.array([[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]], bool)
    given = {"encoder_tokens": jnp.asarray(source), "encoder_coords": padded(read)}
    text = np.asarray(fx.generate(spec, params, prompt, 6, coords=padded(valid), **given))[:, 3:]
    for row in range(2):
        alone = jnp.asarray(source[row, read[row]][None])
        assert text[row].tolist() == greedy(spec, params, prompt[row, valid[row]], 6, encoder_tokens=alone)
    assert text[0].tolist() != text[1].tolist()
    shorter, before = padded(np.ones((2, 3), bool)), programs()
    fx.generate(spec, params, prompt, 4, coords=shorter, encoder_tokens=source[:, :4])
    assert programs() == before


def test_what_an_encoder_cannot_read_is_refused():
    """Before anything is compiled: within `jit` a token beyond the vocabulary would go unnoticed."""
    beyond, nothing = np.full((2, 3), 256), np.zeros((2, 0), int)
    for read, words in ((beyond, "token 256 is outside the vocabulary of 256"), (nothing, r"are \[2, 0\]: none; give")):
        with pytest.raises(ValueError, match=words):
            request_of(fx.zoo.tiny("t5-small"), Given(np.zeros((2, 1), int), encoder_tokens=read), Ends(3))


def test_a_prompt_that_is_a_prefix_is_read_in_both_directions():
    """New tokens are not of the prefix: each is the likeliest of a pass over the text with the same prefix."""
    spec = with_mask(SPEC, Causal() | Prefix())
    prompt = TOKENS[:2, :5]
    prefix = Coords(**coords_of(5, 5))
    text = np.asarray(fx.generate(spec, PARAMS, prompt, 7, coords=prefix))
    logits = logits_of(spec, PARAMS, text, coords=Coords(**coords_of(28, 5)))
    np.testing.assert_array_equal(np.argmax(logits, axis=-1)[:, 4:-1], text[:, 5:])
    assert (np.asarray(fx.generate(spec, PARAMS, prompt, 7)) != text).any()


def coords_of(length, prefix):
    place = jnp.arange(length)[None]
    return {"index": place, "segment": 0 * place, "prefix": place < prefix, "pos": place}


def test_every_learned_position_can_be_used():
    """The last new token is not read, so it may stand behind them."""
    spec = toy(position="learned", length=9, vocab=11, head="untied")
    params = disturbed(spec)
    text = np.asarray(fx.generate(spec, params, TOKENS[:2, :4], 6))
    whole = np.asarray(fx.apply(spec, params, text[:, :9]).logits)
    np.testing.assert_array_equal(np.argmax(whole, axis=-1)[:, 3:], text[:, 4:])
    with pytest.raises(ValueError, match="4 tokens and 7 new ones are more than the 9 learned positions"):
        fx.generate(spec, params, TOKENS[:2, :4], 7)


def test_positions_count_and_not_places_in_the_row():
    spec = toy(position="learned", length=9, vocab=11, head="untied")
    params = disturbed(spec)
    begun = replace(plain(4), pos=jnp.arange(3, 7)[None])  # the prompt is read as from position 3
    text = np.asarray(fx.generate(spec, params, TOKENS[:2, :4], 3, coords=begun))
    read = replace(plain(6), pos=jnp.arange(3, 9)[None])
    whole = np.asarray(fx.apply(spec, params, text[:, :6], coords=read).logits)
    np.testing.assert_array_equal(np.argmax(whole, axis=-1)[:, 3:], text[:, 4:])
    with pytest.raises(ValueError, match="7 tokens and 4 new ones are more than the 9 learned positions"):
        fx.generate(spec, params, TOKENS[:2, :4], 4, coords=begun)


def test_a_cache_of_another_type_is_close_and_not_the_same_numbers():
    given, ends = Given(TOKENS), Ends(3)
    exact_logits = read_prompt(SPEC, PARAMS, request_of(SPEC, given, ends))[1]
    state, logits, _ = read_prompt(SPEC, PARAMS, request_of(SPEC, given, ends, cache_dtype=jnp.int8))
    records = state.cache.tables["group_0"]["block_0"]["attention"].records
    assert {type(record) for record in records.values()} == {fx.cache.Int8}
    error = float(jnp.abs(logits - exact_logits).max() / jnp.abs(exact_logits).max())
    assert 0 < error < 0.05
