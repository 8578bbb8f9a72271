"""One training step, and the measurements of a model, as pure functions of (recipe, numbers, state, tokens).

A `Recipe` is what the compiled program depends on; `Numbers` are arrays, so one program serves a whole sweep of them.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import fxformer as fx
from fxformer.layers.context import Execution
from fxformer.model import Params, abstract_params
from fxformer.ops import cross_entropy, weighted_mean, z_loss
from train.config import Config
from train.objectives import OBJECTIVES
from train.optimizer import OptimizerRecipe, accumulate, build
from train.schedule import SCHEDULES


class Numbers(NamedTuple):
    """Settings that are traced: scalars, or [K] for a population."""

    seed: Array | int
    steps: Array | int
    lr: Array | float
    warmup: Array | int
    final: Array | float
    weight_decay: Array | float
    z_loss: Array | float
    residual_scale: Array | float
    branch_scale: Array | float
    init_scale: Array | float


FACTORY_NUMBERS = ("residual_scale", "branch_scale", "init_scale")


def numbers_of(config: Config) -> Numbers:
    """The traced settings of a run."""
    flat = {**dict.fromkeys(FACTORY_NUMBERS, 1.0), **config.flat()}
    kinds: dict[str, Any] = {"seed": np.uint32, "steps": np.int32}
    return Numbers(*(kinds.get(name, np.float32)(flat[name]) for name in Numbers._fields))


@dataclass(frozen=True)
class Recipe:
    """What a compiled program is made for: two runs with equal recipes share it.

    model: arguments of the factory that are structure. length, batch: the shape of a step's tokens.
    """

    model: tuple[tuple[str, Any], ...]
    objective: str
    optimizer: OptimizerRecipe
    schedule: str
    length: int
    batch: int
    accumulate: int
    dtype: str
    execution: Execution

    def spec(self, numbers: Numbers) -> fx.Transformer:
        """The model; its numbers may be traced."""
        structure = Config(name="recipe", model=dict(self.model)).with_settings({"length": self.length})
        return structure.spec(**{name: getattr(numbers, name) for name in FACTORY_NUMBERS})


def recipe_of(config: Config) -> Recipe:
    """The structure of a run. Shallow stacks are unrolled; deep narrow ones are looped over and recomputed."""
    train = config.train
    depth = config.spec().stack.depth
    return Recipe(
        model=tuple(sorted((name, value) for name, value in config.model.items() if name not in FACTORY_NUMBERS)),
        objective=train.objective,
        optimizer=OptimizerRecipe(
            name=train.optimizer, beta1=train.beta1, beta2=train.beta2, eps=train.eps, clip=train.clip
        ),
        schedule=train.schedule,
        length=config.data.length,
        batch=config.data.batch,
        accumulate=train.accumulate,
        dtype=train.dtype,
        execution=Execution(unroll=depth) if depth <= UNROLLED_DEPTH else Execution(remat=True),
    )


UNROLLED_DEPTH = 8


class State(NamedTuple):
    """What training remembers: updates done, parameters, and the optimizer's moments."""

    step: Array
    params: Params
    optimizer: optax.OptState


class Metrics(NamedTuple):
    """What one step says; `layers` holds numbers by name, each [layers]."""

    loss: Array
    grad_norm: Array
    lr: Array
    layers: dict[str, Array]


class Measurement(NamedTuple):
    """A model looked at without training it; `layers` holds numbers by name, each [layers]."""

    val_loss: Array
    last_ffn_grad_norm: Array
    layers: dict[str, Array]


def start(recipe: Recipe, numbers: Numbers) -> State:
    """The state before the first step; the key depends on the seed only, so arms share what shapes they share."""
    spec = recipe.spec(numbers)
    params = fx.init(spec, jax.random.key(numbers.seed))
    return State(jnp.zeros((), jnp.int32), params, _optimizer(recipe, numbers, spec, 0).init(params))


def train_step(recipe: Recipe, numbers: Numbers, state: State, tokens: Array) -> tuple[State, Metrics]:
    """One update on tokens [batch, length + 1]. A non-finite loss is recorded by what it makes of the metrics."""
    spec = recipe.spec(numbers)
    key = jax.random.fold_in(jax.random.key(numbers.seed), state.step)
    differentiate = jax.value_and_grad(partial(_loss, recipe, numbers, spec), has_aux=True)

    def loss_and_grad(part: Array) -> tuple[Array, tuple]:
        (loss, (weight, stats)), grads = differentiate(state.params, part, key)
        return weight, (loss, stats, grads)

    parts = tokens.reshape(recipe.accumulate, -1, tokens.shape[-1])
    loss, stats, grads = accumulate(loss_and_grad, parts)
    count = state.step + 1
    optimizer = _optimizer(recipe, numbers, spec, count)
    updates, moments = optimizer.update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    layers = {
        **stats,
        "grad_norm": norm_by_layer(grads),
        "param_norm": norm_by_layer(state.params),
        "update_ratio": norm_by_layer(updates) / norm_by_layer(state.params),
    }
    metrics = Metrics(loss, optax.global_norm(grads), learning_rate(recipe, numbers, count), layers)
    return State(count, params, moments), metrics


