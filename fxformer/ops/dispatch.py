"""Dispatch: tokens travel to their experts' slots and back. A new one is a spec, a function and one line in DISPATCHES.

A dispatch says which slot each choice of each token gets; the rest is shared. Slots lie in X groups of C, each group
belongs to one expert, so that an expert's matrix product is one product of a group. `Capacity` has a group for each
expert, in which each row has places of its own, and drops what overflows; `Dropless` has as many small groups for an
expert as it needs. Tokens find their slots row by row: where rows are on different devices and experts too, nothing
but the slots themselves goes from one to another, all to all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fxformer.fields import Count, Least, check_fields
from fxformer.jit import promoting
from fxformer.ops.route import Routing

Own = Callable[[Any], Any]  # a tree with leaves [E, ...] -> for each group that of its own expert, [X, ...]
Experts = Callable[[Array, Own], Array]  # (x_XCD, own) -> y_XCD


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Each expert takes floor(factor * tokens * k / E) choices of a row, but at least `least`; the others are dropped.

    Places go to first choices before second ones, and in the order of the tokens: what a token's second choice gets
    depends on tokens after it. Lepikhin et al. 2020, algorithm 1; Fedus et al. 2021, eq. 3 (1.25 to train, 2.0 to
    evaluate; at least 4 in its code, so that a decoding step is not all overflow). With factor 0 it takes `least`,
    however many tokens there are.
    """

    factor: Least = 1.25
    least: Count = 4

    def __post_init__(self) -> None:
        check_fields(self)
        if self.factor == self.least == 0:
            raise ValueError("capacity of factor=0, least=0 takes nothing; use more than 0 of one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropless:
    """Every choice is computed: choices sorted by expert, in blocks of rows of one expert. Gale et al. 2022."""


Dispatch = Capacity | Dropless


class Slots(NamedTuple):
    """Where each choice goes, in the slots that its row has in every group.

    slot_RNM: of N tokens in each of R rows, among X * C slots of the row; X * C is nowhere. groups: X. size: C.
    owner_X: whose each group is; None is expert x for group x.
    """

    slot_RNM: Array
    groups: int
    size: int
    owner_X: Array | None


@promoting()
def dispatch(spec: Dispatch, x_BTD: Array, routing: Routing, experts: Experts) -> tuple[Array, Array]:
    """y = sum over a token's choices of weight * expert(x), summed in float32, and which were computed (bool BTM).

    experts: computes groups of slots x_XCD, each by its own expert, whose parameters are `own(params)[group]`.
    """
    width = x_BTD.shape[-1]
    slot_RNM, groups, size, owner_X = DISPATCHES[type(spec)](spec, routing.expert_BTM, routing.load_E.size)
    rows, tokens, _ = slot_RNM.shape
    x_RND = x_BTD.reshape(rows, tokens, width)

    @jax.vmap
    def sent(x_ND: Array, slot_NM: Array) -> Array:
        """What lies in the slots of a row, [X * C, D]."""
        token_NM = jnp.broadcast_to(jnp.arange(tokens)[:, None], slot_NM.shape)
        token_C = jnp.full(groups * size, tokens).at[slot_NM].set(token_NM, mode="drop")
        return x_ND.at[token_C].get(mode="fill", fill_value=0)

    def own(params: Any) -> Any:
        return params if owner_X is None else jax.tree.map(lambda leaf: leaf[owner_X], params)

    @partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable)
    def compute(x_XCD: Array) -> Array:
        """Only matrix products are kept for the backward pass, not the copies of parameters that `own` makes."""
        return experts(x_XCD, own)

    x_RXCD = sent(x_RND, slot_RNM).reshape(rows, groups, size, width)
    y_XCD = compute(jnp.swapaxes(x_RXCD, 0, 1).reshape(groups, rows * size, width))
    y_RXCD = jnp.swapaxes(y_XCD.reshape(groups, rows, size, -1), 0, 1)
    fetched = jax.vmap(lambda y_CD, slot_NM: y_CD.at[slot_NM].get(mode="fill", fill_value=0))
    y_RNMD = fetched(y_RXCD.reshape(rows, groups * size, -1), slot_RNM)
    y_BTMD = y_RNMD.reshape(*routing.expert_BTM.shape, -1)
    y_BTD = jnp.einsum("btmd,btm->btd", y_BTMD, routing.weight_BTM, preferred_element_type=jnp.float32)
    return y_BTD.astype(x_BTD.dtype), (slot_RNM < groups * size).reshape(routing.expert_BTM.shape)


