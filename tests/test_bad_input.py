"""What cannot be done is refused with one sentence that carries the numbers and the remedy."""

import inspect
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.cache import fork, rollback
from fxformer.coords import padded, plain
from fxformer.decode import Sampling, beam, fill_blanks, fill_masks, prefill, speculate, step, stream
from fxformer.layers.attention import GQA
from fxformer.layers.bias import Buckets
from fxformer.layers.embed import Embed
from fxformer.layers.head import Bare, Labels, Span
from fxformer.layers.norm import Norm
from fxformer.layers.project import FanIn
from fxformer.layers.residual import Residual
from fxformer.ops.rotary import NTK, Rotary, frequencies
from fxformer.stack import Repeat, Stack
from fxformer.zoo.elsewhere import ELSEWHERE

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
        ({"kv_heads": 0}, ["kv_heads=0", "1 or more"]),
        ({"heads": 5}, ["heads=5 does not divide width=24; use 1, 2, 3, 4, 6, 8, 12 or 24"]),
        ({"heads": 0}, ["heads=0 is out of range; use 1 or more"]),
        ({"heads": 24}, ["width=24 over heads=24 gives a head 1 channels", "position='rotary'", "use width=48"]),
        ({"width": 27}, ["width=27 over heads=3 gives a head 9 channels", "use width=30 or other heads"]),
        ({"heads": 12, "position": "rotary-2d"}, ["a head 2 channels", "position='rotary-2d'", "use width=48"]),
        ({"depth": 0}, ["depth=0 is out of range; use 1 or more"]),
        ({"window": 0}, ["window=0", "1 or more"]),
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


@pytest.mark.parametrize(("name", "right"), [("norm", "rms"), ("qk_norm", "rms")])
def test_a_choice_is_refused_by_the_name_of_its_argument(name, right):
    refuses(lambda: fx.zoo.toy(**TOY, **{name: "rmss"}), f"{name}='rmss' is unknown; did you mean {right!r}?")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("n_layer", "did you mean 'depth'?"),
        ("num_heads", "did you mean 'heads'?"),
        ("hidden_size", "did you mean 'width'?"),
        ("hidden_dim", "did you mean 'width' or 'inner'?"),
        ("Vocab-Size", "did you mean 'vocab'?"),
        ("widht", "did you mean 'width'?"),
        ("zzz", "it takes width, depth, heads,"),
    ],
)
def test_an_argument_that_is_called_so_elsewhere_is_answered_by_ours(name, hint):
    with pytest.raises(TypeError, match=re.escape(f"toy takes no {name!r}; {hint}")):
        fx.zoo.toy(**{name: 3})


def test_names_of_elsewhere_are_none_of_ours():
    ours, theirs = inspect.signature(fx.zoo.toy).parameters, " ".join(ELSEWHERE.values()).split()
    assert set(ours) >= set(ELSEWHERE) and not set(ours) & set(theirs)


def test_a_choice_that_resembles_none_is_told_all():
    refuses(lambda: fx.zoo.toy(**TOY, placement="zzz"), "placement='zzz' is unknown; use one of pre, post, sandwich")


def test_an_unknown_model_is_told_the_nearest_one():
    for look_up in (fx.zoo.get, fx.zoo.tiny, fx.zoo.family_of):
        refuses(lambda look_up=look_up: look_up("lama2-7b"), "model='lama2-7b' is unknown; did you mean 'llama2-7b'?")


def test_unknown_names_in_specs_are_told_the_nearest_one():
    refuses(lambda: Norm(kind="layernorm"), "norm kind='layernorm' is unknown; did you mean 'layer'?")
    refuses(lambda: Residual(placement="pots", norm=Norm(kind="rms")), "placement='pots'", "did you mean 'post'?")
    refuses(lambda: Rotary(width=8, pairing="interleave"), "pairing='interleave'", "did you mean 'interleaved'?")


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"attention": "mla", "gate": "head"}, "attention='mla' has no gate; leave out what it has not"),
        ({"attention": "mla", "kv_heads": 1, "softcap": 2.0}, "attention='mla' has no kv_heads and no softcap"),
        ({"attention": "differential", "talking_heads": "logits"}, "attention='differential' has no mix_logits"),
        (
            {"attention": "differential", "width": 27, "position": "none"},
            "halves heads of 9 channels; use an even width / heads",
        ),
    ],
    ids=str,
)
def test_an_attention_refuses_what_it_has_not(choices, words):
    refuses(lambda: fx.zoo.toy(**{**TOY, **choices}), words)


