"""Where a run's arrays lie: on one device, or over a mesh by one of the sharding presets."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from fxformer import sharding
from train.config import Config
from train.errors import user_input
from train.step import Numbers, Recipe, State, start


class Layout(NamedTuple):
    """How a run makes its state, and how it puts a batch [sequences, tokens] where it belongs."""

    start: Callable[[Recipe, Numbers], State]
    batch: Callable[[np.ndarray], Array]


@contextmanager
def layout_of(config: Config) -> Iterator[Layout]:
    """One device where `mesh` is empty. Raises UserError for a mesh, batch or model that do not fit each other."""
    if not config.run.mesh:
        yield Layout(start=jax.jit(start, static_argnums=0), batch=jax.numpy.asarray)
        return
    with user_input():
        rules = sharding.preset(config.run.rules)
        mesh = sharding.mesh(config.run.mesh)
        sharding.plan(config.spec(), mesh, rules)
        sharding.check_batch(config.data.batch, mesh, rules, length=config.data.length)
    place = sharding.batch_sharding(mesh, rules)

    def start_sharded(recipe: Recipe, numbers: Numbers) -> State:
        shapes = jax.eval_shape(partial(start, recipe), numbers)
        shardings = sharding.like_params(config.spec(), mesh, rules, shapes)
        return jax.jit(partial(start, recipe), out_shardings=shardings)(numbers)

    with sharding.use(mesh, rules):
        yield Layout(start=start_sharded, batch=lambda tokens: jax.device_put(tokens, place))
