"""Multi-head latent attention and DeepSeek sparse attention, against their formulas in float64 and their own laws."""

import math
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxformer.cache import empty_table
from fxformer.coords import padded, plain
from fxformer.layers.attention.indexer import Indexer
from fxformer.layers.attention.mla import FORMS, MLA, MLAModule
from fxformer.layers.context import Context, Execution
from fxformer.layers.project import FanIn, Normal, Xavier
from fxformer.ops.latent import absorbed_is_cheaper
from fxformer.ops.mask import Causal, Window
from fxformer.ops.rotary import Rotary, YaRN
from tests.ops import reference

B, T, D, H, K, P, U, R, A, I, J, KEEP = 2, 9, 13, 3, 4, 6, 5, 7, 14, 10, 12, 4
ROTARY = Rotary(width=P, base=50.0, pairing="interleaved")
INDEX = Indexer(heads=I, width=J, keep=KEEP, rotary=Rotary(width=8, base=50.0))
DENSE = MLA(heads=H, nope_width=K, value_width=U, latent=R, query_latent=A, rotary=ROTARY)
LITE = replace(DENSE, query_latent=None)
SPARSE = replace(DENSE, index=INDEX)
YARN = replace(DENSE, rotary=replace(ROTARY, scaling=YaRN(factor=4.0, original_length=8, fast=2.0)), scale=0.61)
BIASED = replace(DENSE, bias=True, rotary=replace(ROTARY, gain=1.4))
SPECS = {"dense": DENSE, "lite": LITE, "sparse": SPARSE, "yarn": YARN, "biased": BIASED}
WINDOWED = replace(SPARSE, mask=Window(5), index=replace(INDEX, heads=1, keep=3))
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, T, D))
# Row 1 begins with padding and has some more of it.
RAGGED = padded(jnp.array([[True] * T, [False, True, True, False, True, True, True, True, True]]))


def shapes(spec, width):
    """The parameter tree of the layer as shapes."""

    x_BTD = jax.ShapeDtypeStruct((1, 1, width), jnp.float32)
    return jax.eval_shape(partial(initial, spec, None), x_BTD)


def initial(spec, form, x_BTD):
    """Fresh parameters of the layer."""
    return nn.meta.unbox(MLAModule(spec, form).init(jax.random.key(3), x_BTD, Context(coords=plain(1)), None)["params"])


def disturbed(spec):
    """Random parameters: no gain is one, no bias zero, logits of a few units."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        centre, deviation = {"scale": (1.0, 0.2), "bias": (0.0, 0.2)}.get(path[-1].key, (0.0, 0.4))
        return jax.device_put(np.float32(centre + deviation * rng.normal(size=leaf.shape)))

    return jax.tree_util.tree_map_with_path(draw, shapes(spec, D))


def run(spec, params, x, coords=None, table=None, form=None):
    """(y, Side) of the layer."""
    coords = plain(x.shape[1]) if coords is None else coords
    return layer(spec, form, params, jnp.asarray(x, jnp.float32), coords, table)


@partial(jax.jit, static_argnums=(0, 1))
def layer(spec, form, params, x, coords, table=None):
    return MLAModule(spec, form).apply({"params": params}, x, Context(coords=coords), table)


def close(ours, exact, rounding=2e-5):
    exact = np.asarray(exact)
    np.testing.assert_allclose(ours, exact, atol=rounding * np.abs(exact).max())


def rotated(x, pos, rotary):
    """x: [tokens, heads, channels]."""
    return np.array([[reference.rotate(head, [p], rotary) for head in row] for row, p in zip(x, pos, strict=True)])


def exact_row(spec, params, x, index):
    """One row in float64: y [T, D], weights [H, T, T], index scores and selection [T, T], by DeepSeek-V2's formulas."""
    w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    tokens, pos = len(x), np.maximum(index, 0)
    source = x
    if spec.query_latent is not None:
        source = reference.NORMS["rms"](linear(x, w["query_down"]), 1e-6) * w["query_norm"]["scale"]
    q = np.einsum("ta,ahk->thk", source, w["query"]["weight"])
    q_rope = rotated(np.einsum("ta,ahp->thp", source, w["query_rope"]["weight"]), pos, spec.rotary)
    latent = reference.NORMS["rms"](linear(x, w["latent"]), 1e-6) * w["latent_norm"]["scale"]
    rope = rotated(linear(x, w["rope"])[:, None], pos, spec.rotary)[:, 0]
    k = np.einsum("sr,rhk->shk", latent, w["key_up"]["weight"])
    v = np.einsum("sr,rhu->shu", latent, w["value_up"]["weight"])
    scale = 1 / math.sqrt(q.shape[-1] + rope.shape[-1]) if spec.scale is None else spec.scale

    seen = (index[None, :] <= index[:, None]) & (index[None, :] >= 0) & (index[:, None] >= 0)
    scores = np.zeros((tokens, tokens))
    if spec.index is not None:
        scores = exact_scores(spec.index, w["index"], x, source, pos)
        for t in range(tokens):
            worst_first = sorted(np.flatnonzero(seen[t]), key=lambda s: scores[t, s])
            seen[t, worst_first[: max(0, len(worst_first) - spec.index.keep)]] = False

    y, weights = np.zeros((tokens, spec.heads, v.shape[-1])), np.zeros((spec.heads, tokens, tokens))
    for h, t in np.ndindex(spec.heads, tokens):
        at = np.flatnonzero(seen[t])
        if len(at):
            weights[h, t, at] = reference.softmax(scale * (k[at, h] @ q[t, h] + rope[at] @ q_rope[t, h]))
        y[t, h] = weights[h, t] @ v[:, h]
    return np.einsum("thu,hud->td", y, w["out"]["weight"]) + w["out"].get("bias", 0), weights, scores, seen


