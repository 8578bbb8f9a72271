"""Laws over every structure. Not collected yet: rename to test_laws.py once its time on two cores has been measured.

Every law of `fxformer.verify` for every structure, and that a law can be broken.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import plain
from fxformer.ops.mask import Causal, Full, Mask
from fxformer.verify import LAWS, ROUNDING, sample_of
from tests.laws.specs import SPECS

BASE = SPECS["placement=pre"]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("law", LAWS)
def test_law(law, name):
    deviation, allowed = LAWS[law](SPECS[name])
    assert deviation <= allowed


def with_mask(spec: fx.Transformer, mask: Mask) -> fx.Transformer:
    """The same model with another mask in its first group."""
    group = spec.stack.groups[0]
    block = group.blocks[0]
    blocks = (replace(block, attention=replace(block.attention, mask=mask)),)
    return replace(spec, stack=replace(spec.stack, groups=(replace(group, blocks=blocks),)))


def test_a_model_that_sees_the_future_breaks_the_laws():
    for law in ("the future is unseen", "cached = uncached"):
        deviation, allowed = LAWS[law](with_mask(BASE, Full()))
        assert deviation > allowed


def test_a_model_blind_to_the_past_breaks_the_law():
    deviation, allowed = LAWS["the past is seen"](with_mask(BASE, fx.ops.Window(1)))
    assert deviation > allowed


@pytest.mark.parametrize("window", [3, 4, 5])
def test_influence_reaches_as_far_as_windows_stack(window):
    """A query of block 2 sees window - 1 tokens back in each block: 2 (window - 1) in all, exactly."""
    spec = with_mask(BASE, fx.ops.Window(window))
    params, tokens = sample_of(spec, batch=1)
    table = params["embed"]["table"]

    def last_logit(rows):
        """The last position's logits as a function of each token's own embedding row."""
        own = {**params, "embed": {"table": jnp.concatenate([table, rows])}}
        larger = replace(spec, embed=replace(spec.embed, vocab=table.shape[0] + len(rows)))
        places = jnp.arange(table.shape[0], table.shape[0] + len(rows))[None]
        return fx.apply(larger, own, places).logits[0, -1, : table.shape[0]].sum()

    gradient = jax.grad(last_logit)(table[tokens[0]])
    reached = np.flatnonzero(np.any(np.asarray(gradient) != 0, axis=-1))
    assert reached.tolist() == list(range(tokens.shape[1] - 1 - 2 * (window - 1), tokens.shape[1]))


@pytest.mark.parametrize("window", [3, 4, 5])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 7])
def test_a_ring_keeps_what_a_window_sees_however_often_it_wraps(window, chunk):
    spec = with_mask(BASE, fx.ops.Window(window))
    params, tokens = sample_of(spec, length=4 * window + 2)
    whole = fx.apply(spec, params, tokens).logits
    cache, parts = fx.empty_cache(spec, tokens.shape[0], tokens.shape[1]), []
    for start in range(0, tokens.shape[1], chunk):
        out = fx.apply(spec, params, tokens[:, start : start + chunk], cache=cache)
        cache = out.cache
        parts.append(out.logits)
    assert cache.tables["group_0"]["block_0"].capacity == window
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=ROUNDING * float(jnp.abs(whole).max()))


def test_a_window_as_long_as_the_text_is_causal():
    params, tokens = sample_of(BASE)
    windowed = fx.apply(with_mask(BASE, fx.ops.Window(tokens.shape[1])), params, tokens).logits
    np.testing.assert_array_equal(windowed, fx.apply(BASE, params, tokens).logits)


def test_an_empty_prefix_is_causal_and_a_full_one_is_full():
    params, tokens = sample_of(BASE)
    spec = with_mask(BASE, Causal() | fx.ops.Prefix())
    coords = plain(tokens.shape[1])
    np.testing.assert_array_equal(
        fx.apply(spec, params, tokens, coords=coords).logits, fx.apply(BASE, params, tokens).logits
    )
    everything = replace(coords, prefix=jnp.ones_like(coords.prefix))
    np.testing.assert_array_equal(
        fx.apply(spec, params, tokens, coords=everything).logits,
        fx.apply(with_mask(BASE, Full()), params, tokens).logits,
    )


def test_grouped_queries_with_repeated_heads_are_multi_head():
    grouped = fx.zoo.toy(width=24, depth=2, heads=6, kv_heads=2)
    params, tokens = sample_of(grouped)
    block = params["stack"]["group_0"]["blocks"]["block_0"]
    repeated = {
        name: {"weight": jnp.repeat(block["attention"][name]["weight"], 3, axis=2)} for name in ("key", "value")
    }
    full = {**params, "stack": {**params["stack"], "group_0": {"blocks": {"block_0": {
        **block, "attention": {**block["attention"], **repeated}}}}}}  # fmt: skip
    a = fx.apply(grouped, params, tokens).logits
    b = fx.apply(fx.zoo.toy(width=24, depth=2, heads=6), full, tokens).logits
    np.testing.assert_allclose(a, b, atol=ROUNDING * float(jnp.abs(b).max()))


def test_deepnorm_of_one_is_post_norm():
    one = fx.zoo.toy(placement="post", residual_scale=1.0, branch_scale=1.0)
    assert one == fx.zoo.toy(placement="post")


def test_tied_blocks_have_the_summed_gradient_of_free_ones():
    free = fx.zoo.toy(width=24, depth=3, heads=3, inner=40)
    tied = replace(free, stack=replace(free.stack, groups=(replace(free.stack.groups[0], tied=True),)))
    params, tokens = sample_of(tied)
    copied = {**params, "stack": {**params["stack"], "group_0": jax.tree.map(
        lambda leaf: jnp.stack([leaf] * 3), params["stack"]["group_0"])}}  # fmt: skip

    def loss(spec, params):
        return fx.ops.cross_entropy(fx.apply(spec, params, tokens[:, :-1]).logits, tokens[:, 1:]).mean()

    shared = jax.grad(lambda p: loss(tied, p))(params)["stack"]["group_0"]
    apart = jax.grad(lambda p: loss(free, p))(copied)["stack"]["group_0"]
    for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(a, b.sum(axis=0), atol=1e-4 * float(jnp.abs(b).max()))


def test_dropout_follows_the_key():
    spec, without = (fx.zoo.toy(width=24, depth=2, heads=3, dropout=rate) for rate in (0.3, 0.0))
    params, tokens = sample_of(spec)
    unkeyed = fx.apply(spec, params, tokens).logits
    np.testing.assert_array_equal(unkeyed, fx.apply(without, params, tokens).logits)
    keyed = [fx.apply(spec, params, tokens, key=jax.random.key(k)).logits for k in (1, 1, 2)]
    np.testing.assert_array_equal(keyed[0], keyed[1])
    assert jnp.abs(keyed[0] - keyed[2]).max() > 0.1
    assert jnp.abs(keyed[0] - unkeyed).max() > 0.1


@pytest.mark.parametrize("name", SPECS)
def test_bfloat16_is_close_to_float32(name):
    """To 5 % of the largest logit: 8 bits of mantissa through two blocks of parameters twice their usual size."""
    params, tokens = sample_of(SPECS[name])
    exact = fx.apply(SPECS[name], params, tokens).logits
    rounded = fx.apply(SPECS[name], params, tokens, dtype=jnp.bfloat16).logits
    assert rounded.dtype == jnp.float32
    assert 0 < jnp.abs(rounded - exact).max() < 0.05 * jnp.abs(exact).max()


def test_vmap_over_parameters_is_a_loop():
    _, tokens = sample_of(BASE)
    models = [fx.init(BASE, jax.random.key(k)) for k in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    together = jax.jit(jax.vmap(lambda params: fx.apply(BASE, params, tokens).logits))(stacked)
    for k, params in enumerate(models):
        np.testing.assert_allclose(together[k], fx.apply(BASE, params, tokens).logits, atol=1e-5)
