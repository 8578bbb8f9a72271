"""Speculative decoding: the text of `generate` where nothing is drawn, its distribution where something is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import padded
from fxformer.decode import Sampling, speculate
from fxformer.verify import disturbed
from tests.decode.plainly import logits_of
from tests.decode.test_generate import chi_square, exact
from tests.laws.specs import PUBLISHED, toy

SPEC = toy(vocab=11, window=4, head="untied")
PARAMS = disturbed(SPEC, seed=3)
DRAFT = toy(vocab=11, head="untied", width=16, depth=1, heads=2)
DRAFT_PARAMS = disturbed(DRAFT, seed=2)
TOKENS = np.random.default_rng(3).integers(0, 11, (3, 6)).astype(np.int32)
RAGGED = padded(np.array([[0, 0, 1, 1, 1, 1], [1] * 6, [1, 1, 1, 0, 0, 0]], bool))
CASES = {
    "plain": {},
    "ragged": {"coords": RAGGED},
    "stop": {"stop": (3, 8), "pad": 0},
    "least and most": {"stop": (3, 8), "min_new_tokens": np.array([0, 4, 2])},
}


@pytest.mark.parametrize("draft", [(DRAFT, DRAFT_PARAMS), (SPEC, PARAMS)], ids=["another", "itself"])
@pytest.mark.parametrize("case", CASES)
def test_greedy_text_is_that_of_the_model_alone(case, draft):
    """Of a window that wraps, whatever the draft guesses."""
    most = np.array([13, 4, 9]) if case == "least and most" else 13
    ours = speculate(SPEC, PARAMS, TOKENS, most, draft=draft, guesses=3, **CASES[case])
    np.testing.assert_array_equal(ours.text, fx.generate(SPEC, PARAMS, TOKENS, most, **CASES[case]))
    if case == "plain":
        assert ours.passes.max() <= 13
    if case == "plain" and draft[0] is SPEC:
        assert ours.passes.tolist() == [1 + 12 // 4] * 3  # every guess passes, and one more token each time


def test_a_draft_may_know_fewer_positions_than_a_bucket_has():
    """The prompt is padded to no more than both have positions for; too few for the text are refused."""
    draft = toy(vocab=11, position="learned", length=12, width=16, depth=1, heads=2)
    ours = speculate(SPEC, PARAMS, TOKENS, 6, draft=(draft, disturbed(draft)), guesses=2)
    np.testing.assert_array_equal(ours.text, fx.generate(SPEC, PARAMS, TOKENS, 6))
    with pytest.raises(ValueError, match="6 tokens and 8 new ones are more than the 12 learned positions"):
        speculate(SPEC, PARAMS, TOKENS, 8, draft=(draft, disturbed(draft)), guesses=2)


def test_a_penalty_sees_the_guesses():
    sampling = Sampling(repetition_penalty=np.array([1.7, 1.0, 3.0]), logit_bias=np.linspace(-1, 1, 11))
    ours = speculate(SPEC, PARAMS, TOKENS, 13, draft=(DRAFT, DRAFT_PARAMS), guesses=3, sampling=sampling)
    options = {"repetition_penalty": sampling.repetition_penalty, "logit_bias": sampling.logit_bias}
    alone = fx.generate(SPEC, PARAMS, TOKENS, 13, **options)
    np.testing.assert_array_equal(ours.text, alone)
    assert (alone[0] != fx.generate(SPEC, PARAMS, TOKENS, 13)[0]).any()


@pytest.mark.parametrize("case", ["plain", "ragged"])
def test_what_a_model_looks_ahead_is_a_guess(case):
    spec = PUBLISHED["deepseek-v3-mtp"]
    params = disturbed(spec)
    ours = speculate(spec, params, TOKENS, 9, **CASES[case])
    np.testing.assert_array_equal(ours.text, fx.generate(spec, params, TOKENS, 9, **CASES[case]))
    assert 5 <= ours.passes.min() <= ours.passes.max() <= 9


def test_a_look_ahead_that_is_right_halves_the_passes():
    """One that says what the model will say: the head reads nothing but a constant, so all logits are alike."""
    spec = PUBLISHED["deepseek-v3-mtp"]
    params = jax.tree.map(jnp.zeros_like, disturbed(spec))
    assert speculate(spec, params, TOKENS, 9).passes.tolist() == [1 + 8 // 2] * 3


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.7, top_k=4), Sampling(repetition_penalty=1.5)], ids=str
)
def test_draws_have_the_probability_of_the_model_alone(sampling):
    """10 000 rows, three tokens, two guesses: chi-square over all 125 texts, against `generate` where filters act."""
    spec, draft = toy(vocab=5, head="untied"), toy(vocab=5, width=16, depth=1, heads=2)
    params, draft_params = disturbed(spec), disturbed(draft, seed=2)
    many, keys = np.broadcast_to(np.array([[1, 2]]), (10_000, 2)), jax.random.key(9)
    ours = speculate(spec, params, many, 3, draft=(draft, draft_params), guesses=2, key=keys, sampling=sampling)
    probability = filtered(spec, params, sampling)
    assert chi_square(np.asarray(ours.text)[:, 2:], probability) < 5
    alone = fx.generate(draft, draft_params, many, 3, key=keys)  # what the draft would write is noticed
    assert chi_square(np.asarray(alone)[:, 2:], probability) > 50
    assert 2 <= ours.passes.min() < ours.passes.max() <= 3


def filtered(spec, params, sampling):
    """The probability of every text of three tokens after [1, 2], token by token in NumPy."""
    if sampling == Sampling():
        return exact(spec, params, [1, 2], 3)
    probability = np.zeros((5, 5, 5))
    for text in np.ndindex(5, 5, 5):
        logits = logits_of(spec, params, [[1, 2, *text]])[0]
        share = 1.0
        for i, token in enumerate(text):
            own = logits[1 + i].copy()
            if sampling.repetition_penalty is not None:
                for seen in {1, 2, *text[:i]}:
                    own[seen] *= 1 / sampling.repetition_penalty if own[seen] > 0 else sampling.repetition_penalty
            own = own / (sampling.temperature or 1)
            if sampling.top_k is not None:
                own[np.argsort(own)[: -sampling.top_k]] = -np.inf
            share *= np.exp(own[token]) / np.exp(own).sum()
        probability[text] = share
    return probability


def test_a_row_is_drawn_with_its_own_key_whatever_its_neighbours():
    keys = jax.random.split(jax.random.key(5), 3)
    options = {"draft": (DRAFT, DRAFT_PARAMS), "guesses": 2}
    text = np.asarray(speculate(SPEC, PARAMS, TOKENS, 9, key=keys, **options).text)
    other = np.where(np.arange(3)[:, None] == 1, (TOKENS + 1) % 11, TOKENS)
    beside = np.asarray(speculate(SPEC, PARAMS, other, 9, key=keys, **options).text)
    np.testing.assert_array_equal(beside[[0, 2]], text[[0, 2]])
    assert (beside[1, 6:] != text[1, 6:]).any()
