"""Identities between variants: two ways to write down the same model say the same."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.coords import plain
from fxformer.layers import residual
from fxformer.layers.context import Side, dropout
from fxformer.ops.bias import DistanceBias
from fxformer.ops.mask import Blocks, Causal, Full, Prefix, Strided, Window
from fxformer.ops.rotary import SCALINGS
from fxformer.stack import Once, Repeat
from fxformer.verify import disturbed
from tests.laws import reference
from tests.laws.specs import SCALED, tokens_of, toy, with_attention, with_groups, with_mask

LENGTH = 9
BASE = toy()
TOKENS = tokens_of(BASE, 2, LENGTH)


@pytest.fixture(scope="module")
def params():
    return disturbed(BASE)


def logits(spec, params, **options):
    return fx.apply(spec, params, TOKENS, **options).logits


def same(a, b):
    np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def loss(spec, params):
    return fx.ops.cross_entropy(fx.apply(spec, params, TOKENS[:, :-1]).logits, jnp.asarray(TOKENS[:, 1:])).mean()


def with_group(params, **groups):
    """The parameters with other groups of blocks."""
    rest = {name: value for name, value in params["stack"].items() if not name.startswith("group_")}
    return {**params, "stack": {**rest, **groups}}


WIDE = [Window(LENGTH), Window(LENGTH + 4), Blocks(LENGTH), Strided(1), Full() & Causal()]


@pytest.mark.parametrize("mask", WIDE, ids=str)
def test_masks_that_allow_what_causal_allows_are_causal(mask, params):
    np.testing.assert_array_equal(logits(with_mask(BASE, mask), params), logits(BASE, params))


def test_a_window_one_shorter_than_the_text_is_not_causal(params):
    differs = np.abs(logits(with_mask(BASE, Window(LENGTH - 1)), params) - logits(BASE, params)).max(-1) > 1e-3
    assert differs.tolist() == [[False] * (LENGTH - 1) + [True]] * 2


def test_an_empty_prefix_is_causal_and_a_full_one_is_full(params):
    spec, coords = with_mask(BASE, Causal() | Prefix()), plain(LENGTH)
    np.testing.assert_array_equal(logits(spec, params, coords=coords), logits(BASE, params))
    everything = replace(coords, prefix=jnp.ones_like(coords.prefix))
    np.testing.assert_array_equal(
        logits(spec, params, coords=everything), logits(with_mask(BASE, Full()), params, coords=coords)
    )


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_queries_are_multi_head_attention_with_repeated_heads(kv_heads):
    """One group per head is multi-head attention itself; one group for all is multi-query attention."""
    grouped, full = toy(heads=6, kv_heads=kv_heads), toy(heads=6)
    params = disturbed(grouped)
    block = params["stack"]["group_0"]["blocks"]["block_0"]
    attention = {
        name: {
            "weight": jnp.repeat(part["weight"], 6 // kv_heads, axis=2) if name in ("key", "value") else part["weight"]
        }
        for name, part in block["attention"].items()
    }
    repeated = with_group(params, group_0={"blocks": {"block_0": {**block, "attention": attention}}})
    same(logits(grouped, params), logits(full, repeated))
    assert toy(heads=6, kv_heads=6) == full


def alone(spec, **numbers):
    """Parameters of the spec with some of its single numbers, of every layer, and everything else as in BASE."""
    params = disturbed(spec)
    attention = params["stack"]["group_0"]["blocks"]["block_0"]["attention"]
    attention |= {name: jnp.full_like(attention[name], value) for name, value in numbers.items()}
    return params


def without(params, *names):
    """The parameters without some of attention's."""
    block = params["stack"]["group_0"]["blocks"]["block_0"]
    rest = {name: part for name, part in block["attention"].items() if name not in names}
    return with_group(params, group_0={"blocks": {"block_0": {**block, "attention": rest}}})


def test_values_without_those_of_the_first_block_are_plain_attention():
    spec = toy(value_residual=0.4)
    params = alone(spec, value_first=0.0, value_own=1.0)
    same(logits(spec, params), logits(BASE, without(params, "value_first", "value_own")))


