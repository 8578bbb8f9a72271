"""One training step, and the measurements of a model, as pure functions of (recipe, numbers, state, tokens).

A `Recipe` is what the compiled program depends on; `Numbers` are arrays, so one program serves a whole sweep of them.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import fxformer as fx
from fxformer.layers.context import Execution
from fxformer.layers.ffn import MoE
from fxformer.model import Params, abstract_params
from fxformer.ops import balance, cross_entropy, weighted_mean, z_loss
from fxformer.stack import Once, Repeat
from fxformer.walk import parts
from train.config.config import Config, Data, Train
from train.data.tokenizer import vocab_of
from train.objectives import Batch, Objective, objective_of
from train.objectives.objective import answer, token_loss, window_losses
from train.optim.optimizer import OptimizerRecipe, accumulate, build
from train.optim.parametrization import Family, factors, times
from train.optim.schedule import rate


class Numbers(NamedTuple):
    """Settings that are traced: scalars, or [K] for a population."""

    seed: Array | int
    steps: Array | int
    lr: Array | float
    warmup: Array | int
    final: Array | float
    weight_decay: Array | float
    z_loss: Array | float
    balance: Array | float
    router_z: Array | float
    mtp: Array | float
    residual_scale: Array | float
    branch_scale: Array | float
    init_scale: Array | float


FACTORY_NUMBERS = ("residual_scale", "branch_scale", "init_scale")
NEUTRAL = Numbers._make(float(name in FACTORY_NUMBERS) for name in Numbers._fields)


def numbers_of(config: Config) -> Numbers:
    """The traced settings of a run."""
    flat = {**dict.fromkeys(FACTORY_NUMBERS, 1.0), **config.flat()}
    kinds: dict[str, Any] = {"seed": np.uint32, "steps": np.int32}
    return Numbers(*(kinds.get(name, np.float32)(flat[name]) for name in Numbers._fields))


@dataclass(frozen=True)
class Recipe:
    """What a compiled program is made for: two runs with equal recipes share it.

    model: arguments of the factory that are structure. family: how it is parametrised, relative to which sizes.
    length, batch: the shape of a step's tokens.
    """

    model: tuple[tuple[str, Any], ...]
    family: Family
    objective: str
    tokenizer: str
    optimizer: OptimizerRecipe
    schedule: str
    length: int
    batch: int
    accumulate: int
    dtype: str
    execution: Execution

    def spec(self, numbers: Numbers) -> fx.Transformer:
        """The model; its numbers may be traced."""
        return self._config.spec(**{name: getattr(numbers, name) for name in FACTORY_NUMBERS})

    @property
    def predicted(self) -> Objective:
        """What rows of text are made into."""
        return objective_of(self.objective, vocab_of(self.tokenizer))

    @property
    def factors(self) -> Any:
        """`Factors` of each parameter."""
        return factors(self.family.rule, self.optimizer.name, self._config.spec(), self._config.base())

    @property
    def _config(self) -> Config:
        train = Train(objective=self.objective, optimizer=self.optimizer.name, **asdict(self.family))
        data = Data(length=self.length, tokenizer=self.tokenizer)
        return Config(name="recipe", model=dict(self.model), data=data, train=train)


def recipe_of(config: Config) -> Recipe:
    """The structure of a run. Shallow stacks are unrolled; deep ones are looped over, and unless told recomputed."""
    train = config.train
    depth = config.spec().stack.depth
    shallow = depth <= UNROLLED_DEPTH
    return Recipe(
        model=tuple(sorted((name, value) for name, value in config.model.items() if name not in FACTORY_NUMBERS)),
        family=train.family,
        objective=train.objective,
        tokenizer=config.data.tokenizer,
        optimizer=OptimizerRecipe(
            name=train.optimizer, beta1=train.beta1, beta2=train.beta2, eps=train.eps, clip=train.clip
        ),
        schedule=train.schedule,
        length=config.data.length,
        batch=config.data.batch,
        accumulate=train.accumulate,
        dtype=train.dtype,
        execution=Execution(
            unroll=depth if shallow else 1, remat=not shallow if config.run.remat is None else config.run.remat
        ),
    )


UNROLLED_DEPTH = 8
BALANCE_RATE = 0.001  # of DeepSeek-V3's selection biases


class Share(NamedTuple):
    """How much a part of a batch counts in a mean over what it predicts, and over what is predicted one token further.

    1 is what an equal part counts, so that the mean over parts is that of the whole batch.
    """

    tokens: Array | float = 1.0
    mtp: Array | float = 1.0


class State(NamedTuple):
    """What training remembers: updates done, parameters, and the optimizer's moments."""

    step: Array
    params: Params
    optimizer: optax.OptState