def by_capacity(spec: Capacity, expert_BTM: Array, experts: int) -> Slots:
    """A queue before each expert for each row, and room for `capacity` of it."""
    rows, tokens, choices = expert_BTM.shape
    limits = capacity(spec, np.arange(tokens + 1), choices, experts)
    valid_B = jnp.sum(expert_BTM[..., 0] < experts, axis=1)
    limit_B11 = jnp.asarray(limits, jnp.int32)[valid_B][:, None, None]
    row_B11 = jnp.arange(rows)[:, None, None]
    rank_BTM, _ = _queue(
        jnp.where(expert_BTM < experts, row_B11 * experts + expert_BTM, rows * experts), rows * experts
    )
    room = max(int(limits[tokens]), 1)
    kept_BTM = (expert_BTM < experts) & (rank_BTM < limit_B11)
    return Slots(jnp.where(kept_BTM, expert_BTM * room + rank_BTM, experts * room), experts, room, None)


def capacity(spec: Capacity, tokens: np.ndarray, choices: int, experts: int) -> np.ndarray:
    """Places of each expert for a row of so many tokens; no more than there are tokens."""
    share = np.floor(tokens * choices * spec.factor / experts).astype(int)
    return np.minimum(np.maximum(share, spec.least), tokens)


def by_blocks(spec: Dropless, expert_BTM: Array, experts: int) -> Slots:
    """Blocks of slots, as many for each expert as its choices fill: at most half as many slots again as choices.

    All tokens are one row: which block a choice goes to depends on all of them.

    `lax.ragged_dot` would need no blocks, but on a CPU it computes every row with every expert, and it cannot be mapped
    by `vmap` unless all that it takes is.
    """
    choices = expert_BTM.size
    block = 1 << max(choices // (2 * experts), 1).bit_length() - 1
    groups = min(choices, (choices + experts * (block - 1)) // block)
    rank_BTM, count_E = _queue(expert_BTM, experts)
    end_E = jnp.cumsum(-(-count_E // block))
    first_E = jnp.append(end_E - -(-count_E // block), groups)
    owner_X = jnp.searchsorted(end_E, jnp.arange(groups), side="right").clip(max=experts - 1)
    slot_BTM = jnp.where(expert_BTM < experts, first_E[expert_BTM] * block + rank_BTM, groups * block)
    return Slots(slot_BTM.reshape(1, -1, expert_BTM.shape[-1]), groups, block, owner_X)


DISPATCHES: dict[type, Callable[[Any, Array, int], Slots]] = {Capacity: by_capacity, Dropless: by_blocks}


def _queue(expert_BTM: Array, experts: int) -> tuple[Array, Array]:
    """How many go to the same expert before each choice, and how many in all: first choices first, then by token."""
    queue_Q = jnp.moveaxis(expert_BTM, -1, 0).reshape(-1)
    order_Q = jnp.argsort(queue_Q, stable=True)
    count_E = jnp.zeros(experts + 1, jnp.int32).at[queue_Q].add(1)
    sorted_rank_Q = jnp.arange(queue_Q.size) - (jnp.cumsum(count_E) - count_E)[queue_Q[order_Q]]
    rank_Q = jnp.zeros_like(sorted_rank_Q).at[order_Q].set(sorted_rank_Q, unique_indices=True)
    rank_BTM = jnp.moveaxis(rank_Q.reshape(expert_BTM.shape[-1], *expert_BTM.shape[:-1]), 0, -1)
    return rank_BTM, count_E[:experts]
