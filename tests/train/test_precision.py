"""Training in half precision: each choice has a step that keeps its dtypes, and a few models learn as in float32."""

from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fxformer.layers.residual import PLACEMENTS
from fxformer.ops.activation import ACTIVATIONS
from fxformer.ops.norm import NORMS
from fxformer.zoo.toy import ATTENTIONS, FFNS, HEADS, MASKS, POSITIONS
from train.config import Config, load
from train.data.corpus import batches, load_corpus
from train.objectives import OBJECTIVES
from train.optim.optimizer import OPTIMIZERS
from train.step import numbers_of, recipe_of, start, train_step

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "objectives").glob("*.toml"))
HALVES = ("bfloat16", "float16")
SIZES = {"width": 24, "depth": 2, "heads": 3, "dropout": 0.1}
TABLES = {  # choices that go with one another, whichever they are
    "placement": PLACEMENTS,
    "norm": NORMS,
    "qk_norm": NORMS,
    "activation": ACTIVATIONS,
    "ffn": FFNS,
    "head": HEADS,
    "position": POSITIONS,
    "mask": {name: mask for name, mask in MASKS.items() if not mask.bidirectional},
    "optimizer": OPTIMIZERS,
}


def configurations() -> Iterator[tuple[str, Config]]:
    """Few in which every choice stands: rows of the tables, latent attention, each objective's own."""
    count = max(map(len, TABLES.values()))
    for row in zip(*(islice(cycle(table), count) for table in TABLES.values()), strict=True):
        yield "-".join(row), Config(name="half", model=SIZES).with_settings(dict(zip(TABLES, row, strict=True)))
    for name in ATTENTIONS:
        yield name, Config(name="half", model={**SIZES, "attention": name, "residual_scale": 1.5})
    for path in CONFIGS:
        yield path.stem, load(path)


CONFIGURATIONS = dict(configurations())


def test_the_configurations_have_every_objective():
    variants = {"blank_infilling_base", "blank_infilling_130b"}  # other mixtures of the same tasks
    assert {config.train.objective for config in CONFIGURATIONS.values()} == set(OBJECTIVES) - variants


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_step_in_half_precision_keeps_state_and_metrics_in_float32(name):
    """Every shape and dtype of a state is that of the state before it; nothing is computed."""
    config = CONFIGURATIONS[name].with_settings({"dtype": HALVES[len(name) % 2], "batch": 2, "weight_decay": 0.1})
    recipe, numbers = recipe_of(config), jax.tree.map(jnp.asarray, numbers_of(config))
    before = jax.eval_shape(partial(start, recipe), numbers)
    rows = jax.ShapeDtypeStruct((2, config.row), np.int32)
    after, metrics = jax.eval_shape(partial(train_step, recipe), numbers, before, rows)
    assert after == before
    assert {leaf.dtype for leaf in jax.tree.leaves((before.params, metrics))} == {jnp.dtype(jnp.float32)}


TRAINED = {
    "DeepNorm": {"placement": "post", "norm": "layer", "residual_scale": 1.7, "branch_scale": 0.5},
    "experts": {"placement": "dual", "ffn": "moe", "head": "untied", "position": "t5", "optimizer": "muon"},
    "latent": {"placement": "rezero", "attention": "mla", "activation": "silu", "optimizer": "adamw-uncorrected"},
}
STEPS, NEAR, LEARNED = 100, 0.02, 1.5


def losses(config: Config) -> np.ndarray:
    """The loss of each of STEPS updates on text."""
    recipe, numbers, corpus = recipe_of(config), numbers_of(config), load_corpus("stdlib")
    step, state, said = jax.jit(partial(train_step, recipe)), start(recipe, numbers), []
    rows = batches(corpus.train, seed=0, steps=range(STEPS), batch=config.data.batch, length=config.text_length)
    for tokens in rows:
        state, metrics = step(numbers, state, tokens)
        said.append(metrics.loss)
    return np.array(said)


@pytest.mark.parametrize("name", TRAINED)
def test_models_learn_in_half_precision_as_in_float32(name):
    """To 0.02 nats on average over the last 20 of 100 steps, before which more than 1.5 are learned."""
    settings = {"length": 16, "batch": 4, "lr": 1e-2, "steps": STEPS, "warmup": 5, "weight_decay": 0.1}
    config = Config(name="half", model={"width": 24, "depth": 2, "heads": 3}).with_settings(settings | TRAINED[name])
    exact = losses(config)
    assert np.mean(exact[-20:]) < np.mean(exact[:5]) - LEARNED
    for dtype in HALVES if name == "DeepNorm" else HALVES[:1]:
        half = losses(config.with_settings({"dtype": dtype}))
        assert abs(np.mean(half[-20:]) - np.mean(exact[-20:])) < NEAR
