"""What experiments measure of a trained model beside what every sweep records."""

import jax
import jax.numpy as jnp
from jax import Array

import fxformer as fx
from fxformer.model import Params
from fxformer.ops import cross_entropy
from train.step import Numbers, Recipe


def order_gap(recipe: Recipe, numbers: Numbers, params: Params, rows_WT: Array) -> Array:
    """Nats that the order of the tokens before the last one is worth for predicting what follows that one.

    The loss where those tokens are shuffled, less the loss where they are not. A model that sees a bag of tokens and
    the last one of them has exactly 0, whatever it has learned: chance, for a probe of order.
    """
    spec = recipe.spec(numbers)
    inputs_WT, targets_W = rows_WT[:, :-1].astype(jnp.int32), rows_WT[:, -1].astype(jnp.int32)
    keys_W = jax.random.split(jax.random.key(0), len(rows_WT))
    shuffled_WT = jax.vmap(jax.random.permutation)(keys_W, inputs_WT[:, :-1])

    def loss(tokens_WT: Array) -> Array:
        logits_WV = fx.apply(spec, params, tokens_WT).logits[:, -1]
        return jnp.mean(cross_entropy(logits_WV, targets_W))

    return loss(jnp.concatenate([shuffled_WT, inputs_WT[:, -1:]], axis=1)) - loss(inputs_WT)
