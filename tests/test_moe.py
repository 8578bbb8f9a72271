"""Laws of the mixture of experts as a layer: what it is equal to, and what must not matter."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from fxformer import coords
from fxformer.layers.context import Context
from fxformer.layers.ffn import FFN, GLU, MLP, MoE
from fxformer.layers.norm import Norm
from fxformer.ops.dispatch import Capacity, Dropless
from fxformer.ops.route import GShard, Sigmoid, Switch, TopK
from fxformer.ops.statistic import numbers
from fxformer.sharding import PRESETS, batch_sharding, mesh, partition, use

B, T, D, E, F = 3, 7, 10, 4, 12
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
MLP_EXPERT = MLP(inner=F, activation="relu", bias=True)
GLU_EXPERT = GLU(inner=F, activation="silu")
BASE = MoE(experts=E, expert=MLP_EXPERT, router=TopK(k=2))
SPECS = {
    "switch": MoE(experts=E, expert=MLP_EXPERT, router=Switch(), dispatch=Capacity(factor=1.0, least=0), jitter=0.1),
    "gshard": MoE(experts=E, expert=MLP_EXPERT, router=GShard(), dispatch=Capacity(factor=0.7, least=0), per_row=True),
    "mixtral": MoE(experts=E, expert=GLU_EXPERT, router=TopK(k=2, renormalise=True)),
    "gpt-oss": MoE(
        experts=E, expert=replace(GLU_EXPERT, bias=True), router=TopK(k=3, renormalise=True), router_bias=True
    ),
    "v2": MoE(
        experts=E,
        expert=GLU_EXPERT,
        router=TopK(k=1, scale=2.0, groups=2, kept_groups=1),
        shared=GLU(inner=14, activation="silu"),
    ),
    "v3": MoE(
        experts=E,
        expert=replace(GLU_EXPERT, inner_norm=Norm(kind="rms")),
        router=Sigmoid(k=3, scale=2.5, groups=2, kept_groups=2),
        shared=MLP(inner=14, activation="relu"),
        selection_bias=True,
        per_row=True,
    ),
}


@partial(jax.jit, static_argnums=0)
def run(spec, params, x=X, context=Context(coords=coords.plain(T)), key=None):
    rngs = {} if key is None else {"dropout": key}
    y, side = FFN[type(spec)](spec).apply({"params": params}, x, context, rngs=rngs)
    return y, side._replace(stats=numbers(side.stats))


def boxed(spec):
    layer = FFN[type(spec)](spec)
    return jax.eval_shape(lambda key: layer.init(key, X, Context(coords=coords.plain(T)))["params"], jax.random.key(0))


def disturbed(spec, seed=1):
    """Random parameters: no bias zero, no gain one."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return jax.device_put(np.float32(0.5 * rng.normal(size=leaf.shape)))

    return jax.tree.map(draw, nn.unbox(boxed(spec)))


def close(one, other, tolerance=2e-6):
    np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("expert", [MLP_EXPERT, SPECS["v3"].expert], ids=["mlp", "glu-normed"])