def linear(x, w):
    """x W, and b where there is one."""
    return x @ w["weight"] + w.get("bias", 0)


def exact_scores(spec, w, x, source, pos):
    """I_ts of DeepSeek-V3.2, queries from the latent, one key normed with gain and bias, first channels rotated."""
    q = rotated(np.einsum("ta,aij->tij", source, w["query"]["weight"]), pos, spec.rotary)
    k = reference.NORMS["layer"](x @ w["key"]["weight"], 1e-6) * w["key_norm"]["scale"] + w["key_norm"]["bias"]
    k = rotated(k[:, None], pos, spec.rotary)[:, 0]
    match = np.maximum(np.einsum("tij,sj->tis", q, k), 0)
    return np.einsum("ti,tis->ts", x @ w["head_weight"]["weight"], match) / math.sqrt(spec.heads * spec.width)


def exact(spec, params, coords):
    """y, weights, scores and selection of every row."""
    index = np.broadcast_to(np.asarray(coords.index), (B, coords.length))
    return [np.stack(parts) for parts in zip(*(exact_row(spec, params, X[b], index[b]) for b in range(B)), strict=True)]


@pytest.mark.parametrize("coords", [plain(T), RAGGED], ids=["plain", "ragged"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SPECS)
def test_the_layer_equals_the_formulas(name, form, coords):
    params = disturbed(SPECS[name])
    y, _ = run(SPECS[name], params, X, coords, form=form)
    close(y, exact(SPECS[name], params, coords)[0])


def test_the_loss_of_the_indexer_is_the_divergence_from_the_mean_over_heads():
    """Over what is selected; where everything is kept that is everything a query sees, as in the dense warm-up."""
    for spec in (SPARSE, replace(SPARSE, index=replace(INDEX, keep=T))):
        params = disturbed(spec)
        _, weights, scores, seen = exact(spec, params, RAGGED)
        rows = []
        for b, t in zip(*np.nonzero(seen.any(-1)), strict=True):
            at = seen[b, t]
            p, q = weights[b, :, t, at].mean(1), reference.softmax(scores[b, t, at])
            rows.append((p * np.log(p / q)).sum())
        assert len(rows) == 16  # two of 18 tokens are padding
        for form in FORMS:
            _, side = run(spec, params, X, RAGGED, form=form)
            assert float(side.losses["index_kl"]) == pytest.approx(np.mean(rows), rel=1e-5)


@pytest.mark.parametrize("name", ["lite", "sparse"])
def test_absorbed_equals_expanded(name):
    """Outputs, losses, statistics, and gradients of parameters and input."""
    spec = SPECS[name]
    params, x, toward = disturbed(spec), jnp.asarray(X, jnp.float32), jnp.asarray(RNG.normal(size=X.shape))

    def loss(params, x, form):
        y, side = layer(spec, form, params, x, RAGGED)
        return (y * toward).sum() + sum(side.losses.values()), (y, side)

    differentiate = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    results = {form: differentiate(params, x, form) for form in FORMS}
    gradients = jax.tree.leaves(results["expanded"][1])
    assert len(gradients) == len(jax.tree.leaves(params)) + 1
    assert min(float(jnp.abs(gradient).max()) for gradient in gradients) > 1e-3
    expanded, absorbed = ((answer, gradients) for (_, answer), gradients in results.values())
    jax.tree.map(close, absorbed, expanded)


def test_both_forms_draw_the_same_weights():
    """Whichever runs first; by the fans of the map from latents, of which Xavier's deviation needs both."""
    spec = replace(DENSE, heads=5, latent=900, nope_width=30, value_width=20)
    spec = replace(spec, init=Xavier(3.0), value_init=FanIn(2.0), out_init=Normal(0.5))
    drawn, other = (jax.jit(partial(initial, spec, form))(jnp.ones((1, 1, D))) for form in FORMS)
    jax.tree.map(np.testing.assert_array_equal, drawn, other)
    deviations = {name: np.std(drawn[name]["weight"]) for name in ("key_up", "value_up", "out")}
    assert deviations["key_up"] == pytest.approx(3 * math.sqrt(2 / (900 + 5 * 30)), rel=0.02)
    assert deviations["value_up"] == pytest.approx(2 / math.sqrt(900), rel=0.02)
    assert deviations["out"] == pytest.approx(0.5, rel=0.06)


@pytest.mark.parametrize("room", [T, 30 * T])
@pytest.mark.parametrize("tokens", [1, T])
def test_what_runs_by_default_takes_fewer_multiplications(tokens, room):
    """As the compiler counts them."""
    spec = replace(DENSE, latent=24, nope_width=17, value_width=19)
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes(spec, D))
    x, coords = jnp.asarray(X[:, :tokens], jnp.float32), plain(tokens)
    table = empty_table(spec.records, batch=B, length=room, reach=None, dtype=jnp.float32)

    def flops(form):
        program = jax.jit(lambda *arguments: layer(spec, form, *arguments)[0]).lower(params, x, coords, table)
        return program.compile().cost_analysis()["flops"]

    assert flops(None) == min(flops("absorbed"), flops("expanded")) < max(flops("absorbed"), flops("expanded"))


