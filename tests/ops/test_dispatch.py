"""Dispatches against a loop over tokens, each other, and `lax.ragged_dot`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxformer.ops.dispatch import DISPATCHES, Capacity, Dropless, by_blocks, capacity, dispatch
from fxformer.ops.route import Routing

B, T, M, E, D, F = 2, 9, 3, 5, 7, 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, T, D))
PARAMS = {"up": RNG.normal(size=(E, D, F)), "bias": RNG.normal(size=(E, F)), "down": RNG.normal(size=(E, F, D))}
EXPERT = np.stack([[RNG.permutation(E)[:M] for _ in range(T)] for _ in range(B)])
EXPERT[0, 3] = EXPERT[1, :2] = E  # padding
EXPERT[1, 5, 2] = E  # a third choice that is not made
WEIGHT = RNG.random((B, T, M)) * (EXPERT < E)
ROOMY = Capacity(factor=float(E))
SPECS = {"capacity": Capacity(factor=0.8, least=0), "roomy": ROOMY, "dropless": Dropless()}


def routing_of(expert, weight):
    return Routing(jnp.asarray(expert, jnp.int32), jnp.asarray(weight, jnp.float32), {}, jnp.zeros(E))


ROUTING = routing_of(EXPERT, WEIGHT)


def experts_of(params):
    def experts(x_XCD, own):
        mine = own(params)
        h = jnp.einsum("xcd,xdf->xcf", x_XCD, mine["up"]) + mine["bias"][:, None]
        return jnp.einsum("xcf,xfd->xcd", jnp.tanh(h), mine["down"])

    return experts


def run(spec, x=X, params=PARAMS, routing=ROUTING):
    return _run(spec, jnp.asarray(x), params, routing)


@partial(jax.jit, static_argnums=0)
def _run(spec, x, params, routing):
    return dispatch(spec, x, routing, experts_of(params))


def expert_of(i, x):
    return np.tanh(x @ PARAMS["up"][i] + PARAMS["bias"][i]) @ PARAMS["down"][i]


def kept_by(spec, expert):
    """Which choices find a place: a queue of first choices in order of the tokens, then of second ones."""
    kept = np.zeros(expert.shape, bool)
    for b, row in enumerate(expert):
        tokens = sum(1 for choices in row if choices[0] < E)
        room = max(int(np.floor(tokens * expert.shape[-1] * spec.factor / E)), spec.least)
        taken = dict.fromkeys(range(E), 0)
        for m in range(expert.shape[-1]):
            for t, choices in enumerate(row):
                if choices[m] < E and taken[choices[m]] < room:
                    taken[choices[m]] += 1
                    kept[b, t, m] = True
    return kept


def combined(x, expert, weight, kept):
    y = np.zeros_like(x)
    for b, t, m in np.argwhere(kept):
        y[b, t] += weight[b, t, m] * expert_of(expert[b, t, m], x[b, t])
    return y


def test_every_dispatch_is_tried():
    assert {type(spec) for spec in SPECS.values()} == set(DISPATCHES)


@pytest.mark.oracle
@pytest.mark.parametrize("factor", [0.3, 0.8, 1.25, float(E)])
@pytest.mark.parametrize("least", [0, 3])
def test_capacity_keeps_who_comes_first(factor, least):
    spec = Capacity(factor=factor, least=least)
    y, kept = run(spec)
    expected = kept_by(spec, EXPERT)
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_allclose(y, combined(X, EXPERT, WEIGHT, expected), atol=2e-6)


@pytest.mark.oracle
def test_dropless_computes_every_choice_that_is_made():
    y, kept = run(Dropless())
    np.testing.assert_array_equal(kept, EXPERT < E)
    np.testing.assert_allclose(y, combined(X, EXPERT, WEIGHT, EXPERT < E), atol=2e-6)


def test_capacity_of_the_papers_example():
    """16 tokens, 4 experts, factor 1.25: 5 places; the sixth who wants the same expert is left out."""
    assert capacity(Capacity(factor=1.25, least=4), np.array(16), 1, 4) == 5
    assert capacity(Capacity(factor=1.25, least=4), np.array([0, 1, 3, 8, 12]), 1, 4).tolist() == [0, 1, 3, 4, 4]
    assert capacity(Capacity(factor=1.0, least=0), np.array([3, 4, 7, 8]), 2, 8).tolist() == [0, 1, 1, 2]
    assert capacity(Capacity(factor=0.0, least=3), np.array([2, 3, 90]), 1, 4).tolist() == [2, 3, 3]
    expert = np.full((1, 16, 1), 2)
    spec = Capacity(factor=1.25 * E / 4, least=0)
    _, kept = run(spec, RNG.normal(size=(1, 16, D)), routing=routing_of(expert, np.ones(expert.shape)))
    np.testing.assert_array_equal(kept[0, :, 0], np.arange(16) < 5)


def test_first_choices_are_placed_before_second_ones():
    """The last token's first choice takes the place that the first token wanted as its second."""
    expert = np.array([[[0, 1], [2, 3], [1, 4]]])
    _, kept = run(Capacity(factor=1.0, least=1), X[:1, :3], routing=routing_of(expert, np.ones(expert.shape)))
    np.testing.assert_array_equal(kept[0], [[True, False], [True, True], [True, True]])


