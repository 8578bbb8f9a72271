"""LSH attention: softmax over the keys whose hash collides with the query's. Kitaev et al. 2020 (Reformer).

An approximation: a query never sees the keys that every round of hashing puts elsewhere, and T x 2 chunk x rounds
logits stand for T x T. It is the contrast that is often confused with FlashAttention, which sorts and hashes nothing:
that is exact attention, computed in tiles (`attend.blockwise`).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from fxformer.coords import PADDING
from fxformer.jit import promoting
from fxformer.ops.attend import divisors
from fxformer.ops.norm import l2

SELF = 1e5  # subtracted from a query's logit with itself; appendix A


@promoting()
def lsh_attend(qk_BTHK: Array, v_BTHU: Array, key: Array, *, buckets: int, rounds: int, chunk: int) -> Array:
    """Causal attention of shared queries and keys, logits q k / |k|, over what at least one round of hashing finds.

    In each round tokens are sorted by bucket, by index within a bucket, and cut into chunks; a query sees the keys of
    its bucket in its own chunk and in the one before, itself only where nothing else is in sight. Rounds are combined
    by their log-sum-exp; a key that n rounds find counts 1 / n in each, so the weights are the softmax over the union.
    Section 2 and appendix A. The logits have no 1 / sqrt(K), as in the released code: the keys' length is one.

    The random rotations are drawn from `key`, one for each round and head. Returns [B, T, H, U] in the dtype of
    `v_BTHU`. Raises ValueError where the buckets, rounds or chunks do not fit.
    """
    length = qk_BTHK.shape[1]
    if chunk < 1 or length % chunk:
        raise ValueError(f"chunk={chunk} does not divide {length} tokens; use {divisors(length)}")
    bucket_BHXT = lsh_buckets(qk_BTHK, key, buckets=buckets, rounds=rounds)
    of_heads = jax.vmap(partial(_attend_head, chunk=chunk), in_axes=(1, 1, 0), out_axes=1)
    return jax.vmap(of_heads)(qk_BTHK, v_BTHU, bucket_BHXT)


@promoting()
def lsh_buckets(x_BTHK: Array, key: Array, *, buckets: int, rounds: int) -> Array:
    """int [B, H, rounds, T]: argmax([x R; -x R]) with R [K, buckets / 2] normal, one for each round and head.

    Vectors of near directions likely share a bucket, whatever their lengths. Andoni et al. 2015; Kitaev et al. 2020,
    section 2. Raises ValueError unless buckets are 1 or even, and rounds 1 or more.
    """
    if buckets != 1 and (buckets < 1 or buckets % 2):
        raise ValueError(f"buckets={buckets} are not pairs of opposite directions; use 1, or an even number")
    if rounds < 1:
        raise ValueError(f"rounds={rounds} hash nothing; use 1 or more")
    heads, width = x_BTHK.shape[2:]
    rotation_XHKC = jax.random.normal(key, (rounds, heads, width, (buckets + 1) // 2))
    turned_BHXTC = jnp.einsum("bthk,xhkc->bhxtc", x_BTHK.astype(jnp.float32), rotation_XHKC)
    sides_BHXTC = jnp.concatenate([turned_BHXTC, -turned_BHXTC], axis=-1)
    return jnp.argmax(sides_BHXTC[..., :buckets], axis=-1)


def _attend_head(qk_TK: Array, v_TU: Array, bucket_XT: Array, *, chunk: int) -> Array:
    """Every round of one head, combined: the sum over rounds of exp(z_round - z) y_round, z their log-sum-exp."""
    q_TK, v_f32 = qk_TK.astype(jnp.float32), v_TU.astype(jnp.float32)
    k_TK = l2(q_TK, 1e-6)
    order_XT = jnp.argsort(bucket_XT, axis=-1, stable=True)
    place_XT = jnp.argsort(order_XT, axis=-1)

    def one_round(bucket_T: Array, order_T: Array, place_T: Array) -> tuple[Array, Array]:
        own_NC = order_T.reshape(-1, chunk)
        before_NC = jnp.roll(own_NC, 1, axis=0).at[0].set(PADDING)
        seen_NS = jnp.concatenate([before_NC, own_NC], axis=-1)
        q_index, k_index = own_NC[:, :, None], seen_NS[:, None, :]
        found_NCS = _found(bucket_XT, place_XT // chunk, q_index, k_index)
        logits_NCS = jnp.einsum("nck,nsk->ncs", q_TK[own_NC], k_TK[seen_NS])
        logits_NCS = logits_NCS - jnp.log(jnp.maximum(found_NCS, 1)) - SELF * (q_index == k_index)
        visible_NCS = (bucket_T[q_index] == bucket_T[k_index]) & (k_index <= q_index) & (k_index >= 0)
        logits_NCS = jnp.where(visible_NCS, logits_NCS, jnp.finfo(jnp.float32).min)
        y_NCU = jnp.einsum("ncs,nsu->ncu", jax.nn.softmax(logits_NCS, axis=-1), v_f32[seen_NS])
        logsumexp_NC = jax.nn.logsumexp(logits_NCS, axis=-1)
        return y_NCU.reshape(v_TU.shape)[place_T], logsumexp_NC.reshape(-1)[place_T]

    y_XTU, logsumexp_XT = jax.vmap(one_round)(bucket_XT, order_XT, place_XT)
    share_XT = jax.nn.softmax(logsumexp_XT, axis=0)
    return jnp.einsum("xt,xtu->tu", share_XT, y_XTU).astype(v_TU.dtype)


def _found(bucket_XT: Array, chunk_XT: Array, q_index: Array, k_index: Array) -> Array:
    """In how many rounds the key is in the query's bucket, and in its chunk or the one before."""
    back = chunk_XT[:, q_index] - chunk_XT[:, k_index]
    return jnp.sum((bucket_XT[:, q_index] == bucket_XT[:, k_index]) & (back >= 0) & (back <= 1), axis=0)