@pytest.mark.parametrize("dispatch", [Dropless(), Capacity(factor=1.0)], ids=["dropless", "capacity"])
def test_one_expert_of_weight_one_is_its_dense_layer(expert, dispatch):
    spec = MoE(experts=1, expert=expert, router=TopK(k=1), dispatch=dispatch)
    params = disturbed(spec)
    y, side = run(spec, params)
    dense, _ = run(expert, jax.tree.map(lambda leaf: leaf[0], params["experts"]))
    close(y, dense)
    assert side.stats["dropped"] == 0 and side.stats["load_max"] == 1 and side.stats["load_entropy"] == 0


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_layer_is_the_weighted_sum_of_the_dense_layers_of_its_experts(spec):
    """Each token alone: routed in float64 by the router's definition, experts and shared layer by the dense module."""
    spec = replace(spec, dispatch=Dropless())
    params = disturbed(spec)
    y, _ = run(spec, params)
    tokens = np.asarray(X, np.float64).reshape(-1, D)
    outputs = np.stack(
        [run(spec.expert, jax.tree.map(lambda leaf: leaf[e], params["experts"]))[0].reshape(-1, D) for e in range(E)]  # noqa: B023
    )
    logits = tokens @ np.asarray(params["router"]["weight"], np.float64)
    logits += np.asarray(params["router"]["bias"]) if spec.router_bias else 0
    expected = np.zeros_like(tokens)
    for t, row in enumerate(logits):
        score = 1 / (1 + np.exp(-row)) if isinstance(spec.router, Sigmoid) else np.exp(row) / np.exp(row).sum()
        biased = score + (np.asarray(params["selection_bias"]) if spec.selection_bias else 0)
        if spec.router.kept_groups < spec.router.groups:  # one expert in the best of two groups
            biased = np.where(np.arange(E) // 2 == np.argmax(biased) // 2, biased, -np.inf)
        chosen = np.argsort(-biased)[: spec.router.k]
        weight = score[chosen]
        if isinstance(spec.router, GShard | Sigmoid) or (isinstance(spec.router, TopK) and spec.router.renormalise):
            weight = weight / weight.sum()
        if isinstance(spec.router, TopK | Sigmoid):
            weight = weight * spec.router.scale
        expected[t] = weight @ outputs[chosen, t]
    if spec.shared is not None:
        expected += np.asarray(run(spec.shared, params["shared"])[0]).reshape(-1, D)
    close(y.reshape(-1, D), expected, 2e-5)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_capacity_for_everyone_is_dropless(spec):
    params = disturbed(spec)
    y, side = run(replace(spec, dispatch=Dropless()), params)
    roomy, roomy_side = run(replace(spec, dispatch=Capacity(factor=float(E))), params)
    close(roomy, y)
    jax.tree.map(np.testing.assert_array_equal, (roomy_side.losses, roomy_side.stats), (side.losses, side.stats))
    assert side.stats["dropped"] == 0


def test_what_finds_no_place_is_counted_and_the_shared_expert_still_sees_it():
    """All tokens want one expert, of which two places of each row are open."""
    shared = MLP(inner=14, activation="relu")
    spec = MoE(
        experts=E, expert=MLP_EXPERT, router=Switch(), dispatch=Capacity(factor=2 * E / T, least=0), shared=shared
    )
    spec = replace(spec, router_bias=True, per_row=True)
    params = disturbed(spec)
    params["router"]["bias"] = jnp.array([0.0, 50.0, 0.0, 0.0])
    y, side = run(spec, params)
    close(y[:, 2:], run(shared, params["shared"])[0][:, 2:])
    assert np.abs(y - run(shared, params["shared"])[0])[:, :2].min(axis=-1).all()
    close(side.stats["dropped"], 5 / 7)
    close(side.stats["load"], [0, 1, 0, 0])
    close(side.stats["load_max"], E)
    close(side.stats["load_entropy"], 0)


def test_statistics_of_an_even_load():
    spec = MoE(experts=E, expert=MLP_EXPERT, router=Switch(), router_bias=True)
    params = disturbed(spec)
    params["router"] = {"weight": jnp.eye(D, E), "bias": jnp.zeros(E)}
    x = jnp.tile(jnp.eye(E, D), (B, 2, 1))
    _, side = run(spec, params, x, Context(coords=coords.plain(2 * E)))
    close(side.stats["load"], np.full(E, 0.25))
    close(side.stats["load_max"], 1)
    close(side.stats["load_entropy"], np.log(E))
    close(side.losses["balance"], 1)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_padding_changes_nothing(spec):
    """Padding between tokens and an empty row, of other numbers: the same outputs, losses and statistics."""
    params = disturbed(spec)
    y, side = run(spec, params)
    valid = np.array([True, False, True, True, False, True, True, True, True])
    x = np.asarray(7 * RNG.normal(size=(B + 1, 9, D)), np.float32)
    x[:B, valid] = X
    context = Context(coords=coords.padded(np.append(np.tile(valid, (B, 1)), np.zeros((1, 9), bool), axis=0)))
    padded, padded_side = run(spec, params, jnp.asarray(x), context)
    close(padded[:B, valid], y)
    jax.tree.map(close, padded_side.losses | padded_side.stats, side.losses | side.stats)


def test_one_row_of_coordinates_stands_for_all():
    valid = np.array([[True, False, True, True, False, True, True]])
    spec, params = SPECS["v3"], disturbed(SPECS["v3"])
    one = run(spec, params, X, Context(coords=coords.padded(valid)))
    many = run(spec, params, X, Context(coords=coords.padded(np.tile(valid, (B, 1)))))
    jax.tree.map(np.testing.assert_array_equal, one, many)


@pytest.mark.parametrize("name", ["switch", "gshard", "mixtral", "gpt-oss"])
def test_the_order_of_the_experts_does_not_matter(name):
    spec, order = SPECS[name], np.array([2, 0, 3, 1])
    params = disturbed(spec)
    y, side = run(spec, params)
    permuted = {
        "experts": jax.tree.map(lambda leaf: leaf[order], params["experts"]),
        "router": jax.tree.map(lambda leaf: leaf[..., order], params["router"]),
    }
    other, other_side = run(spec, permuted)
    close(other, y)
    close(other_side.stats["load"], side.stats["load"][order])
    jax.tree.map(close, other_side.losses, side.losses)


def test_the_selection_bias_chooses_and_does_not_weigh():
    """A large bias on two experts sends every token there; their weights are those of the unbiased scores."""
    spec = replace(SPECS["v3"], router=Sigmoid(k=2), shared=None)
    params = disturbed(spec)
    params["selection_bias"] = jnp.array([0.0, 9.0, 0.0, 8.0])
    y, side = run(spec, params)
    close(side.stats["load"], [0, 0.5, 0, 0.5])
    s = np.asarray(jax.nn.sigmoid(X @ params["router"]["weight"]))[..., [1, 3], None]
    one, three = (run(spec.expert, jax.tree.map(lambda leaf: leaf[e], params["experts"]))[0] for e in (1, 3))  # noqa: B023
    close(y, (s[..., 0, :] * one + s[..., 1, :] * three) / s.sum(-2), 1e-5)


def test_rows_do_not_touch_each_other_where_they_queue_apart():
    """The gradient of one row with respect to another is zero, and neither changes the other's places."""
    spec = replace(SPECS["gshard"], dispatch=Capacity(factor=0.5, least=0))
    params = disturbed(spec)
    y, _ = run(spec, params)
    other = X.at[0].set(jnp.asarray(RNG.normal(size=(T, D))))
    np.testing.assert_array_equal(run(spec, params, other)[0][1:], y[1:])
    apart, together = run(spec, params)[0], run(replace(spec, per_row=False), params)[0]
    assert np.abs(apart - together).max() > 1e-2


def test_the_router_is_float32_where_activations_are_not():
    """Logits 1 and 1 + 2^-9 are one number in bfloat16, where the first expert would win."""
    spec = MoE(experts=2, expert=MLP_EXPERT, router=Switch())
    params = disturbed(spec)
    params["router"]["weight"] = jnp.zeros((D, 2)).at[0].set(jnp.array([1.0, 1.0 + 2**-9]))
    x = jnp.ones((B, T, D), jnp.bfloat16)
    logits = x @ params["router"]["weight"].astype(jnp.bfloat16)
    assert (logits[..., 0] == logits[..., 1]).all()
    y, side = run(spec, params, x)
    assert y.dtype == jnp.bfloat16
    close(side.stats["load"], [0, 1])


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_gradients_reach_every_parameter_but_the_selection_bias(spec):
    """The router learns through the weights alone, losses aside; Mixtral's sum of two as well as Switch's one."""
    spec = replace(spec, dispatch=Dropless())
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(jnp.sin(run(spec, params)[0]))))(disturbed(spec))
    if spec.selection_bias:
        assert not np.asarray(gradient.pop("selection_bias")).any()
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.asarray(leaf).any(axis=-1).mean() > 0.9, path
    balance = jax.jit(jax.grad(lambda params: run(spec, params)[1].losses["balance"]))(disturbed(spec))
    assert np.asarray(balance.pop("router")["weight"]).all()
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(balance))


