"""Optimizers against their papers' equations in float64 NumPy, on a parameter tree like the model's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.linen.spmd import LogicallyPartitioned

from train.optim.optimizer import OPTIMIZERS, OptimizerRecipe, accumulate, build
from train.optim.signature import reads

L, D, H, K, F, E, V, A = 2, 5, 3, 4, 7, 6, 11, 8
LEAVES = {
    "embed/table": (("vocab", "width"), (V, D)),
    "stack/group_0/blocks/block_0/attention/query/weight": (("layer", "width", "head", "key"), (L, D, H, K)),
    "stack/group_0/blocks/block_0/attention/query/bias": (("layer", "head", "key"), (L, H, K)),
    "stack/group_0/blocks/block_0/attention/query_up/weight": (
        ("layer", "query_latent", "head", "key"),
        (L, A, H, K),
    ),
    "stack/group_0/blocks/block_0/attention/out/weight": (("layer", "head", "key", "width"), (L, H, K, D)),
    "stack/group_0/blocks/block_0/attention_residual/before/scale": (("layer", "width"), (L, D)),
    "stack/group_0/blocks/block_0/ffn/router/weight": (("layer", "width", "expert"), (L, D, E)),
    "stack/group_0/blocks/block_0/ffn/up/weight": (("layer", "expert", "width", "ffn"), (L, E, D, F)),
    "stack/group_0/blocks/block_0/ffn/down/weight": (("layer", "expert", "ffn", "width"), (L, E, F, D)),
    "stack/final_norm/scale": (("width",), (D,)),
    "head/out/weight": (("width", "vocab"), (D, V)),
}
RATE, DECAY = 0.02, 0.3


def nested(flat):
    tree = {}
    for path, leaf in flat.items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return tree


def flattened(tree):
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(part.key for part in path): np.asarray(leaf, np.float64) for path, leaf in leaves}


def random_tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return nested(
        {path: jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for path, (_, shape) in LEAVES.items()}
    )


BOXES = nested(
    {
        path: LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)
        for path, (names, shape) in LEAVES.items()
    }
)
GRADS = [random_tree(seed, scale=0.1 * (seed + 1)) for seed in range(4)]


def recipe_of(name, **constants):
    return OptimizerRecipe(**{"name": name, "beta1": 0.8, "beta2": 0.9, "eps": 1e-3, "clip": 0.0, **constants})


def descend(recipe, params, grads, *, lr=RATE, weight_decay=DECAY):
    """Parameters after each of the gradients, by a program that is compiled once."""

    @jax.jit
    def update(lr, weight_decay, state, params, grad):
        optimizer = build(recipe, lr=lr, weight_decay=weight_decay, boxes=BOXES)
        updates, state = optimizer.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    state = build(recipe, lr=0.0, weight_decay=0.0, boxes=BOXES).init(params)
    seen = []
    for grad in grads:
        params, state = update(lr, weight_decay, state, params, grad)
        seen.append(flattened(params))
    assert update._cache_size() == 1
    return seen


def decays(path):
    return path.endswith(("weight", "table"))


def by_hand(direction, *, lr=RATE, weight_decay=DECAY):
    """theta -= lr (direction + weight_decay theta), in float64; `direction(path)` remembers one leaf's moments."""
    theta, seen = flattened(random_tree(9)), []
    rules = {path: direction(path) for path in theta}
    for grad in map(flattened, GRADS):
        theta = {
            path: leaf - lr * (rules[path](grad[path], leaf) + weight_decay * decays(path) * leaf)
            for path, leaf in theta.items()
        }
        seen.append(theta)
    return seen


def assert_same(told, known, rtol=2e-5, atol=2e-6):
    for step, (one, other) in enumerate(zip(told, known, strict=True)):
        for path in LEAVES:
            np.testing.assert_allclose(one[path], other[path], rtol=rtol, atol=atol, err_msg=f"{path} after {step}")


def adam(corrected):
    def direction(path):
        m = v = t = 0

        def rule(g, theta):
            nonlocal m, v, t
            t += 1
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
            if not corrected:
                return m / (np.sqrt(v) + 1e-3)
            return m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3)

        return rule

    return direction


