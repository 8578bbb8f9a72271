"""How tests see that published models at toy widths learn: on which objective, from what, for how long."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

from fxformer import zoo
from fxformer.layers.head import Bare
from tests.laws.specs import PUBLISHED
from train.data.corpus import batches, load_corpus

DISTINCT = {zoo.tiny(name): name for name in reversed(zoo.names())}
SILENT = {name for spec, name in DISTINCT.items() if type(spec.head) is Bare}  # encoders without a head say nothing
SPEAKING = sorted(set(DISTINCT.values()) - SILENT)
OWN = {  # of those that are not causal language models; translation has no objective here, T5's feeds an encoder too
    "bert-base-mlm": "masked",
    "bert-base-pretraining": "next_sentence",
    "albert-base-pretraining": "sentence_order",
    "glm-base": "blank_infilling",
    "glm-130b": "prefix",  # seven parts in ten of its mixture; its rotation has one stream, blanks give two
    "chatglm-6b": "blank_infilling",
    "deepseek-v3-mtp": "multi_token",
}
STEPS, BATCH, RATE, FALL = 100, 2, 3e-3, 1.5


def objective_of(name: str) -> str:
    """Its own."""
    return OWN.get(name, "causal" if zoo.tiny(name).encoder is None else "span_corruption")


NEXT_TOKEN = [  # those that learn to predict it, and as the laws try them: without a capacity of experts
    name
    for name, spec in PUBLISHED.items()
    if name in SPEAKING and objective_of(name) == "causal" and zoo.tiny(name) == spec
]


def text(length: int) -> np.ndarray:
    """Bytes of a text that nobody edits, the licence: [STEPS, BATCH, length + 1], each step others."""
    corpus = load_corpus(str(Path(__file__).parents[1] / "LICENSE")).train
    return batches(corpus, seed=0, steps=range(STEPS), batch=BATCH, length=length)


def have_fallen(losses: Sequence[float]) -> bool:
    """By FALL nats from the first batches to the last fifth."""
    return bool(np.mean(losses[-20:]) < np.mean(losses[:5]) - FALL)


def trained(slope: Callable[[Any, np.ndarray], tuple[Any, Any]], params: Any, rows: np.ndarray) -> list[float]:
    """The loss of each step of Adam; `slope` gives it with the gradient. In NumPy, where nothing is compiled."""
    losses, params = [], jax.device_get(params)
    first = second = jax.tree.map(np.zeros_like, params)
    for step, row in enumerate(rows, 1):
        loss, grads = jax.device_get(slope(params, row))
        losses.append(float(loss))
        first = jax.tree.map(lambda mean, grad: 0.9 * mean + 0.1 * grad, first, grads)
        second = jax.tree.map(lambda mean, grad: 0.999 * mean + 0.001 * grad**2, second, grads)
        params = jax.tree.map(partial(moved, step), params, first, second)
    return losses


def moved(step: int, leaf: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A leaf after step number `step`, by the means of its gradients and of their squares. Kingma & Ba 2015."""
    return leaf - RATE / (1 - 0.9**step) * first / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)


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
KEY = jax.random.key(0, impl=MIXED)