def measure(recipe: Recipe, numbers: Numbers, params: Params, held_out: Array) -> Measurement:
    """Validation loss on windows [W, length + 1]; gradients and statistics by layer on the first batch of them."""
    spec = recipe.spec(numbers)
    loss_and_grad = jax.value_and_grad(partial(_loss, recipe, numbers, spec), has_aux=True)
    (_, (_, stats)), grads = loss_and_grad(params, held_out[: recipe.batch], jax.random.key(numbers.seed))
    last_ffn_grad_norm = norm_by_layer(_only(grads, ("ffn", "down")))[-1]
    layers = {**stats, "grad_norm": norm_by_layer(grads), "param_norm": norm_by_layer(params)}
    return Measurement(evaluate(recipe, numbers, params, held_out), last_ffn_grad_norm, layers)


def evaluate(recipe: Recipe, numbers: Numbers, params: Params, held_out: Array) -> Array:
    """Mean loss in nats per token over windows [W, length + 1], a batch at a time, without dropout."""
    spec = recipe.spec(numbers)
    parts = min(recipe.batch, held_out.shape[0])
    windows = held_out[: held_out.shape[0] // parts * parts].reshape(-1, parts, held_out.shape[-1])
    losses = jax.lax.map(lambda part: _loss(recipe, numbers, spec, params, part, None)[0], windows)
    return jnp.mean(losses)


def learning_rate(recipe: Recipe, numbers: Numbers, count: Array | int) -> Array:
    """The rate of update number `count`, counted from 1."""
    schedule = SCHEDULES[recipe.schedule]
    return schedule(count, peak=numbers.lr, warmup=numbers.warmup, total=numbers.steps, final=numbers.final)


def norm_by_layer(tree: Params) -> Array:
    """Euclidean norm of the stack's leaves in each layer: [layers]."""

    def of_block(block: Params) -> Array:
        squares = [jnp.sum(jnp.square(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(block)]
        return jnp.sum(jnp.stack(squares), axis=0)

    groups = [group["blocks"] for name, group in sorted(tree["stack"].items()) if name.startswith("group_")]
    squares = [jnp.stack([of_block(block) for block in blocks.values()], axis=1).reshape(-1) for blocks in groups]
    return jnp.sqrt(jnp.concatenate(squares))


def _only(tree: Params, names: tuple[str, ...]) -> Params:
    """The tree with leaves outside `names` (consecutive parts of their path) set to zero."""

    def keep(path: Any, leaf: Array) -> Array:
        parts = tuple(part.key for part in path)
        found = any(parts[i : i + len(names)] == names for i in range(len(parts)))
        return leaf if found else jnp.zeros_like(leaf)

    return jax.tree_util.tree_map_with_path(keep, tree)


def _loss(
    recipe: Recipe, numbers: Numbers, spec: fx.Transformer, params: Params, tokens: Array, key: Array | None
) -> tuple[Array, tuple[Array, dict[str, Array]]]:
    """The mean loss in nats per predicted token, with the number of those and the model's statistics."""
    batch = OBJECTIVES[recipe.objective](tokens, jax.random.key(0) if key is None else key)
    execution = recipe.execution
    out = fx.apply(
        spec,
        params,
        batch.inputs,
        coords=batch.coords,
        key=key,
        kernel=execution.kernel,
        unroll=execution.unroll,
        remat=execution.remat,
        dtype=jnp.dtype(recipe.dtype),
    )
    loss = weighted_mean(cross_entropy(out.logits, batch.targets), batch.weights)
    regulariser = numbers.z_loss * weighted_mean(z_loss(out.logits), batch.weights)
    return loss + regulariser, (jnp.sum(batch.weights), out.stats)


def _optimizer(
    recipe: Recipe, numbers: Numbers, spec: fx.Transformer, count: Array | int
) -> optax.GradientTransformation:
    lr = learning_rate(recipe, numbers, count)
    return build(recipe.optimizer, lr=lr, weight_decay=numbers.weight_decay, boxes=abstract_params(spec))
