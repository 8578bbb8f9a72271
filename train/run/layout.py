"""Where a run's arrays lie: on one device, or over a mesh by one of the sharding presets."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from fxformer import sharding
from train.config import Config
from train.errors import user_input
from train.run.processes import several
from train.step import Numbers, Recipe, State, start


class Layout(NamedTuple):
    """How a run makes its state, and how it puts a batch [rows, tokens] where it belongs.

    batch: takes the shape of one, and what reads some of its rows; each process reads its own.
    state: the sharding of each array of a state. told: of what a program tells, which every process reads whole. None:
    as JAX likes.
    """

    start: Callable[[Recipe, Numbers], State]
    batch: Callable[[tuple[int, int], Callable[[range], np.ndarray]], Array]
    state: Callable[[Recipe, Numbers], Any] = lambda *_: None
    told: NamedSharding | None = None


@contextmanager
def layout_of(config: Config) -> Iterator[Layout]:
    """One device where `mesh` is empty. Raises UserError for a mesh, batch or model that do not fit each other."""
    if not config.run.mesh:
        yield Layout(
            start=jax.jit(start, static_argnums=0), batch=lambda shape, read: jax.numpy.asarray(read(range(shape[0])))
        )
        return
    with user_input():
        rules = sharding.preset(config.run.rules)
        mesh = sharding.mesh(config.run.mesh)
        sharding.plan(config.spec(), mesh, rules, drawn=True)
        sharding.check_batch(config.data.batch, mesh, rules, length=config.data.length)
        if several() and mesh.size != jax.device_count():
            raise ValueError(
                f"mesh={config.run.mesh!r} is not of all {jax.device_count()} devices of the {jax.process_count()} "
                "processes; use one that is"
            )
    place = sharding.batch_sharding(mesh, rules)

    def state(recipe: Recipe, numbers: Numbers) -> State:
        return sharding.like_params(config.spec(), mesh, rules, jax.eval_shape(partial(start, recipe), numbers))

    def start_sharded(recipe: Recipe, numbers: Numbers) -> State:
        return jax.jit(partial(start, recipe), out_shardings=state(recipe, numbers))(numbers)

    def batch(shape: tuple[int, int], read: Callable[[range], np.ndarray]) -> Array:
        def own(index: Any) -> np.ndarray:
            return read(range(*index[0].indices(shape[0])))

        return jax.make_array_from_callback(shape, place, own)

    with sharding.use(mesh, rules):
        yield Layout(
            start=start_sharded,
            batch=batch,
            state=state,
            told=NamedSharding(mesh, PartitionSpec()),
        )
