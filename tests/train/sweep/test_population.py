"""Replica k of a population ends as it would alone, whatever the others do."""

from functools import partial

import jax
import numpy as np
import pytest

from train.config import Config
from train.data.corpus import batches
from train.step import numbers_of, recipe_of, start, train_step
from train.sweep.population import PLANS, choose_plan, fill, in_chunks, once

TEXT = np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 200, np.uint8)
STEPS = 6


def config(**settings):
    model = {"width": 16, "heads": 2, "depth": 2, "position": "learned", "norm": "layer", "placement": "post"}
    return Config(name="test", model=model).with_settings({"length": 10, "batch": 3, "steps": STEPS, **settings})


VARIED = [
    {"lr": 1e-3, "seed": 0},
    {"lr": 3e-2, "seed": 1, "warmup": 0},
    {"lr": 1e-2, "seed": 0, "weight_decay": 0.3, "init_scale": 2.0},
    {"lr": 1e-2, "seed": 2, "residual_scale": 1.7, "z_loss": 1e-3},
    {"lr": 1e30, "seed": 0, "warmup": 0},  # diverges at once
]


def trained(plan, settings, dead=()):
    """Final parameters and losses of replicas that differ in numbers only, stacked."""
    configs = fill([config(**each) for each in settings])
    recipe = recipe_of(configs[0])
    numbers = jax.tree.map(lambda *values: np.stack(values), *(numbers_of(c) for c in configs))
    tokens = np.stack([batches(TEXT, seed=c.train.seed, steps=range(STEPS), batch=3, length=10) for c in configs])
    state, alive = once(partial(start, recipe))(numbers), np.array([k not in dead for k in range(len(configs))])
    state, metrics = plan(in_chunks(partial(train_step, recipe)))(alive, numbers, state, tokens)
    return jax.device_get((state.params, metrics.loss))


@pytest.fixture(scope="module")
def alone():
    return [trained(PLANS["loop"], [settings]) for settings in VARIED]


@pytest.mark.parametrize("name", PLANS)
def test_a_replica_ends_as_it_would_alone(name, alone):
    """To 1e-5 in the loss: batched products round differently, and training amplifies it."""
    _, losses = trained(PLANS[name], VARIED)
    for k in range(len(VARIED) - 1):
        np.testing.assert_allclose(losses[k], alone[k][1][0], rtol=1e-5)
    assert not np.isfinite(losses[len(VARIED) - 1][-1])


@pytest.mark.parametrize("name", ["loop", "shard"])
def test_what_is_not_alive_is_not_computed_and_the_others_are(name, alone):
    _, losses = trained(PLANS[name], VARIED, dead=(0, 2))
    np.testing.assert_array_equal(losses[[0, 2]], 0)
    for k in (1, 3):
        np.testing.assert_allclose(losses[k], alone[k][1][0], rtol=1e-5)


def test_what_comes_from_the_host_and_what_it_gave_before_take_one_program(caplog):
    """The first state lies on one device, each later one on all of them."""
    population = PLANS["shard"](lambda state, tokens: state + tokens)
    many, alive = len(jax.devices()), np.ones(len(jax.devices()), bool)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        state = population(alive, jax.numpy.zeros(many, "int32"), np.arange(many, dtype=np.int32))
        state = population(alive, state, np.arange(many, dtype=np.int32))
    assert many > 1 and state.tolist() == [2 * k for k in range(many)]
    assert len([record for record in caplog.records if record.message.startswith("Compiling jit(in_turn)")]) == 1


def test_what_runs_once_says_what_runs_often_does():
    c = config()
    numbers = jax.tree.map(lambda leaf: leaf[None], numbers_of(c))
    quick, slow = once(partial(start, recipe_of(c)))(numbers), start(recipe_of(c), numbers_of(c))
    for a, b in zip(jax.tree.leaves(quick), jax.tree.leaves(slow), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-6, atol=1e-7)


def test_numbers_that_differ_make_replicas_that_differ():
    _, losses = trained(PLANS["vmap"], VARIED[:4])
    assert len({round(float(each[-1]), 6) for each in losses[:4]}) == 4


def test_a_regulariser_is_minimised_and_not_reported():
    """Of the first step, before any update, the loss is the same with and without; the update is not."""
    plain, regularised = (trained(PLANS["loop"], [{"z_loss": weight}]) for weight in (0.0, 0.5))
    np.testing.assert_array_equal(plain[1][:, 0], regularised[1][:, 0])
    assert np.abs(plain[1][:, -1] - regularised[1][:, -1]).min() > 1e-4


def test_a_sweep_over_numbers_compiles_once():
    step = jax.jit(partial(train_step, recipe_of(config())))
    for settings in VARIED:
        c = config(**settings)
        numbers = numbers_of(c)
        assert recipe_of(c) == recipe_of(config())
        tokens = batches(TEXT, seed=c.train.seed, steps=range(1), batch=3, length=10)[0]
        step(numbers, start(recipe_of(c), numbers), tokens)
    assert step._cache_size() == 1


def test_the_plan_is_one_of_the_table_and_says_why():
    recipe = recipe_of(config())
    numbers = jax.tree.map(lambda *v: np.stack(v), *(numbers_of(c) for c in fill([config()])))
    state = jax.vmap(partial(start, recipe))(numbers)
    tokens = np.stack([batches(TEXT, seed=0, steps=range(1), batch=3, length=10)[0]] * len(numbers.lr))
    plan = choose_plan(partial(train_step, recipe), (numbers, state, tokens), repeats=1)
    assert plan.name in PLANS
    assert all(name in plan.reason for name in PLANS)


@pytest.mark.parametrize("parts", [1, 3])
def test_accumulated_steps_equal_the_large_batch(parts):
    c = config(accumulate=parts, lr=1e-2)
    recipe, numbers = recipe_of(c), numbers_of(c)
    tokens = batches(TEXT, seed=0, steps=range(1), batch=3, length=10)[0]
    whole, _ = jax.jit(partial(train_step, recipe_of(config(lr=1e-2))))(numbers, start(recipe, numbers), tokens)
    state, _ = jax.jit(partial(train_step, recipe))(numbers, start(recipe, numbers), tokens)
    for a, b in zip(jax.tree.leaves(state.optimizer), jax.tree.leaves(whole.optimizer), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