def test_rows_queue_apart():
    expert = np.zeros((2, 4, 1), int)
    spec = Capacity(factor=E / 2, least=0)
    for rows, allowed in ((expert, [[1, 1, 0, 0], [1, 1, 0, 0]]), (expert.reshape(1, 8, 1), [[1] * 4 + [0] * 4])):
        _, kept = run(spec, RNG.normal(size=(*rows.shape[:2], D)), routing=routing_of(rows, np.ones(rows.shape)))
        np.testing.assert_array_equal(kept[..., 0], np.array(allowed, bool))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_padding_takes_no_place_and_its_numbers_go_nowhere(spec):
    """Rows with padding between, filled with NaN, give what the tokens alone give, and no gradient at padding."""
    real = EXPERT[0] < E
    keep = real[:, 0]
    alone, kept_alone = run(spec, X[:1, keep], routing=routing_of(EXPERT[:1, keep], WEIGHT[:1, keep]))
    x = np.where(keep[:, None], X[:1], np.nan)
    routing = routing_of(EXPERT[:1], WEIGHT[:1])
    padded, kept = run(spec, x, routing=routing)
    np.testing.assert_array_equal(kept[:, keep], kept_alone)
    np.testing.assert_allclose(padded[:, keep], alone, atol=1e-6)
    assert not np.asarray(padded[:, ~keep]).any()
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.square(run(spec, x, routing=routing)[0]))))(jnp.asarray(x))
    assert np.isfinite(gradient).all() and not np.asarray(gradient[:, ~keep]).any()


def gradients(spec):
    def loss(x, params, weight):
        y, _ = run(spec, x, params, ROUTING._replace(weight_BTM=weight))
        return jnp.sum(jnp.sin(y))

    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(jnp.asarray(X), params, ROUTING.weight_BTM)


def test_gradients_are_equal_where_nothing_is_dropped_and_those_of_all_experts_on_all_tokens():
    def dense(x, params, weight):
        """Every expert on every token, weighted by zero where it was not chosen."""
        h = jnp.tanh(jnp.einsum("btd,edf->btef", x, params["up"]) + params["bias"])
        y = jnp.einsum("btef,efd->bted", h, params["down"])
        gate = jnp.sum(jax.nn.one_hot(EXPERT, E) * weight[..., None], axis=2)
        return jnp.sum(jnp.sin(jnp.einsum("bted,bte->btd", y, gate)))

    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)
    made = jax.jit(jax.value_and_grad(dense, argnums=(0, 1, 2)))(jnp.asarray(X), params, ROUTING.weight_BTM)
    value, (dx, dparams, dweight) = made
    expected = value, (dx, dparams, dweight * (EXPERT < E))
    for spec in (Dropless(), ROOMY):
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), gradients(spec), expected)


def test_a_choice_without_a_place_gets_no_gradient():
    spec = SPECS["capacity"]
    dropped = (EXPERT < E) & ~kept_by(spec, EXPERT)
    assert dropped.any()
    _, (_, _, dweight) = gradients(spec)
    assert not np.asarray(dweight)[dropped].any() and np.asarray(dweight)[kept_by(spec, EXPERT)].all()


@jax.jit
def project(x, routing, w):
    return dispatch(Dropless(), x, routing, lambda x_XCD, own: jnp.einsum("xcd,xdf->xcf", x_XCD, own(w)))


