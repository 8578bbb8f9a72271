"""How a model is run: under jit and vmap, with traced numbers, with statistics that cost nothing if unused."""

from functools import partial
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer.verify import disturbed
from tests.laws.specs import BASE, STRUCTURES, tokens_of, toy

TOKENS = tokens_of(toy(), 2, 11)


def same(a, b):
    np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def test_jit_with_a_static_spec_is_apply():
    spec = toy(position="learned")
    params = disturbed(spec)
    compiled = jax.jit(fx.apply, static_argnums=0, static_argnames=("kernel", "unroll", "remat", "dtype"))
    for a, b in zip(*(jax.tree.leaves(run(spec, params, TOKENS)) for run in (compiled, fx.apply)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_equal_specs_share_one_compilation():
    count = []

    @partial(jax.jit, static_argnums=0)
    def run(spec, params):
        count.append(spec)
        return fx.apply(spec, params, TOKENS).logits

    for spec in (toy(), toy(), toy(norm="layer"), toy()):
        run(spec, disturbed(spec))
    assert len(count) == 2


def test_vmap_over_stacked_parameters_is_a_loop():
    """Models side by side in one program, logits and gradients: what populations stand on."""
    spec = toy(position="t5", kv_heads=1)
    models = [disturbed(spec, seed) for seed in range(3)]

    def loss(params):
        logits = fx.apply(spec, params, TOKENS[:, :-1]).logits
        return fx.ops.cross_entropy(logits, jnp.asarray(TOKENS[:, 1:])).mean()

    one = jax.jit(jax.value_and_grad(loss))
    together = jax.jit(jax.vmap(jax.value_and_grad(loss)))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *models))
    for k, params in enumerate(models):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(one(params)), strict=True):
            same(a[k], b)


def test_numbers_of_the_factory_may_be_traced():
    """One program for every residual scale, initial gain and branch gain: the spec is made inside of it."""
    traces = []

    @jax.jit
    def run(key, residual_scale, branch_scale, init_scale):
        traces.append(1)
        numbers = {"residual_scale": residual_scale, "branch_scale": branch_scale, "init_scale": init_scale}
        spec = toy(placement="post", **numbers)
        params = fx.init(spec, key)
        return params, fx.apply(spec, params, jnp.asarray(TOKENS)).logits

    for numbers in ((1.0, 1.0, 1.0), (1.7, 0.5, 2.0)):
        params, logits = run(jax.random.key(0), *numbers)
        spec = toy(
            placement="post", **dict(zip(("residual_scale", "branch_scale", "init_scale"), numbers, strict=True))
        )
        exact = fx.init(spec, jax.random.key(0))
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(exact), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        same(logits, fx.apply(spec, exact, TOKENS).logits)
    assert len(traces) == 1


def test_initial_deviations_are_what_the_spec_says():
    """Fan-in of every matrix, GPT-2's fixed 0.02 and 0.02 / sqrt(2 L); to four standard errors of a deviation."""
    wide = {"width": 96, "heads": 4, "inner": 200, "kv_heads": 2, "head": "untied"}
    block = fx.init(toy(**wide, init_scale=1.5, branch_scale=0.5), jax.random.key(0))["stack"]["group_0"]["blocks"]
    gpt2 = fx.init(fx.zoo.tiny("gpt2"), jax.random.key(0))["stack"]["group_0"]["blocks"]
    expected = [
        (block, "attention", "query", 1.5 / 96**0.5), (block, "attention", "key", 1.5 / 96**0.5),
        (block, "attention", "value", 0.75 / 96**0.5), (block, "attention", "out", 0.75 / 96**0.5),
        (block, "ffn", "up", 0.75 / 96**0.5), (block, "ffn", "down", 0.75 / 200**0.5),
        (gpt2, "attention", "query", 0.02), (gpt2, "attention", "out", 0.02 / 6**0.5),
        (gpt2, "ffn", "down", 0.02 / 6**0.5),
    ]  # fmt: skip
    for blocks, sublayer, name, deviation in expected:
        weight = np.asarray(blocks["block_0"][sublayer][name]["weight"])
        assert weight.std() == pytest.approx(deviation, rel=4 / (2 * weight.size) ** 0.5), (sublayer, name)
        assert abs(weight.mean()) < 4 * deviation / weight.size**0.5
        assert not np.array_equal(weight[0], weight[1])  # layers are not copies of one another


@pytest.mark.parametrize(
    "choice", ["norm=layer", "placement=post", "position=learned", "ffn=glu", "head=untied", "window=3"]
)
def test_models_of_one_key_start_alike_in_what_they_share(choice):
    """Arms of an ablation are paired: the key of each parameter depends on its path only."""
    base, other = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
        for params in (fx.init(STRUCTURES[name], jax.random.key(5)) for name in ("placement=pre", choice))
    )
    shared = [path for path in base if path in other and base[path].shape == other[path].shape]
    assert sum("weight" in path for path in shared) >= 5
    for path in shared:
        np.testing.assert_array_equal(base[path], other[path], err_msg=path)


def flops(spec, use):
    """FLOPs of a compiled step of the gradient; the loop is written out so that each layer counts."""
    params = disturbed(spec)

    def loss(params):
        out = fx.apply(spec, params, TOKENS, unroll=BASE["depth"])
        return (out.logits**2).sum() + use(out.stats)

    return jax.jit(jax.grad(loss)).lower(params).compile().cost_analysis()["flops"]


def test_statistics_cost_nothing_unless_they_are_used(monkeypatch):
    """As many FLOPs as in a model that has none, and fewer than where one of them is looked at."""
    unused = flops(toy(), lambda stats: 0.0)
    used = flops(toy(), lambda stats: stats["attention_entropy"].sum() + stats["ffn_branch_ratio"].sum())
    monkeypatch.setattr(import_module("fxformer.layers.attention.gqa"), "logit_stats", lambda *arguments: {})
    monkeypatch.setattr(import_module("fxformer.layers.residual"), "mean_square", lambda x: jnp.float32(1))
    monkeypatch.setattr(import_module("fxformer.block"), "mean_square", lambda x: jnp.float32(1))
    without = jax.eval_shape(partial(fx.apply, toy()), disturbed(toy()), jnp.asarray(TOKENS)).stats
    assert "attention_entropy" not in without
    assert flops(toy(), lambda stats: 0.0) == unused < used