def test_the_values_of_the_first_block_are_those_of_all_groups():
    """However the blocks are grouped; in the first itself the two numbers do nothing."""
    spec = toy(value_residual=0.4, depth=3)
    (block,) = spec.stack.groups[0].blocks
    params = disturbed(spec)
    apart = with_groups(spec, Once((block,)), Repeat(1, (block, block)))
    one, rest = (
        jax.tree.map(lambda leaf, i=i: leaf[i], params["stack"]["group_0"]["blocks"]["block_0"])
        for i in (0, slice(1, 3))
    )
    one["attention"] |= {"value_first": jnp.nan_to_num(jnp.inf), "value_own": jnp.float32(7)}
    pairs = {f"block_{i}": jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], rest) for i in (0, 1)}
    grouped = with_group(params, group_0={"blocks": {"block_0": one}}, group_1={"blocks": pairs})
    same(logits(apart, grouped), logits(spec, params))


def test_heads_that_say_nothing_to_others_are_plain_attention():
    spec, eye = toy(talking_heads="both"), jnp.eye(3)
    params = alone(spec, mix_logits=eye, mix_weights=eye)
    same(logits(spec, params), logits(BASE, without(params, "mix_logits", "mix_weights")))


def test_deepnorm_of_one_is_post_norm():
    assert toy(placement="post", residual_scale=1.0, branch_scale=1.0) == toy(placement="post")


def test_a_skip_before_a_norm_is_a_smaller_branch():
    """norm(a x + f(x)) = norm(x + f(x) / a) without an epsilon: DeepNorm's two numbers are one at initialisation."""
    big, small = (toy(placement="post", residual_scale=a) for a in (2.0, 1.0))
    params = disturbed(small)
    block = params["stack"]["group_0"]["blocks"]["block_0"]
    halved = {
        **block,
        "attention": {**block["attention"], "out": {"weight": block["attention"]["out"]["weight"] / 2}},
        "ffn": {**block["ffn"], "down": {"weight": block["ffn"]["down"]["weight"] / 2}},
    }
    same(logits(small, with_group(params, group_0={"blocks": {"block_0": halved}})), logits(big, params))


class Bare:
    """What a join may own, in NumPy: RMS norms without a gain, and a gate."""

    gate = 0.3

    def norm(self, name):
        return lambda x: x / np.sqrt((x**2).mean(-1, keepdims=True))

    def number(self, name, start):
        return jnp.float32(self.gate)

    def __call__(self, place, x):
        return self.norm(place)(x)


@pytest.mark.parametrize("role", ["attention", "ffn"])
@pytest.mark.parametrize("placement", residual.PLACEMENTS)
def test_a_branch_is_weighed_after_its_own_norm_and_before_that_of_the_sum(placement, role):
    """The formula of every placement with numbers that are not 1, in NumPy; traced ones weigh as much.

    A branch may have a number for each channel, as LayerScale has.
    """
    join = getattr(residual.PLACEMENTS[placement], role)
    exact = reference.PLACEMENTS[placement][("attention", "ffn").index(role)]
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    stream = residual.PLACEMENTS[placement].enter(x)
    channels = np.linspace(0.2, 1.1, 5, dtype=np.float32)
    for skip, branch in ((1.3, 0.7), (jnp.float32(1.3), jnp.float32(0.7)), (1.3, channels)):
        wanted = exact(stream, np.tanh, Bare(), 1.3, np.asarray(branch))
        joined, side = join(stream, lambda h: (np.tanh(h), Side()), Bare(), skip, branch)
        assert side == Side()
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-6), joined, wanted
        )


def test_layer_norm_of_a_centred_stream_is_rms_norm():
    """Embedding and last matrices that give vectors of mean zero keep the stream centred."""
    rms, layer = toy(norm="rms"), toy(norm="layer")
    params = disturbed(rms)

    def centre(path, leaf):
        name = [part.key for part in path]
        writes = name[-2] in ("out", "down") or name[0] == "embed"
        return leaf - leaf.mean(-1, keepdims=True) if writes else leaf

    centred = jax.tree_util.tree_map_with_path(centre, params)
    with_bias = jax.tree.map(
        lambda node: {**node, "bias": jnp.zeros_like(node["scale"])} if "scale" in node else node,
        centred,
        is_leaf=lambda node: isinstance(node, dict) and not any(isinstance(value, dict) for value in node.values()),
    )
    same(logits(layer, with_bias), logits(rms, centred))
    assert np.abs(logits(layer, with_bias) - logits(rms, params)).max() > 0.1


