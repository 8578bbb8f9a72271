"""Optimizers from optax, put together inside the compiled step from numbers that may be traced.

An update is -lr * (direction + weight_decay * parameter): decay is decoupled and spares gains, biases and single
numbers. What a parameter is follows from its logical axes (`fxformer.axes.sides`): matrices and tables (of words, token
types, positions, distances) have an input and an output side and decay. A new optimizer is one function of the boxes
and of the constants it reads, and one line in OPTIMIZERS.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.linen.spmd import LogicallyPartitioned
from jax import Array
from optax import GradientTransformation
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from fxformer.axes import sides
from train.optim.parametrization import Factors, is_factors, times
from train.optim.signature import given, reads

Tree = Any
ENDS = (None, "vocab", "label")  # sides of tables and of what says tokens or classes: no matrix within the model


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerRecipe:
    """What of an optimizer is structure: a name in OPTIMIZERS, its constants, the bound on the global norm (0: off)."""

    name: str = "adamw"
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0


def adamw(boxes: Tree, *, beta1: float, beta2: float, eps: float) -> GradientTransformation:
    """m / (sqrt(v) + eps), both corrected for their start at zero. Loshchilov & Hutter 2019."""
    return optax.scale_by_adam(beta1, beta2, eps)


class Moments(NamedTuple):
    """Running means of the gradient and of its square."""

    mean: Tree
    square: Tree


def adamw_uncorrected(boxes: Tree, *, beta1: float, beta2: float, eps: float) -> GradientTransformation:
    """m / (sqrt(v) + eps) without the correction, as BERT was trained. google-research/bert, optimization.py."""

    def init(params: Tree) -> Moments:
        return Moments(jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))

    def update(grads: Tree, moments: Moments, params: Tree = None) -> tuple[Tree, Moments]:
        mean = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, moments.mean, grads)
        square = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, moments.square, grads)
        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mean, square)
        return direction, Moments(mean, square)

    return GradientTransformation(init, update)


def adafactor(boxes: Tree) -> GradientTransformation:
    """Factored second moments, updates clipped to RMS 1 and scaled by the parameter's RMS. Shazeer & Stern 2018.

    The RMS is of one layer's parameter, however many layers are stacked in an array.
    """

    def rms(box: LogicallyPartitioned, x: Array) -> Array:
        axes = tuple(axis for axis, name in enumerate(box.names) if name != "layer")
        return jnp.sqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True))

    def relative(box: LogicallyPartitioned, update: Array, parameter: Array) -> Array:
        return update / jnp.maximum(1.0, rms(box, update)) * jnp.maximum(1e-3, rms(box, parameter))

    def scale(updates: Tree, params: Tree) -> Tree:
        return jax.tree.map(relative, boxes, updates, params, is_leaf=_is_box)

    return optax.chain(optax.scale_by_factored_rms(), optax.stateless(scale))


def lion(boxes: Tree, *, beta1: float, beta2: float) -> GradientTransformation:
    """sign(beta1 m + (1 - beta1) g). Chen et al. 2023, algorithm 2."""
    return optax.scale_by_lion(beta1, beta2)


def sgd(boxes: Tree, *, beta1: float) -> GradientTransformation:
    """Gradients with momentum beta1."""
    return optax.trace(beta1)


def muon(boxes: Tree, *, beta1: float, beta2: float, eps: float) -> GradientTransformation:
    """Orthogonalised momentum for hidden matrices, AdamW for the rest. Jordan et al. 2024.

    Hidden is what leads from one width of the model to another, in encoder, decoder and beside them: neither a table
    nor what says tokens or classes.

    Updates of [n, m] matrices are multiplied by 0.2 sqrt(max(n, m)), which gives them about the RMS of AdamW's, so one
    rate serves both. Liu et al. 2025, eq. 4. The momentum is the authors' 0.95, whatever beta1 is.
    """

    def axes_of(box: LogicallyPartitioned) -> MuonDimensionNumbers | optax.MaskedNode:
        _, inputs, outputs = sides(box.names)
        hidden = bool(outputs) and not set(box.names) & set(ENDS)
        return MuonDimensionNumbers(inputs, outputs) if hidden else optax.MaskedNode()

    def rescale(axes: MuonDimensionNumbers, update: Array) -> Array:
        lengths = [math.prod(update.shape[axis] for axis in side) for side in axes]
        return 0.2 * math.sqrt(max(lengths)) * update

    def scale(updates: Tree, params: Tree) -> Tree:
        return jax.tree.map(rescale, matrices, updates, is_leaf=_is_axes)

    matrices = jax.tree.map(axes_of, boxes, is_leaf=_is_box)
    kinds = jax.tree.map(lambda axes: "matrix" if _is_axes(axes) else "other", matrices, is_leaf=_is_axes_or_masked)
    hidden = optax.chain(scale_by_muon(beta=0.95, weight_dimension_numbers=matrices), optax.stateless(scale))
    return optax.partition({"matrix": hidden, "other": adamw(boxes, beta1=beta1, beta2=beta2, eps=eps)}, kinds)


OPTIMIZERS: dict[str, Callable[..., GradientTransformation]] = {
    "adamw": adamw,
    "adamw-uncorrected": adamw_uncorrected,
    "adafactor": adafactor,
    "lion": lion,
    "sgd": sgd,
    "muon": muon,
}


def build(
    recipe: OptimizerRecipe, *, lr: Array | float, weight_decay: Array | float, boxes: Tree, factors: Tree = None
) -> GradientTransformation:
    """The optimizer of one step. `boxes` is `fxformer.model.abstract_params(spec)`: shapes and axis names.

    factors: of a parametrisation, `Factors` of each parameter; None is the standard one. The rate multiplies the
    direction and not the decay, whose own factor undoes it. eps' factor divides the gradient: m / (sqrt(v) + c eps) is
    (m / c) / (sqrt(v) / c + eps).
    The structure of its state does not depend on the numbers, so they may change from step to step.
    """
    decayed = jax.tree.map(lambda box: bool(sides(box.names)[2]), boxes, is_leaf=_is_box)
    optimizer = OPTIMIZERS[recipe.name]
    clip = [optax.clip_by_global_norm(recipe.clip)] if recipe.clip > 0 else []
    epsilon = _multiply(factors, lambda each: 1 / each.eps) if "eps" in reads(optimizer) else []
    return optax.chain(
        *clip,
        *epsilon,
        optimizer(boxes, **given(optimizer, asdict(recipe))),
        *_multiply(factors, lambda each: each.rate),
        optax.add_decayed_weights(weight_decay, mask=decayed),
        optax.scale(-jnp.asarray(lr, jnp.float32)),
    )


def _multiply(factors: Tree, which: Callable[[Factors], float]) -> list[GradientTransformation]:
    """Updates times a factor of each parameter; nothing where all are 1."""
    if all(which(factor) == 1 for factor in jax.tree.leaves(factors, is_leaf=is_factors)):
        return []
    return [optax.stateless(lambda updates, params: times(factors, updates, which))]


def accumulate(loss_and_grad: Callable[[Tree], Tree], parts: Tree) -> Tree:
    """The mean of `loss_and_grad(part)` over the leading axis of `parts`, one part after another."""
    count = jax.tree.leaves(parts)[0].shape[0]
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    if count == 1:
        return loss_and_grad(first)

    def add(total: Tree, part: Tree) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, loss_and_grad(part)), None

    nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(loss_and_grad, first))
    total, _ = jax.lax.scan(add, nothing, parts)
    return jax.tree.map(lambda leaf: leaf / count, total)


def _is_box(node: Any) -> bool:
    return isinstance(node, LogicallyPartitioned)


def _is_axes(node: Any) -> bool:
    return isinstance(node, MuonDimensionNumbers)


def _is_axes_or_masked(node: Any) -> bool:
    return isinstance(node, MuonDimensionNumbers | optax.MaskedNode)