def test_values_are_those_of_a_first_block_that_hands_them_out():
    plain, handed, few = (
        fx.zoo.toy(**TOY, value_residual=start, kv_heads=heads).stack.blocks[0]
        for start, heads in ((None, 3), (0.5, 3), (0.5, 1))
    )
    norm = plain.residual.norm
    for blocks, words in (((plain, handed), "has nothing"), ((few, handed), "value [1, 8]; give all the same")):
        refuses(lambda blocks=blocks: Stack(groups=(Repeat(1, blocks),), norm=norm), "takes value [3, 8]", words)
    refuses(lambda: replace(plain, cross=handed.attention), "cross-attention takes values of the encoder")


def test_specs_that_cannot_be():
    refuses(lambda: Rotary(width=8, streams=0), "streams=0", "1 or more")
    refuses(lambda: GQA(heads=0, kv_heads=1, key_width=8), "heads=0", "1 or more")
    refuses(lambda: GQA(heads=2, kv_heads=1, key_width=0), "key_width=0", "1 or more")
    refuses(
        lambda: GQA(heads=2, kv_heads=1, key_width=6, rotary=Rotary(width=4, streams=2)),
        "rotates 8 channels, key_width=6",
    )
    refuses(lambda: GQA(heads=2, kv_heads=2, key_width=4, gate="heads"), "gate='heads' is unknown", "'head'")
    refuses(
        lambda: GQA(heads=2, kv_heads=2, key_width=4, sinks=True, mix_weights=True), "sinks=True", "mix_weights=True"
    )
    refuses(lambda: Repeat(2, ()), "the pattern has 0 blocks; give 1 or more")
    refuses(lambda: Embed(vocab=11, width=0, init=FanIn()), "width=0", "1 or more")
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
    refuses(lambda: fx.empty_cache(SPEC, 0, 5), "batch=0", "1 or more")
    refuses(lambda: fx.empty_cache(SPEC, 2, 0), "length=0", "1 or more")


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
    refuses(lambda: fx.apply(SPEC, params, TOKENS, coords=two), "coords have 2 streams of positions, the model sees 1")


def test_ways_to_compute_that_do_not_exist(params):
    refuses(
        lambda: fx.apply(SPEC, params, TOKENS, kernel="blockwize"),
        "kernel='blockwize' is unknown; did you mean 'blockwise'?",
    )
    refuses(lambda: fx.apply(SPEC, params, TOKENS, unroll=0), "unroll=0", "1 or more")
    refuses(lambda: fx.apply(SPEC, params, TOKENS, remat="blocks"), "remat='blocks' does not fit; give True or False")
    for dtype in ("float23", jnp.int32):
        refuses(lambda dtype=dtype: fx.apply(SPEC, params, TOKENS, dtype=dtype), "is no floating type; use float32")


def test_keys_and_parameters_that_are_none():
    refuses(lambda: fx.init(SPEC, 0), "key=0 is no key; give jax.random.key(seed)")
    refuses(lambda: fx.apply(SPEC, {}, TOKENS, key=0), "there are no parameters; give those that init or hf.load")
    refuses(lambda: fx.generate(SPEC, None, TOKENS, 3), "there are no parameters")


