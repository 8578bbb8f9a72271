"""Objectives: `(tokens, key) -> Batch`, pure functions that say what is read and what is predicted."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from fxformer.coords import Coords, plain


class Batch(NamedTuple):
    """inputs, targets: integers [B, T]. weights: float32 [B, T], 0 where nothing is predicted. coords: of inputs."""

    inputs: Array
    targets: Array
    weights: Array
    coords: Coords


def causal(tokens_BT: Array, key: Array) -> Batch:
    """Predict each token from those before it: T + 1 tokens give T predictions."""
    inputs_BT, targets_BT = tokens_BT[:, :-1].astype(jnp.int32), tokens_BT[:, 1:].astype(jnp.int32)
    return Batch(inputs_BT, targets_BT, jnp.ones(targets_BT.shape), plain(inputs_BT.shape[1]))


OBJECTIVES: dict[str, Callable[[Array, Array], Batch]] = {"causal": causal}
