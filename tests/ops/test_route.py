"""Routers against loops in float64 NumPy, one token at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxformer.ops.route import ROUTERS, GShard, Sigmoid, Switch, TopK, balance, route
from tests.ops.reference import softmax

routed = jax.jit(route, static_argnums=0)

B, T, E = 3, 7, 12
RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(B, T, E))
BIAS = 0.3 * RNG.normal(size=E)
VALID = RNG.random((B, T)) < 0.7
VALID[1] = False
SPECS = {
    "switch": Switch(),
    "gshard": GShard(),
    "top": TopK(k=2),
    "top-mixtral": TopK(k=2, renormalise=True),
    "top-v2": TopK(k=5, scale=16.0, groups=4, kept_groups=2),
    "top-renormalised-scale": TopK(k=4, renormalise=True, scale=3.0),
    "sigmoid": Sigmoid(k=4),
    "sigmoid-v3": Sigmoid(k=5, scale=2.5, groups=4, kept_groups=2),
    "sigmoid-bare": Sigmoid(k=3, renormalise=False, scale=1.7),
    "sigmoid-pairs": Sigmoid(k=2, groups=6, kept_groups=3),
}


def logistic(x):
    return 1 / (1 + np.exp(-x))


def best(scores, k):
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


def best_in_groups(scores, spec, counted):
    """The k best experts within the groups whose `counted` best experts have the largest sum."""
    size = len(scores) // spec.groups
    groups = [list(range(g * size, (g + 1) * size)) for g in range(spec.groups)]
    kept = best([sum(sorted(scores[group])[-counted:]) for group in groups], spec.kept_groups)
    allowed = {i for g in kept for i in groups[g]}
    return best([score if i in allowed else -np.inf for i, score in enumerate(scores)], spec.k)


def switch(spec, logits, bias):
    p = softmax(logits)
    (i,) = best(p + bias, 1)
    return [i], [p[i]], p


def gshard(spec, logits, bias):
    p = softmax(logits)
    i, j = best(p + bias, 2)
    return [i, j], [p[i] / (p[i] + p[j]), p[j] / (p[i] + p[j])], p


def top_k(spec, logits, bias):
    p = softmax(logits)
    chosen = best_in_groups(p + bias, spec, counted=1)
    total = p[chosen].sum() if spec.renormalise else 1
    return chosen, spec.scale * p[chosen] / total, p


def sigmoid(spec, logits, bias):
    s = logistic(logits)
    chosen = best_in_groups(s + bias, spec, counted=2)
    total = s[chosen].sum() if spec.renormalise else 1
    return chosen, spec.scale * s[chosen] / total, s / s.sum()


REFERENCE = {Switch: switch, GShard: gshard, TopK: top_k, Sigmoid: sigmoid}


def reference(spec, logits, valid, bias):
    """(expert, weight) [B, T, M], the balance loss, and the share of choices of each expert."""
    expert = np.full((*valid.shape, spec.k), logits.shape[-1])
    weight = np.zeros(expert.shape)
    losses, load = [], np.zeros(logits.shape[-1])
    for b in range(len(logits)):
        count, score, tokens = np.zeros(logits.shape[-1]), np.zeros(logits.shape[-1]), valid[b].sum()
        for t in np.flatnonzero(valid[b]):
            expert[b, t], weight[b, t], p = REFERENCE[type(spec)](spec, logits[b, t], bias)
            score += p
            load[expert[b, t]] += 1
            count[expert[b, t][:1] if isinstance(spec, GShard) else expert[b, t]] += 1
        if tokens:
            products = (count / tokens * (score / tokens)).sum()
            losses.append(products / len(count) if isinstance(spec, GShard) else products * len(count) / spec.k)
    return expert, weight, np.mean(losses), load / load.sum()


def test_every_router_has_a_reference():
    assert set(REFERENCE) == set(ROUTERS) == {type(spec) for spec in SPECS.values()}


@pytest.mark.oracle
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("bias", [np.zeros(E), BIAS], ids=["free", "biased"])
def test_choices_weights_and_balance_are_the_papers(spec, bias):
    routing = routed(spec, jnp.asarray(LOGITS), jnp.asarray(VALID), bias_E=jnp.asarray(bias))
    expert, weight, loss, load = reference(spec, LOGITS, VALID, bias)
    np.testing.assert_array_equal(routing.expert_BTM, expert)
    np.testing.assert_allclose(routing.weight_BTM, weight, rtol=2e-5)
    np.testing.assert_allclose(routing.losses["balance"], loss, rtol=1e-5)
    np.testing.assert_allclose(routing.load_E, load, rtol=1e-6)
    assert routing.expert_BTM.dtype == jnp.int32 and routing.weight_BTM.dtype == jnp.float32


def test_the_cases_above_tell_the_options_apart():
    def chosen(spec, bias=0.0):
        return np.sort(routed(spec, jnp.asarray(LOGITS), bias_E=jnp.asarray(bias)).expert_BTM, axis=-1)

    grouped, plain = SPECS["top-v2"], TopK(k=5)
    assert (chosen(grouped) != chosen(plain)).any()
    assert (chosen(SPECS["sigmoid-v3"]) != chosen(TopK(k=5, groups=4, kept_groups=2))).any()
    for spec in SPECS.values():
        assert (chosen(spec) != chosen(spec, BIAS)).any()


@pytest.mark.oracle
@pytest.mark.parametrize("spec", [Switch(), GShard(), TopK(k=2)], ids=["switch", "gshard", "top"])
def test_router_z_is_the_mean_squared_log_of_the_sum(spec):
    expected = (np.log(np.exp(LOGITS).sum(-1)) ** 2)[VALID].mean()
    loss = routed(spec, jnp.asarray(LOGITS), jnp.asarray(VALID)).losses["router_z"]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_balance_of_the_worked_example_of_switch():
    """f = (.5, .25, .25, 0), P = (.4, .3, .2, .1): 4 (.2 + .075 + .05) = 1.3."""
    p = np.array([[0.6, 0.2, 0.1, 0.1], [0.6, 0.2, 0.1, 0.1], [0.2, 0.5, 0.2, 0.1], [0.2, 0.3, 0.4, 0.1]])
    routing = routed(Switch(), jnp.log(p)[None])
    np.testing.assert_allclose(routing.losses["balance"], 1.3, rtol=1e-6)
    np.testing.assert_allclose(routing.load_E, [0.5, 0.25, 0.25, 0], rtol=1e-6)


@pytest.mark.parametrize(("spec", "even"), [(Switch(), 1), (TopK(k=3), 1), (Sigmoid(k=3), 1), (GShard(), 1 / 25)])
def test_balance_of_even_routing(spec, even):
    logits = np.stack([np.roll([3.0, 2.0, 1.0, 0.5, 0.0], t) for t in range(5)])
    np.testing.assert_allclose(routed(spec, jnp.asarray(logits)[None]).losses["balance"], even, rtol=1e-5)


def test_the_gate_of_deepseek_v3():
    """Selection by biased scores within two groups of four, weights from the scores themselves."""
    logits = jnp.array([[[2, -1, 0.5, 0.1, 1.5, 1.4, -2, 0.3]]])
    bias = jnp.array([0, 0.5, 0, 0, -0.3, 0, 0, 0.2])
    routing = routed(Sigmoid(k=2, scale=2.5, groups=4, kept_groups=2), logits, bias_E=bias)
    np.testing.assert_array_equal(routing.expert_BTM[0, 0], [0, 5])
    np.testing.assert_allclose(routing.weight_BTM[0, 0], [1.308388353, 1.191611647], rtol=1e-6)
    np.testing.assert_array_equal(routed(Sigmoid(k=2), logits).expert_BTM[0, 0], [0, 4])


def test_a_softmax_over_the_chosen_logits_is_a_renormalised_softmax_over_all():
    """gpt-oss takes the k best logits, then their softmax; Mixtral divides by the sum of the k best shares."""
    chosen = np.sort(LOGITS, axis=-1)[..., : -4 - 1 : -1]
    routing = routed(TopK(k=4, renormalise=True), jnp.asarray(LOGITS))
    np.testing.assert_allclose(routing.weight_BTM, softmax(chosen), rtol=1e-5)


@pytest.mark.parametrize(("threshold", "share"), [(0.5, 0.3), (0.2, 0.75), (0.1, 1.0), (0.0, 1.0)])
def test_the_second_choice_of_gshard_is_made_by_chance(threshold, share):
    """The second weight is 0.15: with threshold 0.5 it is taken with probability 2 * 0.15."""
    tokens = 20_000
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.17, 0.03, 0.01])), (1, tokens, 3))
    routing = routed(GShard(threshold=threshold), logits, key=jax.random.key(0))
    first, second = np.moveaxis(np.asarray(routing.expert_BTM[0]), -1, 0)
    assert (first == 0).all() and set(second) <= {1, 3}
    deviation = np.sqrt(share * (1 - share) / tokens)
    assert abs(np.mean(second == 1) - share) <= 4 * deviation
    np.testing.assert_allclose(routing.weight_BTM[0, :, 0], 0.85, rtol=1e-5)
    np.testing.assert_allclose(routing.weight_BTM[0, :, 1], np.where(second == 1, 0.15, 0), rtol=1e-5)
    np.testing.assert_allclose(routing.load_E[1] * (first.size + (second == 1).sum()), (second == 1).sum(), rtol=1e-5)
    assert (routed(GShard(threshold=threshold), logits).expert_BTM[0, :, 1] == 1).all()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_padding_is_sent_nowhere_and_counts_for_nothing(spec):
    """A row of other numbers at padding, and one that is all padding, change no loss, share or choice."""
    valid = np.tile([True, True, True, False, True, False, True], (B, 1))
    real = jax.device_get(routed(spec, jnp.asarray(LOGITS[:, valid[0]])))
    more = np.concatenate([np.where(valid[..., None], LOGITS, 50 * LOGITS), LOGITS[:1]])
    padded = jax.device_get(
        routed(spec, jnp.asarray(more), jnp.asarray(np.append(valid, np.zeros((1, T), bool), axis=0)))
    )
    np.testing.assert_array_equal(padded.expert_BTM[:B][valid].reshape(real.expert_BTM.shape), real.expert_BTM)
    assert (padded.expert_BTM[:B][~valid] == E).all() and (padded.expert_BTM[B] == E).all()
    assert (padded.weight_BTM[:B][~valid] == 0).all()
    np.testing.assert_allclose(padded.load_E, real.load_E, rtol=1e-6)
    for name, loss in real.losses.items():
        np.testing.assert_allclose(padded.losses[name], loss, rtol=1e-6)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_no_tokens_at_all_are_no_loss_and_no_gradient(spec):
    def losses(logits):
        routing = routed(spec, logits, jnp.zeros((B, T), bool))
        return sum(routing.losses.values()) + routing.weight_BTM.sum() + routing.load_E.sum()

    value, gradient = jax.jit(jax.value_and_grad(losses))(jnp.asarray(LOGITS))
    assert value == 0 and not np.asarray(gradient).any()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_rows_are_balanced_each_by_itself(spec):
    together = routed(spec, jnp.asarray(LOGITS)).losses["balance"]
    apart = [routed(spec, jnp.asarray(LOGITS[b : b + 1])).losses["balance"] for b in range(B)]
    np.testing.assert_allclose(together, np.mean(apart), rtol=1e-6)
    assert abs(routed(spec, jnp.asarray(LOGITS).reshape(1, -1, E)).losses["balance"] / together - 1) > 1e-3


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_logits_of_half_precision_are_routed_in_float32(spec):
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    for one, other in zip(
        jax.tree.leaves(routed(spec, half)), jax.tree.leaves(routed(spec, half.astype(jnp.float32))), strict=True
    ):
        assert one.dtype in (jnp.float32, jnp.int32)
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_selection_bias_gets_no_gradient_and_logits_do(spec):
    def total(logits, bias):
        routing = routed(spec, logits, bias_E=bias)
        return sum(routing.losses.values()) + jnp.sum(jnp.sin(routing.weight_BTM)), routing.expert_BTM

    gradient, expert = jax.grad(total, argnums=(0, 1), has_aux=True)(
        jnp.asarray(LOGITS, jnp.float32), jnp.asarray(BIAS)
    )
    assert not np.asarray(gradient[1]).any()
    numeric = np.zeros(E)
    step, at = 1e-5, (2, 3)
    for i in range(E):
        moved = [LOGITS.copy(), LOGITS.copy()]
        for sign, logits in zip((1, -1), moved, strict=True):
            logits[(*at, i)] += sign * step
        values = []
        for logits in moved:
            chosen, weight, loss, _ = reference(spec, logits, np.ones((B, T), bool), BIAS)
            np.testing.assert_array_equal(chosen, expert)
            z = 0 if isinstance(spec, Sigmoid) else (np.log(np.exp(logits).sum(-1)) ** 2).mean()
            values.append(loss + z + np.sin(weight).sum())
        numeric[i] = (values[0] - values[1]) / (2 * step)
    np.testing.assert_allclose(gradient[0][at], numeric, rtol=1e-3, atol=1e-5)


def test_the_selection_bias_rises_where_the_load_is_low():
    bias = balance(jnp.array([0.1, 0.2, 0.3, 0.4]), jnp.array([0.5, 0.25, 0.25, 0.0]), 0.001)
    np.testing.assert_allclose(bias, [0.099, 0.2, 0.3, 0.401], rtol=1e-6)
    layers = balance(jnp.zeros((2, 3)), jnp.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]), 1.0)
    np.testing.assert_array_equal(layers, [[-1, 1, 1], [1, 1, -1]])


def test_following_the_selection_bias_evens_the_load():
    """All tokens prefer the same experts; after some updates each expert has about its share."""
    logits = jnp.asarray(RNG.normal(size=(1, 600, 6)) + np.linspace(2, 0, 6))
    spec = Sigmoid(k=2)
    before = routed(spec, logits, bias_E=jnp.zeros(6)).load_E
    bias = jax.lax.fori_loop(
        0, 200, lambda _, bias: balance(bias, routed(spec, logits, bias_E=bias).load_E, 0.01), jnp.zeros(6)
    )
    after = routed(spec, logits, bias_E=bias).load_E
    assert before.max() > 0.3 and after.max() < 0.19 and after.min() > 0.14


@pytest.mark.parametrize(
    ("spec", "numbers"),
    [
        (TopK(k=13), ("13", "12")),
        (TopK(k=2, groups=5), ("5", "12")),
        (Sigmoid(k=2, groups=4, kept_groups=5), ("5", "4")),
        (Sigmoid(k=4, groups=4, kept_groups=1), ("4", "3")),
    ],
)
def test_routers_that_do_not_fit_are_refused_with_both_numbers(spec, numbers):
    with pytest.raises(ValueError) as error:
        route(spec, jnp.zeros((B, T, E)))
    assert all(number in str(error.value) for number in numbers)


@pytest.mark.parametrize("field", ["k", "groups", "kept_groups"])
def test_a_router_chooses_one_at_least(field):
    with pytest.raises(ValueError, match=f"^{field}=0 is out of range; use 1 or more"):
        TopK(**{"k": 2, field: 0})


def test_a_threshold_is_a_weight():
    with pytest.raises(ValueError, match=r"threshold=1.5"):
        GShard(threshold=1.5)