def test_arrays_that_cannot_attend():
    q, k = jnp.zeros((2, 5, 6, 8)), jnp.zeros((2, 7, 4, 8))
    refuses(lambda: fx.ops.attend(q, k, k), "kv_heads=4 does not divide heads=6; use 1, 2, 3 or 6")
    k = k[:, :, :3]
    refuses(lambda: fx.ops.attend(q, k, k, q=plain(4)), "coords have 4 tokens a row, tokens have 5")
    refuses(lambda: fx.ops.attend(q, k, k, k=padded(jnp.ones((3, 7), bool))), "coords have 3 rows, tokens have 2")
    refuses(lambda: fx.ops.rotate(q, jnp.arange(5)[None], Rotary(width=10)), "rotates 10 channels, heads have 8")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("t5-small", "reads with an encoder before it writes"), ("bert-base-mlm", "sees those after it")],
)
def test_generation_by_a_model_that_cannot_go_on_from_a_prompt(name, sentence):
    spec = fx.zoo.tiny(name)
    refuses(lambda: fx.generate(spec, {}, TOKENS, 2), sentence)
    refuses(lambda: next(stream(spec, {}, TOKENS, 2)), sentence)


WINDOW = fx.zoo.toy(**TOY, window=3)
KEY = jax.random.key(0)
EMPTY_ROW = padded(np.array([[1] * 5, [0] * 5], bool))


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"depth": 3}, ["key is 3 layers of [3, 8], this model needs 2 layers of [3, 8]"]),
        ({"kv_heads": 1}, ["is 2 layers of [1, 8], this model needs 2 layers of [3, 8]"]),
        ({"attention": "mla"}, ["attention.", "nothing", "2 layers of"]),
        ({"window": 3}, ["group_0.block_0 keeps a window of 3, this model sees all tokens"]),
    ],
    ids=str,
)
def test_a_cache_of_another_model(params, choices, words):
    cache = fx.empty_cache(fx.zoo.toy(**{**TOY, **choices}), 2, 9)
    refuses(lambda: fx.apply(SPEC, params, TOKENS, cache=cache), "the cache is another model's: ", *words)


def test_a_cache_for_which_there_is_no_room(params):
    for dtype in (jnp.int32, bool):
        refuses(lambda dtype=dtype: fx.empty_cache(SPEC, 2, 9, dtype=dtype), "holds no keys and values; use a floating")
    refuses(lambda: fx.empty_cache(SPEC, 2, 9, spare=-1), "spare=-1 is out of range; use 0 or more")
    short = fx.empty_cache(SPEC, 2, 4)
    refuses(lambda: prefill(SPEC, params, TOKENS, short), "token 4 does not fit a cache of 4 tokens")
    _, full = prefill(SPEC, params, TOKENS, fx.empty_cache(SPEC, 2, 5))
    refuses(lambda: step(SPEC, params, TOKENS[:, 0], full), "token 5 does not fit a cache of 5 tokens")
    _, ring = prefill(WINDOW, params, TOKENS, fx.empty_cache(WINDOW, 2, 4))
    step(WINDOW, params, TOKENS[:, 0], ring)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_p": 0.0}, ["top_p=0.0 is out of range; use more than 0, and at most 1"]),
        ({"top_p": np.array([0.5, 1.5])}, ["top_p=1.5 is out of range"]),
        ({"min_p": 1.5}, ["min_p=1.5 is out of range; use 0 to 1"]),
        ({"min_p": -0.1}, ["min_p=-0.1 is out of range"]),
        ({"top_k": 0}, ["top_k=0 is out of range; use 1 or more"]),
        ({"temperature": -1.0}, ["temperature=-1.0 is out of range"]),
        ({"repetition_penalty": 0.0}, ["repetition_penalty=0.0 is out of range; use more than 0; 1 changes nothing"]),
        ({"top_p": np.ones(3)}, ["top_p is [3]; give a number or [2]"]),
        ({"logit_bias": np.zeros(7)}, ["logit_bias is [7]; give [256] or [2, 256]"]),
        ({"key": None, "top_p": 0.5, "top_k": 3}, ["give a key with top_k and top_p"]),
        ({"key": jax.random.split(KEY, 3)}, ["keys are [3], the prompt has 2 rows; give one key, or 2"]),
        ({"stop": 256}, ["stop token 256 is outside the vocabulary of 256"]),
        ({"stop": 1.5}, ["stop=1.5 is no token; give integers"]),
        ({"stop": "a"}, ["stop='a' is no token; give integers"]),
        ({"stop": (3, True)}, ["stop=True is no token; give integers"]),
        ({"pad": 1.5}, ["pad=1.5 is no token; give integers"]),
        ({"key": 3}, ["key=3 is no key; give jax.random.key(seed)"]),
        ({"temperature": "hot"}, ["temperature='hot' is no number; give numbers"]),
        ({"top_k": 2.5}, ["top_k=2.5 is no number; give integers"]),
        ({"logit_bias": np.full(256, np.nan)}, ["logit_bias has a number that is none (NaN)"]),
        ({"stop": (3, -1)}, ["stop token -1 is outside the vocabulary of 256"]),
        ({"pad": 300}, ["pad token 300 is outside the vocabulary of 256"]),
        ({"min_new_tokens": -1}, ["min_new_tokens=-1 is out of range; use 0 or more"]),
        ({"min_new_tokens": 9}, ["min_new_tokens=9 is more than max_new_tokens=", "; use fewer"]),
        ({"coords": plain(4)}, ["coords have 4 tokens a row, tokens have 5"]),
        ({"coords": EMPTY_ROW}, ["prompt 1 is empty, all of it is padding; give at least one token"]),
        ({"encoder_tokens": TOKENS}, ["encoder_tokens are given and the model has no encoder; leave them out"]),
        ({"cache_dtype": jnp.int32}, ["dtype=int32 holds no keys and values"]),
    ],
    ids=str,
)
def test_texts_that_cannot_be_generated(params, options, words):
    options = {"key": KEY, **options}
    refuses(lambda: fx.generate(SPEC, params, TOKENS, 3, **options), *words)
    refuses(lambda: next(stream(SPEC, params, TOKENS, 3, **options)), *words)