def test_chance_is_taken_only_with_a_key():
    """Jitter, random second choices and dropout inside experts; the same key gives the same numbers."""
    jittered = replace(SPECS["switch"], jitter=0.5, dispatch=Dropless())
    chance = replace(SPECS["gshard"], dispatch=Dropless())
    dropping = replace(BASE, expert=replace(MLP_EXPERT, dropout=0.5))
    for spec, still in (
        (jittered, replace(jittered, jitter=0.0)),
        (chance, replace(chance, router=GShard(threshold=0.0))),
        (dropping, BASE),
    ):
        params, key = disturbed(spec), jax.random.key(0)
        np.testing.assert_array_equal(run(spec, params)[0], run(still, params)[0])
        np.testing.assert_array_equal(run(still, params, key=key)[0], run(still, params)[0])
        np.testing.assert_array_equal(run(spec, params, key=key)[0], run(spec, params, key=key)[0])
        assert np.abs(run(spec, params, key=key)[0] - run(spec, params)[0]).max() > 1e-2


def test_experts_are_drawn_like_the_dense_layer_and_each_for_itself():
    """The deviation is that of one expert's fan in; no two experts are alike."""
    spec = MoE(experts=6, expert=MLP(inner=64, activation="relu"), router=Switch())
    context = Context(coords=coords.plain(5))
    layer = FFN[MoE](spec)
    params = nn.unbox(jax.jit(layer.init)(jax.random.key(0), jnp.zeros((2, 5, 48)), context)["params"])
    for name, fan_in in (("up", 48), ("down", 64)):
        weight = np.asarray(params["experts"][name]["weight"]).reshape(6, -1)
        np.testing.assert_allclose(weight.std(axis=1), fan_in**-0.5, rtol=0.06)
        assert np.abs(np.corrcoef(weight) - np.eye(6)).max() < 0.1