def lion(path):
    m = 0

    def rule(g, theta):
        nonlocal m
        sign = np.sign(0.8 * m + 0.2 * g)
        m = 0.9 * m + 0.1 * g
        return sign

    return rule


def sgd(path):
    m = 0

    def rule(g, theta):
        nonlocal m
        m = 0.8 * m + g
        return m

    return rule


def adafactor(path):
    """Shazeer & Stern 2018, algorithm 4 without factors (small matrices); a layer is a matrix of its own."""
    v = t = 0
    stacked = "group_" in path

    def rms(x):
        return np.sqrt(np.mean(x * x, axis=tuple(range(int(stacked), x.ndim)), keepdims=True))

    def rule(g, theta):
        nonlocal v, t
        t += 1
        v = (1 - t**-0.8) * v + t**-0.8 * (g * g + 1e-30)
        u = g / np.sqrt(v)
        return u / np.maximum(1, rms(u)) * np.maximum(1e-3, rms(theta))

    return rule


DIRECTIONS = {
    "adamw": adam(corrected=True),
    "adamw-uncorrected": adam(corrected=False),
    "lion": lion,
    "sgd": sgd,
    "adafactor": adafactor,
}


@pytest.mark.parametrize("name", DIRECTIONS)
def test_updates_are_the_paper_s_and_decay_spares_gains_and_biases(name):
    assert_same(descend(recipe_of(name), random_tree(9), GRADS), by_hand(DIRECTIONS[name]))


def test_every_optimizer_has_an_oracle():
    assert set(OPTIMIZERS) == {*DIRECTIONS, "muon"}


def matrices(path, leaf):
    """The matrices [inputs, outputs] that a hidden weight consists of: one a layer, and one an expert."""
    name = path.split("/")[-2]
    shape = {"query": (D, H * K), "query_up": (A, H * K), "out": (H * K, D), "router": (D, E)}.get(name)
    return leaf.reshape(-1, *(shape or leaf.shape[-2:]))


def newton_schulz(matrix):
    x = matrix / (np.linalg.norm(matrix) + 1e-8)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def is_hidden(path):
    return path.startswith("stack/") and path.endswith("weight")


def muon(path):
    """Jordan et al. 2024 with optax's corrected Nesterov momentum; RMS matched to AdamW: Liu et al. 2025, eq. 4."""
    if not is_hidden(path):
        return adam(corrected=True)(path)
    m = t = 0

    def rule(g, theta):
        nonlocal m, t
        t += 1
        m = 0.95 * m + 0.05 * g
        ahead = 0.95 * m / (1 - 0.95 ** (t + 1)) + 0.05 * g / (1 - 0.95**t)
        each = [newton_schulz(matrix) * 0.2 * np.sqrt(max(matrix.shape)) for matrix in matrices(path, ahead)]
        return np.stack(each).reshape(g.shape)

    return rule


def test_muon_orthogonalises_each_hidden_matrix_and_leaves_the_rest_to_adamw():
    assert_same(descend(recipe_of("muon"), random_tree(9), GRADS), by_hand(muon), rtol=2e-4, atol=2e-5)


def quintic(x):
    """What five iterations make of a singular value."""
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    return x


def test_muon_brings_singular_values_near_one():
    np.testing.assert_allclose(quintic(np.array([0.1, 0.5, 1.0])), [0.71212, 0.76544, 0.69644], atol=5e-6)
    params = jax.tree.map(jnp.zeros_like, random_tree(0))
    grad = random_tree(3)
    path = "stack/group_0/blocks/block_0/ffn/down/weight"
    left, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(F, D)))
    values = np.array([1.0, 0.5, 0.3, 0.1, 0.05])
    grad = nested({**flattened(grad), path: jnp.broadcast_to(left * values, (L, E, F, D))})
    after = descend(recipe_of("muon"), params, [grad], lr=1.0, weight_decay=0.0)[0][path]
    told = np.linalg.svd(-after / (0.2 * np.sqrt(F)), compute_uv=False)
    known = np.sort(quintic(values / np.linalg.norm(values)))[::-1]
    np.testing.assert_allclose(told, np.broadcast_to(known, told.shape), rtol=1e-4)