@pytest.mark.parametrize(("rows", "tokens", "choices"), [(1, 1, 1), (1, 1, 3), (1, 2, 2), (1, 300, 1), (3, 40, 2)])
def test_dropless_is_a_ragged_product_at_every_size(rows, tokens, choices):
    """From one token to many, also when all of them want the same expert."""
    rng = np.random.default_rng(tokens)
    x, w = rng.normal(size=(rows, tokens, D)), jnp.asarray(PARAMS["up"], jnp.float32)
    for expert in (rng.permuted(np.tile(np.arange(E), (rows, tokens, 1)), axis=-1)[..., :choices], None):
        expert = np.broadcast_to(np.arange(choices), (rows, tokens, choices)) if expert is None else expert
        order = np.argsort(expert.reshape(-1), kind="stable")
        lhs = np.repeat(x.reshape(-1, D), choices, axis=0)[order]
        sizes = np.bincount(expert.reshape(-1), minlength=E)
        product = np.zeros((order.size, F))
        product[order] = jax.lax.ragged_dot(jnp.asarray(lhs, jnp.float32), w, jnp.asarray(sizes, jnp.int32))
        y, kept = project(jnp.asarray(x), routing_of(expert, np.ones(expert.shape)), w)
        np.testing.assert_allclose(y, product.reshape(rows, tokens, choices, F).sum(2), atol=1e-5)
        assert np.asarray(kept).all()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("mapped", ["x", "params", "expert", "all"])
def test_mapping_over_anything_is_a_loop_over_it(spec, mapped):
    """Forward and backward; `lax.ragged_dot` cannot do this."""
    rng = np.random.default_rng(3)
    values = {"x": X, "params": PARAMS["up"], "expert": EXPERT}
    others = {"x": rng.normal(size=X.shape), "params": rng.normal(size=PARAMS["up"].shape), "expert": EXPERT[::-1]}
    stacked = {
        name: jnp.stack([jnp.asarray(value), jnp.asarray(others[name])]) if mapped in (name, "all") else value
        for name, value in values.items()
    }
    axes = {name: 0 if mapped in (name, "all") else None for name in values}

    def loss(floats, expert):
        x, up = floats
        y, _ = run(spec, x, {**PARAMS, "up": up}, ROUTING._replace(expert_BTM=jnp.asarray(expert, jnp.int32)))
        return jnp.sum(jnp.sin(y))

    step = jax.jit(jax.value_and_grad(loss))
    mapping = jax.jit(jax.vmap(step, in_axes=((axes["x"], axes["params"]), axes["expert"])))
    found = mapping((jnp.asarray(stacked["x"]), jnp.asarray(stacked["params"])), stacked["expert"])
    for i in range(2):
        x, up, expert = (stacked[name][i] if axes[name] == 0 else stacked[name] for name in values)
        alone = step((jnp.asarray(x), jnp.asarray(up)), expert)
        jax.tree.map(lambda many, one: np.testing.assert_allclose(many[i], one, atol=1e-5), found, alone)  # noqa: B023


def test_copies_of_parameters_are_not_kept_for_the_backward_pass():
    groups = by_blocks(Dropless(), ROUTING.expert_BTM, E).groups
    assert groups > E
    _, pull = jax.vjp(lambda x, params: run(Dropless(), x, params)[0], jnp.asarray(X), PARAMS)
    kept = [leaf.shape for leaf in jax.tree.leaves(pull)]
    assert (E, D, F) in kept and not [shape for shape in kept if shape[0] == groups and shape[1:] in ((D, F), (F, D))]


def test_weights_are_summed_in_float32_and_returned_in_the_activations_type():
    """256 + 1 + 1 in bfloat16, one after another, would be 256."""
    x = jnp.ones((1, 1, D), jnp.bfloat16)
    routing = Routing(jnp.arange(3).reshape(1, 1, 3), jnp.array([[[256.0, 1.0, 1.0]]]), {}, jnp.zeros(E))
    y, _ = dispatch(Dropless(), x, routing, lambda x_XCD, own: x_XCD)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(y, np.float32), 258)


@pytest.mark.parametrize("fields", [{"factor": 0.0, "least": 0}, {"factor": -1.0}, {"least": -1}])
def test_a_capacity_without_places_is_refused(fields):
    with pytest.raises(ValueError, match=r"^(capacity of factor=0, least=0|factor=-1.0|least=-1) "):
        Capacity(**fields)