def test_parameters_have_an_expert_axis_and_its_name():
    boxes = boxed(SPECS["v3"])
    assert boxes["experts"]["up"]["weight"].names == ("expert", "width", "ffn")
    assert boxes["experts"]["up"]["weight"].value.shape == (E, D, F)
    assert boxes["experts"]["down"]["weight"].names == ("expert", "ffn", "width")
    assert boxes["experts"]["inner_norm"]["scale"].names == ("expert", "ffn")
    assert boxes["router"]["weight"].names == ("width", "expert")
    assert boxes["selection_bias"].names == ("expert",)
    assert boxes["shared"]["down"]["weight"].names == ("ffn", "width")


@pytest.mark.parametrize("name", ["switch", "v3"])
def test_a_population_is_a_loop_over_its_members(name):
    """`vmap` over parameters, as the ablation trains them."""
    spec = SPECS[name]
    members = [disturbed(spec, seed) for seed in range(2)]

    def loss(params):
        y, side = run(spec, params)
        return jnp.sum(jnp.sin(y)) + side.losses["balance"]

    step = jax.value_and_grad(loss)
    found = jax.jit(jax.vmap(step))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *members))
    for i, params in enumerate(members):
        jax.tree.map(lambda many, one: close(many[i], one, 1e-4), found, jax.jit(step)(params))  # noqa: B023


@pytest.mark.parametrize("name", ["switch", "v3"])
@pytest.mark.parametrize("preset", ["fsdp_tp", "ep_tp"])
def test_cut_over_devices_it_is_the_same_layer(name, preset):
    """Two devices each for rows of the batch, and for channels or experts."""
    spec, rules = SPECS[name], PRESETS[preset]
    params, x = disturbed(spec), X[:2]

    def loss(params, x):
        y, side = FFN[MoE](spec).apply({"params": params}, x, Context(coords=coords.plain(T)))
        return jnp.sum(jnp.sin(y)) + side.losses["balance"], y

    step = jax.value_and_grad(loss, has_aux=True)
    devices = mesh("data=2,model=2")
    cuts = jax.tree.map(
        lambda box: NamedSharding(devices, partition(box.names, devices, rules)),
        boxed(spec),
        is_leaf=lambda node: isinstance(node, nn.LogicallyPartitioned),
    )
    with use(devices, rules):
        found = jax.jit(step, in_shardings=(cuts, batch_sharding(devices, rules)))(params, x)
    jax.tree.map(partial(close, tolerance=2e-5), found, jax.jit(step)(params, x))


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"experts": 0}, ("0", "1")),
        ({"router": TopK(k=5)}, ("5", "4")),
        ({"router": TopK(k=2, groups=3)}, ("3", "4")),
        ({"jitter": 1.0}, ("1.0", "0")),
    ],
)
def test_mixtures_that_do_not_fit_are_refused_with_both_numbers(fields, numbers):
    with pytest.raises(ValueError) as error:
        replace(BASE, **fields)
    assert all(number in str(error.value) for number in numbers)