def test_clip_scales_only_gradients_above_the_bound():
    grads = GRADS[1]
    norm = float(np.sqrt(sum((leaf**2).sum() for leaf in flattened(grads).values())))
    start = flattened(random_tree(9))
    for bound, factor in ((2 * norm, 1.0), (norm / 4, 0.25), (0.0, 1.0)):
        recipe = recipe_of("sgd", clip=bound)
        after = descend(recipe, random_tree(9), [grads], weight_decay=0.0)[0]
        for path, grad in flattened(grads).items():
            np.testing.assert_allclose(after[path], start[path] - RATE * factor * grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimizer_reads_is_what_changes_it(name):
    params, plain = random_tree(9), {"beta1": 0.8, "beta2": 0.9, "eps": 1e-3}
    after = flattened(descend(recipe_of(name, **plain), params, GRADS[:3])[-1])
    moved = set()
    for constant, value in {"beta1": 0.5, "beta2": 0.6, "eps": 1e-1}.items():
        other = flattened(descend(recipe_of(name, **{**plain, constant: value}), params, GRADS[:3])[-1])
        if any(np.any(other[path] != after[path]) for path in after):
            moved.add(constant)
    assert moved == set(reads(OPTIMIZERS[name]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_program_serves_every_rate_and_decay_of_a_population(name):
    rates, decay = jnp.array([0.0, 0.01, 0.5]), jnp.array([0.7, 0.0, 0.1])
    recipe = recipe_of(name, clip=1.0)

    def update(lr, weight_decay, state, params, grad):
        return build(recipe, lr=lr, weight_decay=weight_decay, boxes=BOXES).update(grad, state, params)

    params = random_tree(9)
    state = build(recipe, lr=0.0, weight_decay=0.0, boxes=BOXES).init(params)
    together = jax.vmap(update, in_axes=(0, 0, None, None, None))
    updates, states = jax.jit(together)(rates, decay, state, params, GRADS[0])
    alone = jax.jit(update)
    assert jax.tree.structure(states) == jax.tree.structure(state)
    for k in range(3):
        for path, leaf in flattened(alone(rates[k], decay[k], state, params, GRADS[0])[0]).items():
            np.testing.assert_allclose(flattened(updates)[path][k], leaf, rtol=1e-4, atol=1e-6)


def test_a_replica_with_a_non_finite_gradient_leaves_its_neighbour_alone():
    recipe = recipe_of("adamw", clip=1.0)
    params = random_tree(9)
    state = build(recipe, lr=0.0, weight_decay=0.0, boxes=BOXES).init(params)

    def update(grad):
        return build(recipe, lr=RATE, weight_decay=DECAY, boxes=BOXES).update(grad, state, params)[0]

    broken = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan), GRADS[0])
    pair = jax.tree.map(lambda *grads: jnp.stack(grads), broken, GRADS[0])
    updates, alone = flattened(jax.jit(jax.vmap(update))(pair)), flattened(jax.jit(update)(GRADS[0]))
    for path in LEAVES:
        assert np.isnan(updates[path][0]).all()  # the norm is not finite, so nothing of the gradient can be used
        np.testing.assert_allclose(updates[path][1], alone[path], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 12])
def test_accumulated_gradients_are_the_mean_over_the_parts(count):
    rng = np.random.default_rng(count)
    x_BD, y_B, weight_D = rng.normal(size=(12, D)), rng.normal(size=12), rng.normal(size=D)
    large = tuple(jnp.asarray(a, jnp.float32) for a in (x_BD, y_B))
    parts = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), large)

    def loss(weight_D, part):
        return jnp.mean(jnp.square(part[0] @ weight_D - part[1]))

    value, grad = jax.jit(partial(accumulate, partial(jax.value_and_grad(loss), jnp.float32(weight_D))))(parts)
    error_B = x_BD @ weight_D - y_B
    np.testing.assert_allclose(value, np.mean(error_B**2), rtol=2e-6)
    np.testing.assert_allclose(grad, 2 * error_B @ x_BD / 12, rtol=1e-5, atol=2e-6)
