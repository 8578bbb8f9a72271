"""One model tried: it learns, and obeys the laws of `fxformer.verify` that concern it."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import fxformer as fx
from fxformer.model import Params
from fxformer.ops import cross_entropy, weighted_mean
from fxformer.verify import GRADIENT_ROUNDING, LAWS, gap, quick, text_of
from train.objectives import Batch
from train.objectives.objective import answer, token_loss

SHARE = 0.01  # of its loss, that a step along the gradient would take off a model that were linear
EXECUTION = "execution changes nothing"  # the law that is measured on the objective's own loss


class Finding(NamedTuple):
    """What was looked at, how far it is from what it should be, and how far it may be."""

    name: str
    deviation: float
    allowed: float

    @property
    def kept(self) -> bool:
        return self.deviation <= self.allowed  # not where it is no number


def learning(spec: fx.Transformer, params: Params, batch: Batch) -> Iterator[Finding]:
    """A step along the gradient lowers the loss of the batch; how the gradient is computed changes nothing.

    Where a model amplifies rounding, that is: no more than one unit in the last place of its parameters changes.
    """

    def loss_of(params: Params, kernel: str, unroll: int = 1, remat: bool = False) -> Array:
        out = answer(spec, params, batch, kernel=kernel, unroll=unroll, remat=remat)
        loss = token_loss(out, batch)
        if batch.labels is not None and out.labels is not None:
            loss += jnp.mean(cross_entropy(out.labels, batch.labels))
        if batch.mtp is not None and out.mtp is not None:
            loss += weighted_mean(cross_entropy(out.mtp, batch.mtp[:, :-1, 0]), batch.weights[:, 1:])
        return loss

    @quick
    def both_ways(params: Params) -> list[tuple[Array, Params]]:
        ways = partial(loss_of, kernel="naive", unroll=2), partial(loss_of, kernel="blockwise", remat=True)
        return [jax.value_and_grad(way)(params) for way in ways]

    params = jax.device_get(params)  # what follows is too little to compile
    (loss, grads), other = jax.device_get(both_ways(params))
    moved, _ = both_ways(jax.tree.map(lambda leaf: leaf * (1 + np.finfo(leaf.dtype).eps), params))
    allowed = max(GRADIENT_ROUNDING, gap(moved, (loss, grads)))
    yield Finding(EXECUTION, gap(other, (loss, grads)), allowed)
    rate = SHARE * loss / sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(grads))
    (after, _), _ = both_ways(jax.tree.map(lambda leaf, grad: leaf - rate * grad, params, grads))
    yield Finding("a step lowers the loss", float(after / loss), 1 - SHARE / 10)


def findings(spec: fx.Transformer, batch: Batch) -> Iterator[Finding]:
    """Whether a model can be initialised and learns from the batch, and of the laws those that concern it."""
    params = quick(partial(fx.init, spec))(jax.random.key(0))
    yield from learning(spec, params, batch)
    text = text_of(spec)
    for name, law in LAWS.items():
        if name != EXECUTION and law.concerns(spec):
            yield Finding(name, *law.check(text))
