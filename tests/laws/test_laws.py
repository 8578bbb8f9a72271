"""What `fxformer.verify` checks holds for the zoo, and notices models that break it; ways to compute change nothing."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.layers.attention import gqa
from fxformer.ops.mask import Causal, Full, Window, visible
from fxformer.ops.rotary import rotate
from fxformer.verify import LAWS, disturbed, text_of
from tests.laws.specs import PUBLISHED, STRUCTURES, tokens_of, toy, unlike, with_mask

attend = importlib.import_module("fxformer.ops.attend")  # where a function has the name of its module
CONCERNED = [(law, name) for name, spec in PUBLISHED.items() for law in LAWS if LAWS[law].concerns(spec)]


@pytest.mark.parametrize(("law", "name"), CONCERNED)
def test_published_models_obey_every_law(law, name):
    """Toys obey the same: see the tests of structures and of the cache, which try more of each."""
    deviation, allowed = LAWS[law].check(text_of(PUBLISHED[name]))
    assert deviation <= allowed


def test_every_law_concerns_some_model():
    assert {law for law, _ in CONCERNED} == set(LAWS)


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
    "influence follows the mask": (attend, "visible", causal),
    "padding is invisible": (attend, "visible", without_padding_and_segments),
    "packed documents are apart": (attend, "visible", without_padding_and_segments),
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


def loss_and_gradient(spec, ways):
    params, tokens = disturbed(spec), tokens_of(spec, 2, 10)

    def loss(params):
        logits = fx.apply(spec, params, tokens[:, :-1], **ways).logits
        return fx.ops.cross_entropy(logits, jnp.asarray(tokens[:, 1:])).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


def check_same(results):
    """To rounding of each leaf; one that is zero but for rounding (a key's bias) to that of the whole gradient."""
    ours, plain = map(jax.tree.leaves, jax.device_get(results))
    largest = max(np.abs(leaf).max() for leaf in plain)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5 * max(np.abs(b).max(), 0.01 * largest))


@pytest.mark.parametrize("name", unlike(STRUCTURES, PUBLISHED))
def test_kernel_and_recomputation_change_neither_loss_nor_gradients(name):
    """For each way to attend that no published model has: the laws try those."""
    ways = {"kernel": "blockwise", "remat": True}, {"kernel": "naive"}
    check_same([loss_and_gradient(STRUCTURES[name], way) for way in ways])


@pytest.mark.parametrize("unroll", [2, 9])
def test_any_unrolling_is_the_same_loop(unroll):
    """Of three blocks: where the number does not divide the depth, and beyond it."""
    check_same([loss_and_gradient(toy(depth=3), {"unroll": n}) for n in (unroll, 1)])
