"""Configurations of objectives: there is one for each, and what is beside an objective's own loss."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fxformer as fx
from fxformer import zoo
from fxformer.stack import Repeat
from train.config import Config, load
from train.data.corpus import batches, load_corpus
from train.errors import UserError
from train.objectives import OBJECTIVES
from train.objectives.objective import answer
from train.step import balanced, evaluate, judge, numbers_of, recipe_of, shares, start, train_step

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "objectives").glob("*.toml"))
STEPS = 40


def test_each_objective_has_a_configuration():
    variants = {"blank_infilling_base", "blank_infilling_130b"}  # other mixtures of the same tasks
    assert {load(path).train.objective for path in CONFIGS} == set(OBJECTIVES) - variants


def test_a_step_with_all_that_stands_beside_the_objective_lowers_its_loss():
    """By 0.3 nats on held-out text in 40 steps: MTP, experts and their balance; see test_trainable.py."""
    path = next(path for path in CONFIGS if path.stem == "multi_token")
    config = load(path, [f"steps={STEPS}", "warmup=5", "batch=4"])
    corpus = load_corpus(config.data.path)
    recipe, numbers = recipe_of(config), numbers_of(config)
    rows = partial(batches, batch=config.data.batch, length=config.text_length)
    step = jax.jit(partial(train_step, recipe))
    look = jax.jit(partial(evaluate, recipe))
    held_out = rows(corpus.validation, seed=1, steps=range(4)).reshape(-1, config.row)
    state = start(recipe, numbers)
    before = look(numbers, state.params, held_out).loss
    for tokens in rows(corpus.train, seed=0, steps=range(STEPS)):
        state, metrics = step(numbers, state, tokens)
    assert np.isfinite(metrics.loss)
    assert look(numbers, state.params, held_out).loss < before - 0.3


@pytest.mark.parametrize("objective", ["sentence_order", "whole_word"])
def test_accumulated_steps_are_one_step_on_all_that_the_parts_predict(objective):
    """Parts of which more is predicted count more, except in what is said of rows; a part may predict nothing."""
    path = next(path for path in CONFIGS if path.stem == objective)
    plain = ["optimizer=sgd", "lr=1.0", "schedule=constant", "warmup=0", "clip=0.0", "z_loss=0.1"]
    config = load(path, [*plain, "length=24", "batch=6", "accumulate=3"])
    recipe, numbers = recipe_of(config), numbers_of(config)
    tokens = np.array(
        batches(load_corpus("stdlib").train, seed=0, steps=range(1), batch=6, length=config.text_length)[0]
    )
    tokens[:2] = ord("x") if objective == "whole_word" else tokens[:2]  # one long word, of which none is chosen
    state = start(recipe, numbers)
    key = jax.random.fold_in(jax.random.key(numbers.seed), 0)
    keys = [jax.random.split(part) for part in jax.random.split(key, 3)]  # of the objective, of dropout
    ask = jax.jit(OBJECTIVES[objective])
    parts = [ask(tokens[2 * i : 2 * i + 2], keys[i][0]) for i in range(3)]
    predicted = [float(part.weights.sum()) for part in parts]
    assert len(set(predicted)) > 1 and (0 in predicted) == (objective == "whole_word")

    def loss(params, part, key):
        """What a part adds to the loss of the whole."""
        out = answer(recipe.spec(numbers), params, part, key=key)
        own = (fx.ops.cross_entropy(out.logits, part.targets) * part.weights).sum() / sum(predicted)
        own += 0 if part.labels is None else fx.ops.cross_entropy(out.labels, part.labels).mean() / 3
        z = (fx.ops.z_loss(out.logits) * part.weights).sum() / sum(predicted)
        weights = part.weights[..., None] / sum(predicted)
        means = jnp.log(jnp.exp(out.logits).sum(axis=-1, keepdims=True)), out.logits / out.logits.shape[-1]
        return own + 0.1 * z, (own, [(mean * weights).sum() for mean in means])

    slope = jax.jit(jax.value_and_grad(loss, has_aux=True))
    slopes = [slope(state.params, part, key[1]) for part, key in zip(parts, keys, strict=True)]
    own = sum(told for (_, (told, _)), _ in slopes)
    log_z, logit_mean = np.sum([means for (_, (_, means)), _ in slopes], axis=0)
    grads = jax.tree.map(lambda *each: sum(each), *(grads for _, grads in slopes))
    after, metrics = jax.jit(partial(train_step, recipe))(numbers, state, tokens)
    np.testing.assert_allclose(metrics.loss, own, rtol=1e-5)
    np.testing.assert_allclose(metrics.layers["log_z"], [log_z], rtol=1e-5)
    np.testing.assert_allclose(metrics.layers["logit_mean"], [logit_mean], rtol=1e-4, atol=1e-7)
    for new, old, grad in zip(*map(jax.tree.leaves, (after.params, state.params, grads)), strict=True):
        np.testing.assert_allclose(old - new, grad, rtol=1e-5, atol=1e-6)


def test_shares_make_the_mean_over_parts_that_of_the_whole():
    """Of anything that is said of each token, and of each that is predicted one further."""
    rng = np.random.default_rng(0)
    parts, keys = jnp.asarray(rng.integers(0, 256, (3, 2, 25))), jax.random.split(jax.random.key(0), 3)
    share = jax.jit(partial(shares, OBJECTIVES["prefix"]))(parts, keys)
    batches_of_parts = [OBJECTIVES["prefix"](parts[i], jax.random.split(keys[i])[0]) for i in range(3)]
    weights = np.stack([batch.weights for batch in batches_of_parts])
    assert len(set(weights.sum(axis=(1, 2)))) == 3
    for each, counted in ((share.tokens, weights), (share.mtp, weights[..., 1:])):
        said = rng.normal(size=counted.shape)
        means = (said * counted).sum(axis=(1, 2)) / counted.sum(axis=(1, 2))
        np.testing.assert_allclose(np.mean(each * means), (said * counted).sum() / counted.sum(), rtol=1e-5)


def test_selection_biases_move_against_the_load():
    """Of the second group only: the first has no experts; its second block has experts and no such bias."""
    spec = zoo.toy(width=24, depth=2, heads=3)
    (dense,) = spec.stack.groups[0].blocks
    moe = zoo.toy(width=24, heads=3, ffn="moe").stack.blocks[0].ffn
    biased, plain = (replace(dense, ffn=replace(moe, experts=3, selection_bias=bias)) for bias in (True, False))
    groups = Repeat(2, (dense,)), Repeat(2, (biased, plain))
    spec = replace(spec, stack=replace(spec.stack, groups=groups))
    params = fx.init(spec, jax.random.key(0))
    load = np.array([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.0, 0.1, 0.9]], np.float32)
    moved = balanced(spec, params, {"ffn_load": load})
    bias = moved["stack"]["group_1"]["blocks"]["block_0"]["ffn"].pop("selection_bias")
    np.testing.assert_allclose(bias, [[-0.001, 0.001, 0.001], [0, 0, 0]], atol=1e-9)
    params["stack"]["group_1"]["blocks"]["block_0"]["ffn"].pop("selection_bias")
    assert jax.tree.all(jax.tree.map(np.array_equal, moved, params))


def test_layers_of_different_numbers_of_experts_stand_in_one_stack():
    spec = zoo.toy(width=24, depth=2, heads=3, ffn="moe")
    block = spec.stack.blocks[0]
    few, many = (replace(block, ffn=replace(block.ffn, experts=n, selection_bias=True)) for n in (3, 5))
    spec = replace(spec, stack=replace(spec.stack, groups=(Repeat(2, (few,)), Repeat(1, (many,)))))
    params = fx.init(spec, jax.random.key(0))
    load = fx.apply(spec, params, jnp.arange(12).reshape(2, 6)).stats["ffn_load"]
    np.testing.assert_allclose(load.sum(axis=1), 1, rtol=1e-6)
    assert load.shape == (3, 5) and not load[:2, 3:].any()
    moved = balanced(spec, params, {"ffn_load": load})["stack"]
    for group, loads in (("group_0", load[:2, :3]), ("group_1", load[2:])):
        bias = moved[group]["blocks"]["block_0"]["ffn"]["selection_bias"]
        np.testing.assert_allclose(bias, 0.001 * np.sign(loads.mean(axis=1, keepdims=True) - loads), atol=1e-9)


@pytest.mark.parametrize("count", [4, 8, 11, 3])
def test_every_held_out_window_is_judged_once(count, monkeypatch):
    """By itself, whatever share of the windows is looked at in one program, and in one forward pass of it."""
    model = {"width": 16, "heads": 2, "depth": 1}
    config = Config(name="test", model=model).with_settings({"length": 10, "batch": 4})
    recipe, numbers = recipe_of(config), numbers_of(config)
    params = start(recipe, numbers).params
    held_out = np.random.default_rng(0).integers(0, 256, (count, config.row))
    logits = fx.apply(recipe.spec(numbers), params, held_out[:, :-1]).logits
    expected = np.mean(fx.ops.cross_entropy(logits, held_out[:, 1:]), axis=1)
    monkeypatch.setattr("train.step.TOKENS_AT_ONCE", 40)
    look = partial(jax.jit(partial(evaluate, recipe)), numbers, params)
    for told in (look(held_out), judge(look, held_out, 5)):
        np.testing.assert_allclose(told.windows, expected, rtol=1e-6)
        np.testing.assert_allclose(told.loss, np.mean(expected), rtol=1e-6)
        assert told.weights.tolist() == [10.0] * count


def test_a_window_counts_as_much_as_is_predicted_in_it():
    """Of one long word none is chosen: such a window has no loss, and takes nothing from the mean."""
    config = load(next(path for path in CONFIGS if path.stem == "whole_word"), ["length=24", "batch=2"])
    recipe, numbers = recipe_of(config), numbers_of(config)
    params = start(recipe, numbers).params
    held_out = np.array(
        batches(load_corpus("stdlib").train, seed=0, steps=range(1), batch=3, length=config.text_length)[0]
    )
    held_out[1] = ord("x")
    told = jax.jit(partial(evaluate, recipe))(numbers, params, held_out)
    key = jax.random.split(jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 1)[0])[0]
    batch = OBJECTIVES["whole_word"](held_out, key)
    losses = fx.ops.cross_entropy(answer(recipe.spec(numbers), params, batch).logits, batch.targets)
    assert np.isnan(told.windows).tolist() == [False, True, False] and told.weights[1] == 0
    np.testing.assert_allclose(told.weights, batch.weights.sum(axis=1))
    np.testing.assert_allclose(told.loss, fx.ops.weighted_mean(losses, batch.weights), rtol=1e-5)
    np.testing.assert_allclose(told.windows[0], fx.ops.weighted_mean(losses[0], batch.weights[0]), rtol=1e-5)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("balance=0.1", "balance=0.1 does nothing: no model here has such a loss"),
        ("router_z=0.1", "router_z=0.1 does nothing"),
        ("mtp=0.1", "mtp=0.1 does nothing"),
    ],
)
def test_a_weight_of_a_loss_that_the_model_has_not_is_refused(setting, sentence):
    causal = next(path for path in CONFIGS if path.stem == "causal")
    with pytest.raises(UserError, match=sentence):
        load(causal, [setting])
    load(causal, ["tiny=deepseek-v3-mtp", setting])


@pytest.mark.parametrize("name", ["path", "task", "validation"])
def test_what_a_sweep_reads_once_is_not_swept(name, tmp_path):
    values = {"path": '["stdlib", "book.txt"]', "task": '["copy"]', "validation": "[4, 8]"}
    (tmp_path / "sweep.toml").write_text(f"[grid.product]\n{name} = {values[name]}\n")
    with pytest.raises(UserError, match=f"{name} is read once for a whole sweep"):
        load(tmp_path / "sweep.toml")
