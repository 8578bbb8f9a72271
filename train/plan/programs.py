"""What would run: a training step, or a step of decoding, of arrays that are shapes and places."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding

import fxformer as fx
from fxformer import sharding
from fxformer.cache import Cache
from fxformer.decode.steps import unstacked_spec
from fxformer.layers.context import Execution
from fxformer.model import Params, abstract_params, empty_cache
from fxformer.ops.attend import NAIVE_KEYS
from train.config import Config
from train.step import NEUTRAL, numbers_of, recipe_of, start, train_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """A step of decoding: `batch` rows that each may hold `length` tokens."""

    batch: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A jitted function, and its arguments as shapes with places; parts: those arguments by what they are, and among
    the parameters those of experts."""

    function: Any
    arguments: tuple[Any, ...]
    parts: dict[str, Any]
    mesh: sharding.AnyMesh
    rules: sharding.Rules

    def lower(self) -> jax.stages.Lowered:
        """The program before it is compiled."""
        assert isinstance(self.mesh, Mesh), "sizes alone compile for nothing"
        with sharding.use(self.mesh, self.rules):
            return self.function.lower(*self.arguments)

    def bytes(self, part: str) -> int:
        """Of a part of the arguments, on one device."""
        return sum(bytes_of(leaf) for leaf in jax.tree.leaves(self.parts[part]))


def bytes_of(leaf: jax.ShapeDtypeStruct) -> int:
    """What one device holds of an array."""
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return int(np.prod(shape, dtype=np.int64)) * leaf.dtype.itemsize


def training(config: Config, mesh: sharding.AnyMesh, rules: sharding.Rules, execution: Execution | None) -> Program:
    """One update as `train run` makes it. Raises ValueError where mesh, batch and model do not fit each other."""
    recipe, numbers = recipe_of(config), numbers_of(config)
    if execution is not None:
        recipe = replace(recipe, execution=execution)
    spec = recipe.spec(NEUTRAL)
    sharding.plan(spec, mesh, rules, drawn=True)
    sharding.check_batch(config.data.batch, mesh, rules, length=config.data.length)
    shapes = jax.eval_shape(partial(start, recipe), numbers)
    state = _placed(shapes, sharding.like_params(spec, mesh, rules, shapes))
    place = sharding.batch_sharding(mesh, rules)
    tokens = jax.ShapeDtypeStruct((config.data.batch, config.row), np.int32, sharding=place)
    return Program(
        function=jax.jit(partial(train_step, recipe), donate_argnums=1),
        arguments=(numbers, state, tokens),
        parts={
            "parameters": state.params,
            "experts": _experts(state.params),
            "optimizer": state.optimizer,
            "tokens": tokens,
        },
        mesh=mesh,
        rules=rules,
    )


def decoding(spec: fx.Transformer, how: Decoding, mesh: sharding.AnyMesh, rules: sharding.Rules, dtype: Any) -> Program:
    """One token more in each row, as `generate` has it: layers one by one, so that each cache stays where it is.

    Parameters, activations and the cache have `dtype`. The kernel is named, for left open it would be the one of the
    platform that plans: see `Execution.kernel_for`.
    """
    flat = unstacked_spec(spec)
    sharding.plan(flat, mesh, rules)
    sharding.check_batch(how.batch, mesh, rules)
    shapes = jax.tree.map(
        lambda box: jax.ShapeDtypeStruct(box.value.shape, dtype), abstract_params(flat), is_leaf=sharding.is_box
    )
    params = _placed(shapes, sharding.param_shardings(flat, mesh, rules))
    empty = jax.eval_shape(lambda: empty_cache(flat, how.batch, how.length, dtype=dtype))
    cache = _placed(empty, sharding.cache_shardings(flat, empty, mesh, rules))
    kernel = "naive" if how.length <= NAIVE_KEYS else "blockwise"

    def read_one(params: Params, token_B: Array, cache: Cache) -> tuple[Array, Cache]:
        out = fx.apply(flat, params, token_B[:, None], cache=cache, kernel=kernel, dtype=dtype)
        assert out.cache is not None
        return out.logits[:, 0], out.cache

    rows = sharding.partition(("batch",), mesh, rules)
    token_B = jax.ShapeDtypeStruct((how.batch,), jnp.int32, sharding=NamedSharding(mesh, rows))
    return Program(
        function=jax.jit(read_one, donate_argnums=2),
        arguments=(params, token_B, cache),
        parts={"parameters": params, "cache": cache},
        mesh=mesh,
        rules=rules,
    )


def _experts(params: Params) -> list[Any]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [leaf for path, leaf in leaves if any(part.key == "experts" for part in path)]


def _placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place), shapes, shardings
    )