def test_alibi_without_slope_is_no_bias(params):
    spec = toy(position="none")
    coords, zero = plain(LENGTH), DistanceBias(jnp.zeros(6))
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, LENGTH, 6, 4)).astype(np.float32)
    with_zero, without = (fx.ops.attend(q, k, v, bias=bias, q=coords, k=coords) for bias in (zero, None))
    np.testing.assert_array_equal(with_zero, without)
    assert np.abs(logits(toy(position="alibi"), params) - logits(spec, params)).max() > 0.1


def test_a_t5_table_of_zeros_is_no_bias():
    biased, none = toy(position="t5"), toy(position="none")
    params = disturbed(biased)
    silent = {**params, "stack": {**params["stack"], "bias": {"table": jnp.zeros((32, 3))}}}
    rest = {**params, "stack": {name: value for name, value in params["stack"].items() if name != "bias"}}
    same(logits(biased, silent), logits(none, rest))


@pytest.mark.parametrize("kind", SCALINGS)
def test_scaling_positions_by_one_is_no_scaling(kind, params):
    (block,) = BASE.stack.groups[0].blocks
    one = replace(block.attention.rotary, scaling=replace(SCALED[kind], factor=1.0))
    same(logits(with_attention(BASE, rotary=one), params), logits(BASE, params))


def test_linear_scaling_by_two_sees_every_second_position(params):
    """Tokens at positions 0, 2, 4, … under a factor of two are where tokens 0, 1, 2, … are without."""
    (block,) = BASE.stack.groups[0].blocks
    two = with_attention(BASE, rotary=replace(block.attention.rotary, scaling=fx.ops.Linear(factor=2.0)))
    spread = replace(plain(LENGTH), pos=2 * plain(LENGTH).pos)
    same(logits(two, params, coords=spread), logits(BASE, params))


def test_rotary_models_do_not_know_where_they_start(params):
    same(logits(BASE, params, coords=plain(LENGTH, start=500)), logits(BASE, params))


def test_a_pattern_repeated_is_its_blocks_written_out():
    """Two blocks three times over equal six groups of one block each with the same parameters in the same order."""
    (block,) = BASE.stack.groups[0].blocks
    other = replace(block, attention=replace(block.attention, mask=Window(3)))
    pattern = with_groups(BASE, Repeat(3, (block, other)))
    written = with_groups(BASE, *(Repeat(1, (part,)) for _ in range(3) for part in (block, other)))
    params = disturbed(pattern)
    blocks = params["stack"]["group_0"]["blocks"]
    groups = {
        f"group_{2 * n + j}": {
            "blocks": {"block_0": jax.tree.map(lambda leaf, n=n: leaf[n : n + 1], blocks[f"block_{j}"])}
        }
        for n in range(3)
        for j in range(2)
    }
    a, b = fx.apply(pattern, params, TOKENS), fx.apply(written, with_group(params, **groups), TOKENS)
    same(a.logits, b.logits)
    for name, curve in a.stats.items():  # by depth, block after block
        np.testing.assert_allclose(curve, b.stats[name], rtol=1e-4)


def test_tied_blocks_have_the_summed_gradient_of_free_ones():
    free = toy(depth=3)
    tied = with_groups(free, replace(free.stack.groups[0], tied=True))
    params = disturbed(tied)
    copied = with_group(params, group_0=jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), params["stack"]["group_0"]))
    shared = jax.jit(jax.grad(lambda p: loss(tied, p)))(params)["stack"]["group_0"]
    apart = jax.jit(jax.grad(lambda p: loss(free, p)))(copied)["stack"]["group_0"]
    for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(a, b.sum(axis=0), atol=1e-4 * np.abs(b).max())