def test_prompts_and_lengths_that_are_none(params, learned_params):
    refuses(lambda: fx.generate(SPEC, params, np.zeros((2, 0), int), 3), "the prompt is empty; give at least one token")
    refuses(lambda: fx.generate(SPEC, params, TOKENS, 0), "max_new_tokens=0 is out of range; use 1 or more")
    refuses(lambda: fx.generate(SPEC, params, TOKENS, np.arange(3)), "max_new_tokens is int64 [3]", "or [2] of them")
    refuses(lambda: fx.generate(SPEC, params, TOKENS, 2.5), "max_new_tokens is float64 []; give an integer")
    refuses(lambda: fx.generate(LEARNED, learned_params, TOKENS, 4), "5 tokens and 4 new ones", "the 7 learned")


def test_places_and_rows_that_a_cache_does_not_have(params):
    _, cache = prefill(SPEC, params, TOKENS, fx.empty_cache(SPEC, 2, 9))
    refuses(lambda: rollback(cache, -1), "rollback to -1 tokens is further than the beginning; use 0 or more")
    refuses(
        lambda: rollback(cache, np.arange(3)), "rollback is to int64 [3]" if jax.config.x64_enabled else "int64 [3]"
    )
    refuses(lambda: fork(cache, [0, 2]), "fork takes row 2 of a cache of 2 rows; use 0 to 1")
    refuses(lambda: fork(cache, [-1]), "fork takes row -1 of a cache of 2 rows; use 0 to 1")
    for rows in ([], [[0, 1]], [0.5], 1):
        refuses(lambda rows=rows: fork(cache, rows), "fork takes rows as integers [n], 1 or more")


def test_a_window_that_has_wrapped_cannot_go_back_to_what_it_overwrote(params):
    """Neither at once nor in steps, each of which would be allowed."""
    _, ring = prefill(WINDOW, params, TOKENS, fx.empty_cache(WINDOW, 2, 9))
    refuses(lambda: rollback(ring, 2), "a window of 3 tokens that keeps 3 cannot go back to 2", "with spare=2 or more")
    refuses(lambda: rollback(rollback(ring, 4), 3), "cannot go back to 3: token 1 is overwritten", "spare=1 or more")
    _, spare = prefill(WINDOW, params, TOKENS, fx.empty_cache(WINDOW, 2, 9, spare=1))
    rollback(rollback(spare, 4), 3)
    refuses(lambda: rollback(spare, np.array([3, 2])), "keeps 4 cannot go back to 2", "spare=2 or more")