def test_deepseek_decodes_absorbed_and_trains_expanded():
    widths = {"latent": 512, "rope": 64, "key": 128, "value": 128}
    assert absorbed_is_cheaper(1, 4096, **widths) and not absorbed_is_cheaper(4096, 4096, **widths)


@pytest.mark.parametrize("keep", [T, T + 4])
def test_an_indexer_that_keeps_everything_changes_nothing(keep):
    spec = replace(SPARSE, index=replace(INDEX, keep=keep))
    params = disturbed(spec)
    dense = {name: value for name, value in params.items() if name != "index"}
    np.testing.assert_array_equal(run(spec, params, X, RAGGED)[0], run(DENSE, dense, X, RAGGED)[0])


@pytest.mark.parametrize("form", FORMS)
def test_a_query_sees_exactly_as_many_keys_as_are_kept(form):
    """The gradient of its output with respect to a remembered latent is zero but for the `keep` keys with the best
    scores; its own key, which is not remembered yet, may be one of them."""
    params = disturbed(SPARSE)
    selected = exact(SPARSE, params, plain(T))[3]
    table = empty_table(SPARSE.records, batch=B, length=T, reach=None, dtype=jnp.float32)
    table = run(SPARSE, params, X, table=table)[1].tables  # a query that goes back forgets what came after

    def answer(latent, x, coords):
        old = replace(table, records={**table.records, "latent": latent})
        return layer(SPARSE, form, params, x, coords, old)[0][:, 0, 0]

    slope = jax.jit(jax.jacobian(answer))
    for t in range(T):
        x = jnp.asarray(X[:, t : t + 1], jnp.float32)
        of_rows = np.asarray(slope(table.records["latent"], x, plain(1, start=t)))  # [B, B, T, R]
        assert not of_rows[0, 1].any() and not of_rows[1, 0].any()
        reached = np.abs(of_rows[[0, 1], [0, 1]]).max(-1) > 0
        np.testing.assert_array_equal(reached[:, :t], selected[:, t, :t])
        assert not reached[:, t:].any()
        np.testing.assert_array_equal(reached.sum(-1) + selected[:, t, t], min(t + 1, KEEP))


