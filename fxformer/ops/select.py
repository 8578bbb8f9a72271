"""DeepSeek sparse attention: a light indexer scores every key, each query attends to the best `k` of them.

DeepSeek-AI 2025 (V3.2), section 2.1.
"""

import jax
import jax.numpy as jnp
from jax import Array

from fxformer.jit import promoting
from fxformer.ops.scores import Scores, Terms, logits


@promoting()
def index_scores(q_BTIJ: Array, k_BSJ: Array, weight_BTI: Array) -> Array:
    """I_ts = (I J)^-1/2 sum_i w_ti relu(q_ti . k_s), float32 [B, T, S]; I heads share keys of width J. Eq. 1."""
    heads, width = q_BTIJ.shape[-2:]
    match_BTIS = jax.nn.relu(jnp.einsum("btij,bsj->btis", q_BTIJ, k_BSJ, preferred_element_type=jnp.float32))
    weight_BTI = weight_BTI.astype(jnp.float32) * (heads * width) ** -0.5
    return jnp.einsum("bti,btis->bts", weight_BTI, match_BTIS)


@promoting()
def top_k_mask(scores_BTS: Array, seen_BTS: Array, k: int, index_BS: Array | None = None) -> Array:
    """bool [B, T, S]: the `k` best keys of each query among those that are `seen`, all of them where they are fewer.

    Equal scores: the key of smaller index first; `index_BS` is the order of the keys, None the order they stand in.
    Raises ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"k={k} selects no key of {scores_BTS.shape[-1]}; use 1 or more")
    if k >= scores_BTS.shape[-1]:
        return seen_BTS
    index_BTS = jnp.arange(scores_BTS.shape[-1]) if index_BS is None else index_BS[:, None]
    index_BTS = jnp.broadcast_to(index_BTS, scores_BTS.shape)
    cost_BTS = jnp.where(seen_BTS, -jax.lax.stop_gradient(scores_BTS), jnp.inf)
    ranked = jax.lax.sort((cost_BTS, index_BTS), num_keys=2)
    last_cost_BT1, last_index_BT1 = (values[..., k - 1 : k] for values in ranked)
    tied_BTS = (cost_BTS == last_cost_BT1) & (index_BTS <= last_index_BT1)
    return seen_BTS & ((cost_BTS < last_cost_BT1) | tied_BTS)


def mean_weights(q_BTHK: Array, k_BSGK: Array, scores: Scores, terms: Terms) -> Array:
    """float32 [B, T, S]: attention weights averaged over the heads, what the indexer learns; rows sum to 1 or are 0."""
    q_BTGQK = q_BTHK.reshape(*q_BTHK.shape[:2], k_BSGK.shape[2], -1, q_BTHK.shape[-1])
    logits_BGQTS, seen_B11TS = logits(q_BTGQK, jnp.swapaxes(k_BSGK, 1, 2), scores, terms)
    return jnp.mean(jnp.where(seen_B11TS, jax.nn.softmax(logits_BGQTS, axis=-1), 0), axis=(1, 2))