class Metrics(NamedTuple):
    """What one step says of the parameters that it found.

    layers: numbers by name, each [layers, …]; of the output [1], log_z and logit_mean: means over what is predicted, of
    the logarithm of the softmax's denominator and of the logits.
    """

    loss: Array
    grad_norm: Array
    lr: Array
    layers: dict[str, Array]


class Judgement(NamedTuple):
    """A model judged on windows of text: its loss in nats per predicted token on average and in each window, [W].

    weights: predicted tokens of each window, [W]; of one that has none, as masks may choose none, the loss is NaN.
    """

    loss: Array | np.ndarray
    windows: Array | np.ndarray
    weights: Array | np.ndarray


def start(recipe: Recipe, numbers: Numbers) -> State:
    """The state before the first step; the key depends on the seed only, so arms share what shapes they share."""
    spec = recipe.spec(numbers)
    params = times(recipe.factors, fx.init(spec, jax.random.key(numbers.seed)), lambda each: each.init)
    return State(jnp.zeros((), jnp.int32), params, _optimizer(recipe, numbers, 0).init(params))


def train_step(recipe: Recipe, numbers: Numbers, state: State, tokens: Array) -> tuple[State, Metrics]:
    """One update on rows of text [batch, row]. A non-finite loss is recorded by what it makes of the metrics."""
    spec = recipe.spec(numbers)
    key = jax.random.fold_in(jax.random.key(numbers.seed), state.step)
    differentiate = jax.value_and_grad(partial(_loss, recipe, numbers, spec), has_aux=True)

    def loss_and_grad(part: tuple[Array, Array, Share]) -> tuple:
        (_, (loss, stats)), grads = differentiate(state.params, *part)
        return loss, stats, grads

    parts = tokens.reshape(recipe.accumulate, -1, tokens.shape[-1])
    keys = jax.random.split(key, recipe.accumulate)
    loss, stats, grads = accumulate(loss_and_grad, (parts, keys, shares(recipe.predicted, parts, keys)))
    count = state.step + 1
    optimizer = _optimizer(recipe, numbers, count)
    with jax.named_scope("update"):
        updates, moments = optimizer.update(grads, state.optimizer, state.params)
        params = balanced(spec, optax.apply_updates(state.params, updates), stats)
    layers = {
        **stats,
        "grad_norm": norm_by_layer(spec, grads),
        "ffn_down_grad_norm": norm_by_layer(spec, _only(grads, ("ffn", "down"))),
        "param_norm": norm_by_layer(spec, state.params),
        "update_ratio": norm_by_layer(spec, updates) / norm_by_layer(spec, state.params),
    }
    metrics = Metrics(loss, optax.tree.norm(grads), learning_rate(recipe, numbers, count), layers)
    return State(count, params, moments), metrics


