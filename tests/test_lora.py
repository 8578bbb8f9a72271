"""Low-rank adapters: what they change, what they leave alone, and how many numbers they are."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fxformer as fx
from fxformer import lora
from fxformer.model import abstract_params

SPEC = fx.zoo.toy(width=24, depth=2, heads=4, kv_heads=1, ffn="glu", inner=40, head="untied", vocab=50, length=32)
BLOCK = "stack.group_0.blocks.block_0"
TOKENS = np.random.default_rng(0).integers(0, 50, (3, 7))
KEY = jax.random.key(5)


def leaves(tree) -> dict:
    """Dotted path -> leaf."""
    nested = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: not isinstance(node, dict))
    return {".".join(part.key for part in path): leaf for path, leaf in nested}


def disturbed(adapters, seed=1):
    """The adapters with random numbers for B, so that they change something."""
    rng = np.random.default_rng(seed)
    return {path: {"a": pair["a"], "b": jnp.asarray(rng.normal(size=pair["b"].shape), jnp.float32)}
            for path, pair in adapters.items()}  # fmt: skip


@pytest.fixture(scope="module")
def params():
    return fx.init(SPEC, jax.random.key(0))


@jax.jit
def loss(adapters, params):
    logits_BTV = fx.apply(SPEC, lora.merge(params, adapters, 8.0), jnp.asarray(TOKENS)).logits
    return optax.softmax_cross_entropy_with_integer_labels(logits_BTV[:, :-1], jnp.asarray(TOKENS[:, 1:])).mean()


@pytest.mark.parametrize("name", ["toy", *fx.zoo.names()])
def test_the_inputs_of_a_weight_are_the_axes_that_its_einsum_contracts(name):
    """The einsums are overheard while the model is made; the shapes and their letters say what is summed.

    A layer mapped over experts does not know where it stands, so a weight's einsum is that of its longest ending.
    """
    spec, einsums = SPEC if name == "toy" else fx.zoo.tiny(name), {}

    def overhear(call, args, kwargs, context):
        fields = context.module.__dataclass_fields__
        if "einsum" in fields and context.method_name == "__call__":
            einsums[".".join((*context.module.path, "weight"))] = context.module.einsum
        return call(*args, **kwargs)

    with nn.intercept_methods(overhear):
        jax.eval_shape(partial(fx.init, spec), jax.random.key(0))
    shapes = {path: box.value.shape for path, box in leaves(abstract_params(spec)).items()}
    found = {path: matrix for path, matrix in lora.matrices(spec).items() if path.endswith(".weight")}
    heard = {path: max((end for end in einsums if f".{path}".endswith(f".{end}")), key=len) for path in found}
    assert set(heard.values()) == set(einsums)
    for path, ending in heard.items():
        einsum = einsums[ending]
        inputs, weight, output = einsum.replace("->", ",").split(",")
        sizes = dict(zip(weight, shapes[path][-len(weight) :], strict=True))
        summed = math.prod(size for letter, size in sizes.items() if letter not in output)
        batched = math.prod(size for letter, size in sizes.items() if letter in output and letter in inputs)
        stacked = math.prod(shapes[path][: -len(weight)])
        assert (found[path].fan_in, math.prod(found[path].stack)) == (summed, stacked * batched)
        assert found[path].fan_out == math.prod(sizes.values()) // (summed * batched)


def test_tables_are_matrices_and_gains_are_none(params):
    tables = {path for path in lora.matrices(SPEC) if not path.endswith(".weight")}
    assert tables == {"embed.table"}
    assert any(path.endswith(".scale") for path in leaves(params))


def test_a_fresh_adapter_of_every_matrix_changes_no_bit(params):
    adapters = lora.init(SPEC, KEY, rank=3, targets=("*",))
    assert set(adapters) == set(lora.matrices(SPEC))
    merged = lora.merge(params, adapters, 16.0)
    np.testing.assert_array_equal(fx.apply(SPEC, merged, TOKENS).logits, fx.apply(SPEC, params, TOKENS).logits)


def test_a_merge_adds_the_product_to_its_targets_and_nothing_elsewhere(params):
    adapters = disturbed(lora.init(SPEC, KEY, rank=3, targets=("*.query.weight", "*.out.weight", "embed.table")))
    merged, base = leaves(lora.merge(params, adapters, 6.0)), leaves(params)
    shapes = {
        f"{BLOCK}.attention.query.weight": "ldr,lrc->ldc",
        f"{BLOCK}.attention.out.weight": "lcr,lrd->lcd",
        "head.out.weight": "dr,rv->dv",
        "embed.table": "vr,rd->vd",
    }
    assert set(adapters) == set(shapes)
    for path, weight in base.items():
        expected = np.asarray(weight, np.float64)
        if path in shapes:
            a, b = (np.asarray(adapters[path][name], np.float64) for name in "ab")
            expected = expected + 6.0 / 3 * np.einsum(shapes[path], a, b).reshape(weight.shape)
            assert np.abs(expected - weight).max() > 0.1
        np.testing.assert_allclose(merged[path], expected, rtol=1e-6, atol=1e-6 if path in shapes else 0)


def test_an_adapted_matrix_multiplies_as_the_paper_writes_it(params):
    """h = W x + (alpha / r) B A x, section 4.1, for the queries of one layer, heads and channels in their places."""
    path = f"{BLOCK}.attention.query.weight"
    adapters = disturbed(lora.init(SPEC, KEY, rank=5, targets=(path,)))
    x_D = np.random.default_rng(2).normal(size=24)
    up_RD, down_HKR = adapters[path]["a"][1].T, np.moveaxis(adapters[path]["b"][1].reshape(5, 4, 6), 0, -1)
    expected_HK = np.einsum("dhk,d->hk", leaves(params)[path][1], x_D) + 2.0 / 5 * down_HKR @ (up_RD @ x_D)
    merged_DHK = leaves(lora.merge(params, adapters, 2.0))[path][1]
    np.testing.assert_allclose(np.einsum("dhk,d->hk", merged_DHK, x_D), expected_HK, rtol=1e-5, atol=1e-5)


def test_training_moves_adapters_only_and_lowers_the_loss(params):
    adapters, optimizer = lora.init(SPEC, KEY, rank=3, targets=("*.query.weight", "*.up.weight")), optax.adam(0.02)
    state, losses = optimizer.init(adapters), []
    value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    for step in range(6):
        value, (gradients, frozen) = value_and_grad(adapters, params)
        losses.append(float(value))
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(frozen))
        for pair in gradients.values():
            assert np.any(pair["b"]) and bool(np.any(pair["a"])) == (step > 0)  # B = 0 hides A at first
        updates, state = optimizer.update(gradients, state)
        adapters = optax.apply_updates(adapters, updates)
    assert losses[-1] < losses[0] - 0.1
    merged, base = leaves(lora.merge(params, adapters, 8.0)), leaves(params)
    moved = {path for path in base if np.any(merged[path] != base[path])}
    assert moved == {f"{BLOCK}.attention.query.weight", f"{BLOCK}.ffn.up.weight"}


def test_several_adapters_of_one_model_run_together(params):
    make = partial(lora.init, SPEC, rank=3)
    several = [disturbed(make(key), seed) for seed, key in enumerate(jax.random.split(KEY, 4))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    together = jax.vmap(loss, in_axes=(0, None))(stacked, params)
    np.testing.assert_allclose(together, [loss(adapters, params) for adapters in several], rtol=1e-5)
    assert np.ptp(together) > 1e-3
    drawn = jax.vmap(make)(jax.random.split(KEY, 4))
    for path, pair in drawn.items():
        np.testing.assert_allclose(pair["a"][2], several[2][path]["a"], rtol=1e-6)


def test_an_adapter_is_drawn_by_its_fan_in_and_depends_on_its_path_only():
    path = f"{BLOCK}.ffn.down.weight"
    alone, among = lora.init(SPEC, KEY, rank=64, targets=(path,)), lora.init(SPEC, KEY, rank=64, targets=("*",))
    np.testing.assert_array_equal(alone[path]["a"], among[path]["a"])
    for layer in alone[path]["a"]:
        assert float(layer.std()) == pytest.approx(1 / math.sqrt(40), rel=0.05)
    first, second = alone[path]["a"].reshape(2, -1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    assert not np.any(alone[path]["b"])


@pytest.mark.parametrize(
    ("produced", "published", "kv_heads", "separate"),
    [(3 * 4096, 3_670_016, 32, 5_505_024), (4096 + 2 * 2 * 128, 1_949_696, 2, 3_784_704)],
    ids=["chatglm-6b", "chatglm2-6b"],
)
def test_counts_of_rank_8_in_28_layers_of_width_4096(produced, published, kv_heads, separate):
    """The published numbers adapt one fused matrix, width -> queries, keys and values.

    A feed-forward matrix of the same fans costs the same. Three separate matrices cost two more A a layer.
    """
    spec = fx.zoo.toy(width=4096, depth=28, heads=32, kv_heads=kv_heads, inner=produced)
    qkv = ("*.query.weight", "*.key.weight", "*.value.weight")

    def counted(targets):
        return lora.count(jax.eval_shape(partial(lora.init, spec, rank=8, targets=targets), KEY))

    assert counted(("*.ffn.up.weight",)) == published == 28 * 8 * (4096 + produced)
    assert counted(qkv) == separate == published + 28 * 8 * 2 * 4096


def test_what_is_refused(params):
    def refused(sentence, make):
        with pytest.raises(ValueError) as error:
            make()
        assert str(error.value) == sentence

    refused("rank=0 adapts nothing; use 1 or more", lambda: lora.init(SPEC, KEY, rank=0))
    refused("rank=1.5 adapts nothing; use 1 or more", lambda: lora.init(SPEC, KEY, rank=1.5))
    refused("targets name no matrix; give at least one pattern", lambda: lora.init(SPEC, KEY, rank=2, targets=()))
    refused(
        "target matrix='*.qeury.weight' is unknown; did you mean '*.query.weight'?",
        lambda: lora.init(SPEC, KEY, rank=2, targets=("*.value.weight", "*.qeury.weight")),
    )
    refused(
        "target matrix='*.before.scale' is unknown; use one of embed.table, *.out.weight, *.key.weight, "
        "*.query.weight, *.value.weight, *.down.weight, *.gate.weight, *.up.weight",
        lambda: lora.init(SPEC, KEY, rank=2, targets=("*.before.scale",)),
    )
    refused(
        "targets='*.up.weight' is one string; give a tuple of patterns, ('*.up.weight',)",
        lambda: lora.init(SPEC, KEY, rank=2, targets="*.up.weight"),
    )
    adapter = lora.init(SPEC, KEY, rank=2, targets=("head.out.weight",))["head.out.weight"]
    refused(
        "adapter='head.uot.weight' is unknown; did you mean 'head.out.weight'?",
        lambda: lora.merge(params, {"head.uot.weight": adapter}, 1.0),
    )
    refused(
        "adapter embed.table of [24, 2] and [2, 50] does not fit a weight [50, 24]; make it with this model's spec",
        lambda: lora.merge(params, {"embed.table": adapter}, 1.0),
    )