def test_searches_and_guesses_that_are_none(params):
    refuses(lambda: beam(SPEC, params, TOKENS, 3, beams=0), "beams=0 keeps no hypothesis; use 1 or more")
    refuses(lambda: beam(SPEC, params, TOKENS, 3, stop=300), "stop token 300 is outside the vocabulary of 256")
    draft, other = (SPEC, params), (fx.zoo.toy(**TOY, vocab=11), {})
    refuses(lambda: speculate(SPEC, params, TOKENS, 3, draft=draft, guesses=0), "guesses=0 leaves nothing to check")
    refuses(lambda: speculate(SPEC, params, TOKENS, 3, draft=other), "draft knows 11 tokens, the model 256")
    refuses(lambda: speculate(SPEC, params, TOKENS, 3), "no multi-token prediction (MTP) to guess with")
    refuses(lambda: speculate(SPEC, params, TOKENS, 9, draft=(LEARNED, {})), "9 new ones", "the 7 learned positions")
    refuses(lambda: speculate(SPEC, params, TOKENS, 3, draft=draft, guesses=1.5), "guesses=1.5 leaves nothing to check")
    refuses(lambda: beam(SPEC, params, TOKENS, 3, beams=2.5), "beams=2.5 keeps no hypothesis")
    refuses(lambda: beam(SPEC, params, TOKENS, np.array([1, 4])), "max_new_tokens is [2]; a search takes one number")
    refuses(lambda: beam(SPEC, params, TOKENS, 3, length_penalty=np.nan), "length_penalty=nan is no power")


def test_gaps_that_are_none(params):
    encoder = fx.zoo.tiny("bert-base-mlm")
    refuses(lambda: fill_masks(encoder, {}, TOKENS, 250), "no token is the mask 250; there is nothing to fill")
    refuses(lambda: fill_masks(fx.zoo.tiny("bert-base"), {}, TOKENS, 3), "no head that says which token stands where")
    for head in (Bare(), Labels(labels=3), Span()):
        spec = replace(fx.zoo.toy(), head=head)
        refuses(
            lambda spec=spec: fx.generate(spec, {}, TOKENS, 3), f"stands where, but {type(head).__name__}; take one"
        )
    refuses(lambda: Labels(labels=0), "labels=0 is out of range; use 1 or more")
    refuses(lambda: fill_masks(encoder, {}, TOKENS, 256), "mask token 256 is outside the vocabulary of 256")
    refuses(lambda: fill_masks(encoder, {}, TOKENS, 3, rounds=0), "rounds=0 fills nothing; use 1 or more")
    refuses(lambda: fill_masks(encoder, {}, TOKENS, 3, coords=plain(4)), "coords have 4 tokens a row, tokens have 5")
    cold = Sampling(temperature=0.5)
    refuses(lambda: fill_masks(encoder, {}, TOKENS, 3, sampling=cold), "give a key with temperature")
    again = Sampling(repetition_penalty=2.0)
    refuses(
        lambda: fill_masks(encoder, {}, TOKENS, 3, sampling=again), "repetition_penalty is for text that is written"
    )
    glm = fx.zoo.tiny("glm-10b")
    refuses(
        lambda: fill_blanks(glm, {}, TOKENS, 3, 4, start=1, stop=2), "rows have 0 to 1 blanks; give all rows as many"
    )
    refuses(lambda: fill_blanks(glm, {}, TOKENS[:1], 3, 4, start=1, stop=300), "stop token 300 is outside")
    refuses(lambda: fill_blanks(glm, {}, TOKENS[:1], 3, 4, start=300, stop=2), "token 300 is outside the vocabulary")