def evaluate(recipe: Recipe, numbers: Numbers, params: Params, held_out: Array, part: Array | int = 0) -> Judgement:
    """The loss on windows [W, row], some at a time, without dropout. part: which windows of a text these are, so that
    their masks are always the same and others than those of other parts; see `judge`."""
    spec = recipe.spec(numbers)
    taken, kept = _cut(len(held_out), max(recipe.batch, TOKENS_AT_ONCE // recipe.length))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), part), len(taken))

    def look(some: tuple[Array, Array]) -> tuple[Array, Array]:
        out, batch = _answer(recipe, spec, params, *some, training=False)
        return window_losses(out, batch)

    losses_W, weights_W = (told.reshape(-1)[kept] for told in jax.lax.map(look, (held_out[taken], keys)))
    return Judgement(weighted_mean(losses_W, weights_W), jnp.where(weights_W > 0, losses_W, jnp.nan), weights_W)


TOKENS_AT_ONCE = 4096  # of a forward pass that is not differentiated: small models are slow on small batches


def judge(look: Callable[[np.ndarray, int], Judgement], held_out: np.ndarray, size: int) -> Judgement:
    """The judgement of a `look` at parts of `size` windows on all of `held_out` [W, row]: NumPy arrays [..., W].

    One compiled look serves texts of every length, and a few windows as well as many.
    """
    taken, kept = _cut(len(held_out), size)
    told = [jax.device_get(look(held_out[rows], part)) for part, rows in enumerate(taken)]
    losses_W, weights_W = (np.concatenate(each, axis=-1)[..., kept] for each in list(zip(*told, strict=True))[1:])
    total = np.sum(weights_W, axis=-1)
    loss = np.sum(np.where(weights_W > 0, losses_W, 0) * weights_W, axis=-1) / np.where(total == 0, 1, total)
    return Judgement(loss, losses_W, weights_W)


def _cut(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of `count` rows each part takes, [parts, size], and where each row stands among all that are taken.

    All parts are of one size: the last one takes rows again that the one before it took, where they do not come out.
    """
    size = min(size, count)
    begin = np.minimum(np.arange(0, count, size), count - size)
    row = np.arange(count)
    return begin[:, None] + np.arange(size), row - begin[row // size] + row // size * size


def learning_rate(recipe: Recipe, numbers: Numbers, count: Array | int) -> Array:
    """The rate of update number `count`, counted from 1."""
    return rate(recipe.schedule, count, lr=numbers.lr, warmup=numbers.warmup, total=numbers.steps, final=numbers.final)


def norm_by_layer(spec: fx.Transformer, tree: Params) -> Array:
    """Euclidean norm of the stack's leaves in each layer: [layers]; tied layers share theirs."""

    def of_group(group: Repeat | Once, blocks: Params) -> Array:
        def of_block(block: Params) -> Array:
            layers = () if group.tied else (group.n,)
            leaves = [leaf.reshape(*layers, -1) for leaf in jax.tree.leaves(block)]
            return jnp.broadcast_to(sum(jnp.sum(jnp.square(leaf), axis=-1) for leaf in leaves), (group.n,))

        return jnp.stack([of_block(blocks[f"block_{i}"]) for i in range(len(group.blocks))], axis=1).reshape(-1)

    groups = enumerate(spec.stack.groups)
    squares = [of_group(group, tree["stack"][f"group_{i}"]["blocks"]) for i, group in groups]
    return jnp.sqrt(jnp.concatenate(squares))


def shares(objective: Objective, parts: Array, keys: Array) -> Share:
    """The share of each part, [parts]: objectives predict more tokens of one than of another, drawn as in `_loss`."""
    if len(parts) == 1:
        return Share(jnp.ones(1), jnp.ones(1))

    def weights(part: Array, key: Array) -> Array:
        return objective(part, jax.random.split(key)[0]).weights

    def share(weights_PBT: Array) -> Array:
        total_P = jnp.sum(weights_PBT, axis=(1, 2))
        return total_P / jnp.where(jnp.any(total_P), jnp.mean(total_P), 1)

    weights_PBT = jax.vmap(weights)(parts, keys)
    return Share(share(weights_PBT), share(weights_PBT[..., 1:]))


def _only(tree: Params, names: tuple[str, ...]) -> Params:
    """The tree with leaves outside `names` (consecutive parts of their path) set to zero."""

    def keep(path: Any, leaf: Array) -> Array:
        parts = tuple(part.key for part in path)
        found = any(parts[i : i + len(names)] == names for i in range(len(parts)))
        return leaf if found else jnp.zeros_like(leaf)

    return jax.tree_util.tree_map_with_path(keep, tree)


def _loss(
    recipe: Recipe, numbers: Numbers, spec: fx.Transformer, params: Params, tokens: Array, key: Array, share: Share
) -> tuple[Array, tuple[Array, dict[str, Array]]]:
    """What is minimised; and the objective's own loss in nats per predicted token, and statistics.

    Only the objective's loss is reported and compared: a regulariser is no loss of the model.
    """
    out, batch = _answer(recipe, spec, params, tokens, key, training=True)
    loss = share.tokens * token_loss(out, batch)
    if batch.labels is not None:
        assert out.labels is not None
        loss += jnp.mean(cross_entropy(out.labels, batch.labels))
    return loss + _beside(numbers, out, batch, share), (loss, out.stats | _of_logits(out, batch, share))


def _answer(
    recipe: Recipe, spec: fx.Transformer, params: Params, tokens: Array, key: Array, *, training: bool
) -> tuple[fx.Output, Batch]:
    """What the model says to rows of text, and what it should say. Dropout is for training."""
    objective_key, dropout_key = jax.random.split(key)
    batch = recipe.predicted(tokens, objective_key)
    execution = recipe.execution
    out = answer(
        spec,
        params,
        batch,
        key=dropout_key if training else None,
        kernel=execution.kernel,
        unroll=execution.unroll,
        remat=execution.remat,
        dtype=jnp.dtype(recipe.dtype),
    )
    return out, batch


def _of_logits(out: fx.Output, batch: Batch, share: Share) -> dict[str, Array]:
    logits = out.logits.astype(jnp.float32)
    each = {"log_z": jax.nn.logsumexp(logits, axis=-1), "logit_mean": jnp.mean(logits, axis=-1)}
    return {name: share.tokens * weighted_mean(values, batch.weights)[None] for name, values in each.items()}


def _beside(numbers: Numbers, out: fx.Output, batch: Batch, share: Share) -> Array:
    """Losses beside the objective's own, each by its weight; an indexer's stands apart from all other gradients."""
    loss = share.tokens * numbers.z_loss * weighted_mean(z_loss(out.logits), batch.weights)
    weights = {"balance": numbers.balance, "router_z": numbers.router_z, "index_kl": 1.0}
    for name, losses in out.losses.items():
        loss += weights[name.removeprefix("encoder_")] * jnp.sum(losses)
    if out.mtp is not None:
        mtp = weighted_mean(cross_entropy(out.mtp, batch.targets[:, 1:]), batch.weights[:, 1:])
        loss += share.mtp * numbers.mtp * mtp
    return loss


def balanced(spec: fx.Transformer, params: Params, stats: dict[str, Array]) -> Params:
    """Selection biases moved against the load of their experts, outside of the gradient. DeepSeek-V3 2024, 2.1.2."""
    stack, begin = dict(params["stack"]), 0
    for i, group in enumerate(spec.stack.groups):
        crowds = [j for j, block in enumerate(group.blocks) if any(True for _ in parts(block.ffn, MoE))]
        if not crowds:
            continue
        end = begin + group.n * len(crowds)
        load_LME = stats["ffn_load"][begin:end].reshape(group.n, len(crowds), -1)
        blocks = dict(stack[f"group_{i}"]["blocks"])
        for m, j in enumerate(crowds):
            if "selection_bias" in blocks[f"block_{j}"]["ffn"]:
                blocks[f"block_{j}"] = _moved(blocks[f"block_{j}"], load_LME[:, m])
        stack[f"group_{i}"], begin = {**stack[f"group_{i}"], "blocks": blocks}, end
    return {**params, "stack": stack}


def _moved(block: Params, load_LE: Array) -> Params:
    bias_LE = block["ffn"]["selection_bias"]
    bias_LE = balance(bias_LE, load_LE[:, : bias_LE.shape[-1]], BALANCE_RATE)
    return {**block, "ffn": {**block["ffn"], "selection_bias": bias_LE}}


def _optimizer(recipe: Recipe, numbers: Numbers, count: Array | int) -> optax.GradientTransformation:
    lr, boxes = learning_rate(recipe, numbers, count), abstract_params(recipe.spec(NEUTRAL))  # no shape is a number's
    return build(recipe.optimizer, lr=lr, weight_decay=numbers.weight_decay, boxes=boxes, factors=recipe.factors)
