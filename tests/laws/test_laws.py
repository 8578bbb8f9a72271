"""What `fxformer.verify` checks holds for the zoo, and notices models that break it; ways to compute change nothing."""

import jax
import numpy as np
import pytest

import fxformer as fx
from fxformer.layers.attention import gqa
from fxformer.layers.context import Execution
from fxformer.ops import scores
from fxformer.ops.mask import Causal, Full, Window, visible
from fxformer.ops.rotary import rotate
from fxformer.verify import LAWS, Text, disturbed, text_of
from fxformer.verify.laws import OTHERWISE, PLAINLY, loss_and_gradient
from tests import learning
from tests.laws.specs import PUBLISHED, STRUCTURES, tokens_of, toy, unlike, with_mask
from tests.learning import KEY, NEXT_TOKEN, have_fallen, trained

CONCERNED = [(name, law) for name, spec in PUBLISHED.items() for law in LAWS if LAWS[law].concerns(spec)]


@pytest.fixture(scope="module")
def text(request) -> Text:
    """The tests of one model run one after another, on the same programs."""
    return text_of(PUBLISHED[request.param])


@pytest.mark.parametrize(("text", "law"), CONCERNED, indirect=["text"])
def test_published_models_obey_every_law(text, law):
    """Toys obey the same: see the tests of structures and of the cache, which try more of each."""
    deviation, allowed = LAWS[law].check(text)
    assert deviation <= allowed


@pytest.mark.parametrize("text", NEXT_TOKEN, indirect=True)
def test_a_model_of_the_next_token_learns_it(text):
    """Its loss falls by one nat and a half in 100 steps. Others: tests/train/test_trainable.py."""

    def slope(params, row):
        return loss_and_gradient(text.spec, params, row[:, : text.length].astype(np.int32), None, PLAINLY)

    assert have_fallen(trained(slope, fx.init(text.spec, KEY), learning.text(text.length)))


def test_every_law_concerns_some_model():
    assert {law for _, law in CONCERNED} == set(LAWS)


@pytest.mark.parametrize(
    ("law", "mask"),
    [("the future is unseen", Full()), ("the past is seen", Window(1))],
)
def test_a_model_that_breaks_a_law_is_noticed(law, mask):
    deviation, allowed = LAWS[law].check(text_of(with_mask(toy(), mask)))
    assert deviation > 10 * allowed


def causal(kind, q, k):
    return visible(Causal(), q, k)


def without_padding_and_segments(kind, q, k):
    return kind(q, k)


def from_each_chunk(x, pos, rotary):
    return rotate(x, pos - pos[:, :1], rotary)


BREAKS = {  # law -> what is put in place of what
    "influence follows the mask": (scores, "visible", causal),
    "padding is invisible": (scores, "visible", without_padding_and_segments),
    "packed documents are apart": (scores, "visible", without_padding_and_segments),
    "cached = uncached": (gqa, "rotate", from_each_chunk),
    "ragged rows are alone": (gqa, "rotate", from_each_chunk),
}


@pytest.mark.parametrize("law", BREAKS)
def test_code_that_breaks_a_law_is_noticed(law, monkeypatch):
    whole = toy(window=3)
    broken = toy(window=3, inner=41 + list(BREAKS).index(law))  # of no other test: what is compiled stays broken
    deviation, allowed = LAWS[law].check(text_of(whole))
    assert deviation <= allowed
    place, name, wrong = BREAKS[law]
    monkeypatch.setattr(place, name, wrong)
    deviation, allowed = LAWS[law].check(text_of(broken))
    assert deviation > 10 * allowed


def check_same(spec, *ways):
    """To rounding of each leaf; one that is zero but for rounding (a key's bias) to that of the whole gradient."""
    given = spec, disturbed(spec), tokens_of(spec, 2, 10), None
    ours, plain = (jax.tree.leaves(jax.device_get(loss_and_gradient(*given, way))) for way in ways)
    largest = max(np.abs(leaf).max() for leaf in plain)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5 * max(np.abs(b).max(), 0.01 * largest))


@pytest.mark.parametrize("name", unlike(STRUCTURES, PUBLISHED))
def test_kernel_and_recomputation_change_neither_loss_nor_gradients(name):
    """For each way to attend that no published model has: the laws try those."""
    check_same(STRUCTURES[name], OTHERWISE, PLAINLY)


@pytest.mark.parametrize("unroll", [2, 9])
def test_any_unrolling_is_the_same_loop(unroll):
    """Of three blocks: where the number does not divide the depth, and beyond it."""
    check_same(toy(depth=3), Execution(unroll=unroll), Execution())
