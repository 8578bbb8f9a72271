"""Autoregressive blank infilling: Du et al. 2022 (GLM), as its released code makes it.

Part A is the text with each span replaced by one mask token; Part B is the spans, written one after the other in
random order. Positions are pairs: in A (place in A, 0); in B (place of the span's mask in A, 1, 2, …).
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from fxformer.coords import PADDING, Coords
from train.objectives.objective import Batch, Objective, Specials, check_probability, compact, exclusive, rows
from train.objectives.tasks import GLM_10B, Mixture, Spans


@dataclass(frozen=True, slots=True, kw_only=True)
class BlankInfilling(Objective):
    """Each row is blanked by one task of `tasks`, pairs of (probability, task). Read with `Causal() | Prefix()`.

    T tokens give rows of T + 2 * (most spans): Part A (the prefix), Part B (predicted), padding.
    """

    tasks: Mixture = GLM_10B

    def __post_init__(self) -> None:
        for probability, _ in self.tasks:
            check_probability("probability", probability)
        total = sum(probability for probability, _ in self.tasks)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the probabilities of tasks sum to {total:g}; let them sum to 1")

    def capacity(self, length: int) -> int:
        """The most spans that `length` tokens can have."""
        return max(task.capacity(length) for _, task in self.tasks)

    @property
    def least(self) -> int:
        return 1

    def input_length(self, raw: int) -> int:
        return raw + 2 * self.capacity(raw)

    def __call__(self, tokens: ArrayLike, key: Array) -> Batch:
        tokens_BT = rows(tokens, self.least)
        for _, task in self.tasks:
            task.check(tokens_BT.shape[1])
        parts = jax.vmap(self._row)(tokens_BT, jax.random.split(key, tokens_BT.shape[0]))
        inputs_BN, targets_BN, source_BN, index_BN, pos_BN2 = parts
        coords = Coords(index=index_BN, segment=jnp.zeros_like(index_BN), prefix=source_BN, pos=pos_BN2)
        weights_BN = (~source_BN & (index_BN >= 0)).astype(jnp.float32)
        return Batch(inputs_BN, targets_BN, weights_BN, coords)

    def _row(self, tokens_T: Array, key: Array) -> "Row":
        choice_key, order_key, *keys = jax.random.split(key, 2 + len(self.tasks))
        slots = self.capacity(tokens_T.shape[0])
        each = [task(tokens_T, task_key) for (_, task), task_key in zip(self.tasks, keys, strict=True)]
        padded = [Spans(*(jnp.pad(leaf_C, (0, slots - leaf_C.size)) for leaf_C in spans)) for spans in each]
        probabilities = jnp.asarray([probability for probability, _ in self.tasks])
        chosen = jax.random.categorical(choice_key, jnp.log(probabilities))
        spans = jax.tree.map(lambda *leaves: jnp.stack(leaves)[chosen], *padded)
        mark = jnp.asarray([task.mark(self.specials) for _, task in self.tasks])[chosen]
        order_C = jax.random.permutation(order_key, slots)
        return blank(tokens_T, Spans(spans.starts[order_C], spans.lengths[order_C]), mark, self.specials)


class Row(NamedTuple):
    """One row: inputs, targets int32 [N]; source bool [N], Part A; order int32 [N]; pos int32 [N, 2]."""

    inputs: Array
    targets: Array
    source: Array
    order: Array
    pos: Array


@partial(jax.jit, static_argnames="specials")
def blank(tokens_T: Array, spans: Spans, mark: ArrayLike, specials: Specials) -> Row:
    """Part A with `mark` for each span, then Part B: [sop] and the tokens of each span, in the order of the slots.

    The targets of Part B are the tokens of the span and [eop]; rows have N = T + 2 C places.
    """
    length, slots = tokens_T.shape[0], spans.starts.shape[0]
    place_T, place_N = jnp.arange(length), jnp.arange(length + 2 * slots)
    from_start_CT = place_T - spans.starts[:, None]
    first_T = jnp.any((from_start_CT == 0) & (spans.lengths[:, None] > 0), axis=0)
    kept_T = ~jnp.any((from_start_CT > 0) & (from_start_CT < spans.lengths[:, None]), axis=0)
    source_N = compact(jnp.where(first_T, mark, tokens_T), kept_T, place_N.size, specials.pad)
    size = jnp.sum(kept_T)

    written_C = jnp.where(spans.lengths > 0, spans.lengths + 1, 0)
    end = size + jnp.sum(written_C)
    slot_N = jnp.searchsorted(size + jnp.cumsum(written_C), place_N, side="right").clip(0, slots - 1)
    step_N = place_N - (size + exclusive(written_C))[slot_N]
    token_N = spans.starts[slot_N] + step_N
    in_a_N, in_b_N = place_N < size, (place_N >= size) & (place_N < end)
    written_N = jnp.where(step_N == 0, specials.sop, tokens_T[(token_N - 1).clip(0, length - 1)])
    ahead_N = jnp.where(step_N == spans.lengths[slot_N], specials.eop, tokens_T[token_N.clip(0, length - 1)])
    mask_C = (jnp.cumsum(kept_T) - 1)[spans.starts.clip(0, length - 1)]
    pos_N2 = jnp.stack(
        [jnp.where(in_a_N, place_N, jnp.where(in_b_N, mask_C[slot_N], 0)), jnp.where(in_b_N, step_N + 1, 0)], axis=-1
    )
    return Row(
        inputs=jnp.where(in_b_N, written_N, source_N),
        targets=jnp.where(in_b_N, ahead_N, specials.pad),
        source=in_a_N,
        order=jnp.where(place_N < end, place_N, PADDING),
        pos=pos_N2,
    )
