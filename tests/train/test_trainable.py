"""Every published model at toy widths learns: its own objective's loss falls on the text of this repository's guide."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.random import define_prng_impl

import fxformer as fx
from fxformer import zoo
from fxformer.layers.context import Execution
from fxformer.layers.head import Bare
from train.config import Config, Data, Train
from train.data import batches, load_corpus
from train.step import evaluate, numbers_of, recipe_of

pytestmark = pytest.mark.slow
TEXT = Path(__file__).parents[2] / "docs"
STEPS, BATCH, RATE = 100, 2, 3e-3
DISTINCT = {zoo.tiny(name): name for name in reversed(zoo.names())}
SILENT = {name for spec, name in DISTINCT.items() if type(spec.head) is Bare}  # encoders without a head say nothing
NAMES = sorted(set(DISTINCT.values()) - SILENT)
OWN = {  # of those that are not causal language models; translation has no objective here, T5's feeds an encoder too
    "bert-base-mlm": "masked",
    "bert-base-pretraining": "next_sentence",
    "albert-base-pretraining": "sentence_order",
    "glm-base": "blank_infilling",
    "glm-130b": "prefix",  # seven parts in ten of its mixture; its rotation has one stream, blanks give two
    "chatglm-6b": "blank_infilling",
    "deepseek-v3-mtp": "multi_token",
}


def mixed(x):
    """Every bit of each number depends on all of its bits. The lowbias32 hash of Wellons 2018."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def bits(key, width, shape):
    assert width == 32
    places = jnp.arange(1, math.prod(shape) + 1, dtype=jnp.uint32)
    return mixed(mixed(places) + key[0]).reshape(shape)


# Random numbers of a few operations, where JAX's own take a hundred: a model that draws thirty arrays compiles sooner.
MIXED = define_prng_impl(
    key_shape=(1,),
    seed=lambda number: mixed(jnp.asarray(number, jnp.uint32))[None],
    split=lambda key, shape: bits(key, 32, shape)[..., None],
    random_bits=bits,
    fold_in=lambda key, number: mixed(mixed(key) + jnp.asarray(number, jnp.uint32)),
    name="mixed",
    tag="mix",
)


def test_every_distinct_model_is_trained_or_says_nothing():
    assert set(OWN) <= set(NAMES) and {"bert-base", "albert-base", "albert-xxlarge"} == SILENT


def objective_of(name: str) -> str:
    return OWN.get(name, "causal" if zoo.tiny(name).encoder is None else "span_corruption")


@pytest.mark.parametrize("name", NAMES)
def test_its_loss_falls_by_one_nat_and_a_half(name):
    """From the first batches to the last fifth of 100 small steps, each on other text."""
    objective = objective_of(name)
    config = Config(
        name=name,
        model={"tiny": name},
        data=Data(length=66 if objective == "blank_infilling" else 24, batch=BATCH),
        train=Train(objective=objective),
    )
    # A loop over layers that keeps little for the way back compiles sooner.
    recipe = replace(recipe_of(config), execution=Execution(remat=True))
    numbers, optimizer = numbers_of(config), optax.flatten(optax.adam(RATE))  # one vector compiles sooner

    def step(state, rows):
        params, moments = state
        loss, grads = jax.value_and_grad(partial(evaluate, recipe, numbers))(params, rows)
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(params, updates), moments), loss

    @jax.jit
    def run(params, rows):
        return jax.lax.scan(step, (params, optimizer.init(params)), rows)[1]

    text = load_corpus(str(TEXT)).train
    rows = batches(text, seed=0, steps=range(STEPS), batch=BATCH, length=config.text_length)
    losses = run(fx.init(recipe.spec(numbers), jax.random.key(0, impl=MIXED)), rows)

    assert np.mean(losses[-20:]) < np.mean(losses[:5]) - 1.5