def test_dropout_follows_the_key():
    spec, without = toy(dropout=0.3), toy()
    params = disturbed(spec)
    unkeyed = logits(spec, params)
    np.testing.assert_array_equal(unkeyed, logits(without, params))
    np.testing.assert_array_equal(unkeyed, logits(without, params, key=jax.random.key(1)))
    first, again, other = (logits(spec, params, key=jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - other).max() > 0.1 and jnp.abs(first - unkeyed).max() > 0.1


def test_every_branch_of_every_layer_drops_other_channels():
    """Branches that add 1, 10, 100 and 1000: the digits of the stream say which of them dropped a channel."""
    (group,) = toy(norm="none", dropout=0.5).stack.groups
    (block,) = group.blocks
    block = replace(block, attention=replace(block.attention, out_bias=True), ffn=replace(block.ffn, bias=True))
    spec = with_groups(toy(norm="none"), Repeat(2, (block,)))
    params = jax.tree.map(jnp.zeros_like, disturbed(spec))
    out = params["stack"]["group_0"]["blocks"]["block_0"]
    out["attention"]["out"]["bias"] += jnp.array([[1.0], [100.0]])
    out["ffn"]["down"]["bias"] += jnp.array([[10.0], [1000.0]])
    stream = np.asarray(fx.apply(spec, params, TOKENS, key=jax.random.key(3)).hidden / 2).round().astype(int)
    kept = np.stack([stream // 10**digit % 10 for digit in range(4)]).reshape(4, -1)
    assert set(np.unique(kept)) == {0, 1}
    agreement = (kept[:, None] == kept).mean(-1)  # by chance in half of the 432 channels
    np.testing.assert_allclose(agreement - np.eye(4) / 2, 0.5, atol=4 * 0.025)


def test_deeper_branches_pass_rows_by_more_often():
    """Branches that add 1, 10, 100 and 1000: their sum says which of them a row went through, all of it or none."""
    (group,) = toy(norm="none", stochastic_depth=0.6).stack.groups
    (block,) = group.blocks
    block = replace(block, attention=replace(block.attention, out_bias=True), ffn=replace(block.ffn, bias=True))
    spec = with_groups(toy(norm="none"), Repeat(2, (block,)))
    params = jax.tree.map(jnp.zeros_like, disturbed(spec))
    out = params["stack"]["group_0"]["blocks"]["block_0"]
    out["attention"]["out"]["bias"] += jnp.array([[1.0], [100.0]])
    out["ffn"]["down"]["bias"] += jnp.array([[10.0], [1000.0]])
    tokens = np.zeros((1000, 2), np.int32)
    np.testing.assert_allclose(fx.apply(spec, params, tokens).hidden, 1111.0)
    hidden = np.asarray(fx.apply(spec, params, tokens, key=jax.random.key(5)).hidden)
    np.testing.assert_array_equal(hidden, np.broadcast_to(hidden[:, :1, :1], hidden.shape))
    stays = np.array([0.7, 0.7, 0.4, 0.4])
    ways = np.array(list(np.ndindex(2, 2, 2, 2)))
    sums = ways @ (np.array([1, 10, 100, 1000]) / stays)
    which = np.abs(hidden[:, 0, :1] - sums).argmin(-1)
    np.testing.assert_allclose(hidden[:, 0, 0], sums[which], rtol=1e-5)
    kept = ways[which]
    np.testing.assert_allclose(kept.mean(0), stays, atol=4 * 0.0155)
    np.testing.assert_allclose(np.corrcoef(kept.T), np.eye(4), atol=4 * 0.0316)


def test_stochastic_depth_follows_the_key():
    spec = toy(stochastic_depth=0.5)
    np.testing.assert_array_equal(logits(spec, disturbed(spec)), logits(BASE, disturbed(BASE)))


def test_dropout_keeps_the_mean_and_its_share():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x):
            return dropout(self, x, 0.3)

    x = jnp.full((40_000,), 2.0)
    y = np.asarray(Dropped().apply({}, x, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(y).tolist()) == {0.0, float(np.float32(2.0) / np.float32(0.7))}
    assert (y == 0).mean() == pytest.approx(0.3, abs=4 * 0.0023)
    assert y.mean() == pytest.approx(2.0, abs=4 * 0.0066)
    np.testing.assert_array_equal(Dropped().apply({}, x), x)