def test_parameters_of_another_width_are_named(params):
    other = fx.zoo.toy(**{**TOY, "inner": 41})
    refuses(
        lambda: fx.apply(other, params, TOKENS), "parameter stack.group_0.blocks.block_0.ffn.", "the model needs", "41"
    )


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"depth": 4}, ["parameters of stack.group_0 are of 4 layers, the model has 2; give the parameters of this"]),
        ({"ffn": "glu"}, ["block_0.ffn.gate.weight is [2, 24, 40], the model needs nothing of that name; give the"]),
        ({"norm": "none"}, ["parameter stack.final_norm.scale is missing, the model needs [24]; give the parameters"]),
        ({"inner": 41}, ["block_0.ffn.down.weight is [2, 41, 24], the model needs [2, 40, 24]; give the parameters"]),
    ],
    ids=str,
)
def test_parameters_of_another_structure(choices, words):
    shapes = jax.eval_shape(lambda key: fx.init(fx.zoo.toy(**{**TOY, **choices}), key), jax.random.key(0))
    others = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    refuses(lambda: fx.apply(SPEC, others, TOKENS), *words)


MASK = np.array([[True, True, False, True, False]] * 2)


def test_a_boolean_mask_is_told_how_it_becomes_coordinates(params):
    words = "coords=bool [2, 5] does not fit; give Coords (fx.padded(mask) makes them of a boolean mask"
    for call in (
        lambda: fx.apply(SPEC, params, TOKENS, coords=MASK),
        lambda: fx.generate(SPEC, params, TOKENS, 2, coords=MASK),
        lambda: beam(SPEC, params, TOKENS, 2, beams=2, coords=MASK),
        lambda: fx.apply(fx.zoo.tiny("t5-small"), params, TOKENS, encoder_tokens=TOKENS, encoder_coords=MASK),
    ):
        refuses(call, words.removeprefix("coords"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fx.padded(MASK[0]), "mask=bool [5] does not fit; give booleans [batch, length]"),
        (lambda: fx.padded(MASK[:, None]), "mask=bool [2, 1, 5] does not fit; give booleans"),
        (lambda: fx.padded(MASK * 2.0), "mask=float64 [2, 5] does not fit; give booleans"),
        (lambda: fx.padded(TOKENS), "mask has 2, and a token is there or not; give booleans, or numbers 0 and 1"),
        (lambda: fx.packed(MASK), "segments=bool [2, 5] does not fit; give integers [batch, length]"),
        (lambda: fx.packed(TOKENS[0]), "segments=int32 [5] does not fit; give integers [batch, length]"),
    ],
)
def test_masks_and_segments_of_another_kind(make, words):
    refuses(make, words)


def test_a_mask_of_zeros_and_ones_is_one_of_booleans():
    assert jax.tree.all(jax.tree.map(np.array_equal, fx.padded(MASK.astype(int)), fx.padded(MASK)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("params", "there are no parameters; give those that init or hf.load returned"),
        ({"embed": {"table": "x"}}, "parameter embed.table is 'x'; give an array"),
    ],
)
def test_what_are_no_parameters(wrong, words):
    refuses(lambda: fx.apply(SPEC, wrong, TOKENS), words)


def test_what_is_no_key():
    refuses(lambda: fx.init(SPEC, np.zeros(2)), "key=float64 [2] is no key; give jax.random.key(seed)")
    refuses(lambda: fx.init(SPEC, jax.random.split(jax.random.key(0), 3)), "is not one key; give jax.random.key(seed)")


def test_attention_of_what_are_no_arrays():
    q = np.zeros((2, 5, 3, 4), np.float32)
    refuses(lambda: fx.ops.attend([1], q, q), "q is a list; give arrays [batch, tokens, heads, channels]")
    refuses(lambda: fx.ops.attend(q, q, q, selected_BTS=MASK), "selected_BTS is bool [2, 5]; give booleans [2, 5, 5]")


def test_an_argument_that_a_function_has_not_is_told_the_nearest():
    with pytest.raises(TypeError, match=r"^toy takes no 'widht'; did you mean 'width'?"):
        fx.zoo.toy(widht=3)
    with pytest.raises(TypeError, match=r"^count takes no 'zzz'; it takes spec$"):
        fx.count(zzz=3)
    with pytest.raises(TypeError, match=r"^apply: missing a required argument: 'tokens'; it takes spec, params"):
        fx.apply(SPEC, {})