@pytest.mark.parametrize(("tokens", "gathers"), [(1, True), (100, False)])
def test_few_queries_look_at_nothing_but_what_is_selected_for_them(tokens, gathers):
    """By the multiplications that the compiler counts: a slot more in the cache costs the indexer's, and where all of
    it is read those of the latents too."""
    spec = replace(SPARSE, latent=300)
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes(spec, D))
    x = jnp.ones((B, tokens, D))
    context = Context(coords=plain(tokens), execution=Execution(kernel="naive"))  # a loop would be counted once

    def step(params, x, table):
        return MLAModule(spec, "absorbed").apply({"params": params}, x, context, table)[0]

    def flops(room):
        table = empty_table(spec.records, batch=B, length=room, reach=None, dtype=jnp.float32)
        return jax.jit(step).lower(params, x, table).compile().cost_analysis()["flops"]

    slot = (flops(400) - flops(300)) / (100 * B * tokens)
    of_indexer, of_latents = 2 * I * J + 2 * I, 2 * H * (2 * spec.latent + P)
    assert of_indexer < slot
    assert (slot < 2 * of_indexer) == gathers == (slot < of_latents)


@pytest.mark.parametrize("chunks", [[1] * T, [T], [4, 3, 2], [1, 7, 1]], ids=str)
@pytest.mark.parametrize("spec", [LITE, SPARSE, WINDOWED], ids=["lite", "sparse", "windowed"])
def test_chunks_and_steps_with_a_cache_equal_one_pass(spec, chunks):
    """In the window a ring wraps, and scores of a single index head are often zero: ties fall as in one pass."""
    params = disturbed(spec)
    whole, _ = run(spec, params, X)
    table = empty_table(spec.records, batch=B, length=T, reach=spec.mask.reach, dtype=jnp.float32)
    pieces, start = [], 0
    for size in chunks:
        y, side = run(spec, params, X[:, start : start + size], plain(size, start=start), table)
        table, start = side.tables, start + size
        pieces.append(y)
    close(np.concatenate(pieces, axis=1), whole)


def test_the_window_of_that_law_has_ties():
    spec = replace(WINDOWED, mask=Causal())
    scores = exact(spec, disturbed(spec), plain(T))[2]
    tied = [len(set(scores[b, t, max(0, t - 4) : t + 1])) <= min(t, 4) for b in range(B) for t in range(T)]
    assert sum(tied) >= 4


def test_the_model_and_its_indexer_learn_apart():
    """The output gives the indexer exactly no gradient, and the indexer's loss gives one to nothing else."""
    params, x = disturbed(SPARSE), jnp.asarray(X, jnp.float32)

    def output(params, x):
        return jnp.square(layer(SPARSE, None, params, x, plain(T))[0]).sum()

    def loss(params, x):
        return layer(SPARSE, None, params, x, plain(T))[1].losses["index_kl"]

    of_output, of_output_x = jax.jit(jax.grad(output, argnums=(0, 1)))(params, x)
    of_loss, of_loss_x = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)
    for name in params:
        silent, learning = (of_output, of_loss) if name == "index" else (of_loss, of_output)
        assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(silent[name])), name
        assert all(np.abs(leaf).max() > 1e-5 for leaf in jax.tree.leaves(learning[name])), name
    assert np.abs(of_output_x).min() > 0 and not np.asarray(of_loss_x).any()


V3 = MLA(heads=128, nope_width=128, value_width=128, latent=512, query_latent=1536, rotary=Rotary(width=64))
PUBLISHED = {
    "V3": (V3, 7168, 187_107_328, 576),
    "V2": (V3, 5120, 149_227_520, 576),
    "V2-Lite": (replace(V3, heads=16, query_latent=None), 2048, 13_763_072, 576),
    "V3.2": (replace(V3, index=Indexer()), 7168, 187_107_328 + 13_959_424, 576 + 128),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layers_have_their_numbers_of_parameters_and_of_cached_elements(name):
    spec, width, parameters, cached = PUBLISHED[name]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(spec, width))) == parameters
    assert sum(math.prod(sizes.values()) for sizes in spec.records.values()) == cached


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: replace(DENSE, heads=0), "heads=0 is out of range; use 1 or more"),
        (lambda: replace(DENSE, latent=0), "latent=0 is out of range; use 1 or more"),
        (lambda: replace(DENSE, query_latent=0), "query_latent=0 is out of range; use 1 or more"),
        (lambda: replace(SPARSE, query_latent=None), "index of heads=10 reads a query latent, query_latent=None"),
        (lambda: replace(INDEX, keep=0), "keep=0 is out of range; use 1 or more"),
        (lambda: replace(INDEX, width=7), "index rotates 8 channels of width=7"),
        (lambda: run(DENSE, disturbed(DENSE), X, form="absorbd"), "form='absorbd' is unknown; did you mean 'absorbed'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
