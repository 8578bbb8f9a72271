"""Routers: the experts of a token and their weights. A new one is a spec, a function and one line in ROUTERS.

Logits, scores, weights and losses are float32 whatever the activations are ("selective precision", Fedus et al. 2021,
section 2.4). A row of tokens is what is balanced together: reshape to one row [1, B T, E] to balance a whole batch,
keep [B, T, E] for GShard's groups and DeepSeek-V3's sequence-wise loss. Padding is sent nowhere and never counted.

With f_i the share of the choices that fell on expert i, and P_i the mean score that the router gave it, over a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fxformer.fields import Number, Share, Size, check_fields
from fxformer.jit import promoting
from fxformer.ops.loss import weighted_mean, z_loss


class Routing(NamedTuple):
    """M choices of each token.

    expert_BTM: int32, by falling score; E, one past the last expert, is a choice that is not made. weight_BTM: float32.
    losses: unweighted numbers by name. load_E: share of the choices that fell on each expert; sums to 1.
    """

    expert_BTM: Array
    weight_BTM: Array
    losses: dict[str, Array]
    load_E: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """p = softmax(logits); one expert, weight p. Fedus et al. 2021, eq. 1-6.

    Losses: balance = E sum_i f_i P_i (1 when even); router_z, Zoph et al. 2022 (ST-MoE), eq. 5.
    """

    k: ClassVar[int] = 1
    groups: ClassVar[int] = 1
    kept_groups: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GShard:
    """g = softmax(logits); two experts, weights g_1 and g_2 over g_1 + g_2. Lepikhin et al. 2020, algorithm 1.

    With a key the second choice is made with probability min(1, weight / threshold): the paper's 0.5 is
    min(1, 2 weight), Mesh TensorFlow's is 0.2; without a key, and at 0, always.
    Losses: balance = mean_i f_i P_i, where f_i counts first choices (1 / E^2 when even); router_z.
    """

    threshold: Share = 0.5
    k: ClassVar[int] = 2
    groups: ClassVar[int] = 1
    kept_groups: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """p = softmax(logits); the k best, weight scale * p. DeepSeek-AI 2024 (V2), eq. 20-25.

    renormalise: weights over their sum, before the scale; the same as a softmax over the chosen logits alone
    (Mixtral, gpt-oss). Only experts in the `kept_groups` of `groups` equal groups with the largest score are chosen
    from. Losses: balance = E sum_i f_i P_i (1 when even; Mixtral's is k times that); router_z.
    """

    k: Size
    renormalise: bool = False
    scale: Number = 1.0
    groups: Size = 1
    kept_groups: Size = 1

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigmoid:
    """s = sigmoid(logits); the k best, weight scale * s / sum of the chosen s. DeepSeek-AI 2024 (V3), eq. 12-20.

    renormalise: False leaves out the sum. Only experts in the `kept_groups` of `groups` equal groups are chosen from; a
    group's score is the sum of its two largest. Loss: balance = E sum_i f_i P_i with P_i the mean of
    s_i / sum_j s_j (1 when even).
    """

    k: Size
    renormalise: bool = True
    scale: Number = 1.0
    groups: Size = 1
    kept_groups: Size = 1

    def __post_init__(self) -> None:
        check_fields(self)


Router = Switch | GShard | TopK | Sigmoid


@promoting()
def route(
    spec: Router,
    logits_BTE: Array,
    valid_BT: Array | None = None,
    *,
    bias_E: Array | float = 0.0,
    key: Array | None = None,
) -> Routing:
    """Choose experts for each token; valid_BT is false at padding, None where there is none.

    bias_E: added to the scores by which experts are chosen, never to their weights (Wang et al. 2024; DeepSeek-V3).
    key: the random choices of training are made exactly when a key is given.
    """
    check_router(spec, logits_BTE.shape[-1])
    if valid_BT is None:
        valid_BT = jnp.ones(logits_BTE.shape[:-1], bool)
    return ROUTERS[type(spec)](spec, logits_BTE.astype(jnp.float32), valid_BT, bias_E, key)


def switch(spec: Switch, logits_BTE: Array, valid_BT: Array, bias_E: Array | float, key: Array | None) -> Routing:
    """Top-1 of softmax."""
    p_BTE = jax.nn.softmax(logits_BTE)
    expert_BTM = _best(p_BTE + bias_E, spec.k)
    losses = {"balance": _balance(expert_BTM, p_BTE, valid_BT), "router_z": _router_z(logits_BTE, valid_BT)}
    return _routing(expert_BTM, _at(p_BTE, expert_BTM), valid_BT[..., None], losses, logits_BTE.shape[-1])


def gshard(spec: GShard, logits_BTE: Array, valid_BT: Array, bias_E: Array | float, key: Array | None) -> Routing:
    """Top-2 of softmax, the second by chance."""
    experts = logits_BTE.shape[-1]
    p_BTE = jax.nn.softmax(logits_BTE)
    expert_BTM = _best(p_BTE + bias_E, spec.k)
    weight_BTM = _normalised(_at(p_BTE, expert_BTM))
    draw_BT = jnp.zeros(valid_BT.shape) if key is None else jax.random.uniform(key, valid_BT.shape, jnp.float32)
    second_BT = draw_BT * spec.threshold < weight_BTM[..., 1]
    made_BTM = jnp.stack([valid_BT, valid_BT & second_BT], axis=-1)
    losses = {
        "balance": _balance(expert_BTM[..., :1], p_BTE, valid_BT) / experts**2,
        "router_z": _router_z(logits_BTE, valid_BT),
    }
    return _routing(expert_BTM, weight_BTM, made_BTM, losses, experts)


def top_k(spec: TopK, logits_BTE: Array, valid_BT: Array, bias_E: Array | float, key: Array | None) -> Routing:
    """Top-k of softmax within the best groups."""
    p_BTE = jax.nn.softmax(logits_BTE)
    expert_BTM = _best(_in_best_groups(p_BTE + bias_E, spec.groups, spec.kept_groups, counted=1), spec.k)
    weight_BTM = _at(p_BTE, expert_BTM)
    weight_BTM = spec.scale * (_normalised(weight_BTM) if spec.renormalise else weight_BTM)
    losses = {"balance": _balance(expert_BTM, p_BTE, valid_BT), "router_z": _router_z(logits_BTE, valid_BT)}
    return _routing(expert_BTM, weight_BTM, valid_BT[..., None], losses, logits_BTE.shape[-1])


def sigmoid(spec: Sigmoid, logits_BTE: Array, valid_BT: Array, bias_E: Array | float, key: Array | None) -> Routing:
    """Top-k of sigmoid within the best groups."""
    s_BTE = jax.nn.sigmoid(logits_BTE)
    expert_BTM = _best(_in_best_groups(s_BTE + bias_E, spec.groups, spec.kept_groups, counted=2), spec.k)
    weight_BTM = _at(s_BTE, expert_BTM)
    weight_BTM = spec.scale * (_normalised(weight_BTM) if spec.renormalise else weight_BTM)
    losses = {"balance": _balance(expert_BTM, _normalised(s_BTE), valid_BT)}
    return _routing(expert_BTM, weight_BTM, valid_BT[..., None], losses, logits_BTE.shape[-1])


ROUTERS: dict[type, Callable[[Any, Array, Array, Array | float, Array | None], Routing]] = {
    Switch: switch,
    GShard: gshard,
    TopK: top_k,
    Sigmoid: sigmoid,
}


@promoting()
def balance(bias_E: Array, load_E: Array, rate: float) -> Array:
    """The next selection bias: b_i + rate * sign(mean load - load_i). Wang et al. 2024; DeepSeek-V3, section 2.1.2."""
    return bias_E + rate * jnp.sign(jnp.mean(load_E, axis=-1, keepdims=True) - load_E)


def check_router(spec: Router, experts: int) -> None:
    """Raise ValueError unless `experts` split into the router's groups and suffice for its choices."""
    if spec.groups < 1 or experts % spec.groups:
        raise ValueError(f"router groups={spec.groups} do not divide experts={experts}; use equal groups")
    if not 1 <= spec.kept_groups <= spec.groups:
        raise ValueError(f"router keeps kept_groups={spec.kept_groups} of groups={spec.groups}; use 1 to that many")
    choices = experts // spec.groups * spec.kept_groups
    if not 1 <= spec.k <= choices:
        raise ValueError(f"router makes k={spec.k} choices among {choices} experts; use 1 to that many")


def _best(scores_BTE: Array, k: int) -> Array:
    return jax.lax.top_k(scores_BTE, k)[1]


def _at(scores_BTE: Array, expert_BTM: Array) -> Array:
    return jnp.take_along_axis(scores_BTE, expert_BTM, axis=-1)


def _normalised(scores: Array) -> Array:
    return scores / (jnp.sum(scores, axis=-1, keepdims=True) + 1e-20)


def _in_best_groups(scores_BTE: Array, groups: int, kept: int, *, counted: int) -> Array:
    """The scores, -inf outside the `kept` groups for which the sum of the `counted` largest scores is largest."""
    grouped = scores_BTE.reshape(*scores_BTE.shape[:-1], groups, -1)
    best = jnp.sum(jax.lax.top_k(grouped, min(counted, grouped.shape[-1]))[0], axis=-1)
    keep = jnp.sum(jax.nn.one_hot(_best(best, kept), groups, dtype=bool), axis=-2, dtype=bool)
    return jnp.where(keep[..., None], grouped, -jnp.inf).reshape(scores_BTE.shape)


def _balance(expert_BTM: Array, score_BTE: Array, valid_BT: Array) -> Array:
    """E sum_i f_i P_i of each row, averaged over the rows that have tokens."""
    experts = score_BTE.shape[-1]
    tokens_B1 = jnp.maximum(jnp.sum(valid_BT, axis=1, keepdims=True), 1)
    chosen_BTE = jnp.mean(jax.nn.one_hot(expert_BTM, experts, dtype=jnp.float32), axis=2)
    f_BE = jnp.sum(chosen_BTE * valid_BT[..., None], axis=1) / tokens_B1
    p_BE = jnp.sum(score_BTE * valid_BT[..., None], axis=1) / tokens_B1
    return weighted_mean(experts * jnp.sum(f_BE * p_BE, axis=-1), jnp.any(valid_BT, axis=1).astype(jnp.float32))


def _router_z(logits_BTE: Array, valid_BT: Array) -> Array:
    return weighted_mean(z_loss(logits_BTE), valid_BT.astype(jnp.float32))


def _routing(expert_BTM: Array, weight_BTM: Array, made_BTM: Array, losses: dict[str, Array], experts: int) -> Routing:
    """Send the choices that are not made to expert E, with weight zero."""
    expert_BTM = jnp.where(made_BTM, expert_BTM, experts)
    count_E = jnp.sum(jax.nn.one_hot(expert_BTM, experts, dtype=jnp.float32), axis=(0, 1, 2))
    return Routing(
        expert_BTM=expert_BTM,
        weight_BTM=jnp.where(made_BTM, weight_BTM, 0),
        losses=losses,
        load_E=count_E / jnp.maximum(jnp.sum(count_E), 1),
    )
