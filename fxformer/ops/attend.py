"""Attention kernels: same arguments, same answer, different memory.

softmax(scale q k^T + bias) v over the keys that the mask allows; a query that may see nothing gets zeros, forward
and backward. Vaswani et al. 2017, section 3.2.1. A new kernel is one function and one line in KERNELS.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Protocol

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from fxformer.coords import PADDING, Coords, check_rows, plain
from fxformer.fields import Number, Positive, Rate, checked
from fxformer.jit import promoting
from fxformer.lookup import nearest
from fxformer.ops.bias import LogitBias
from fxformer.ops.mask import Causal, Mask
from fxformer.ops.scores import Scores, Terms, biased, logits, mixed, seen_of
from fxformer.ops.splash import on_tpu, splash, splash_pays, unsplashed

BLOCK = 256  # keys looked at together by the blockwise kernel
FEW = 64  # where fewer queries than these look through a cache, as many keys: what is copied of it stays near
NAIVE_KEYS = 1024  # up to this many keys the naive kernel is the default where no fused one is
CUDNN_WIDTH = 128  # the widest keys that cuDNN takes on every GPU it knows


def naive(q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array, scores: Scores, terms: Terms) -> tuple[Array, Array]:
    """The formula as written; holds the whole T x S table of weights."""
    logits_BGQTS, seen_B11TS = logits(q_BTGQK, k_BGSK, scores, terms)
    weights_BGQTS = jnp.where(seen_B11TS, jax.nn.softmax(logits_BGQTS, axis=-1), 0)
    if terms.key_data is not None:
        seen = k_BGSK.shape[2]
        size = min(BLOCK, seen)
        keep = [
            _keep(terms.key_data, scores, i, (*weights_BGQTS.shape[:-1], size)) for i in range(math.ceil(seen / size))
        ]
        weights_BGQTS = weights_BGQTS * jnp.concatenate(keep, axis=-1)[..., :seen]
    weights_BGQTS = mixed(weights_BGQTS, terms.mix_weights_OH)
    y_BTGQU = jnp.einsum("bgqts,bgsu->btgqu", weights_BGQTS.astype(v_BGSU.dtype), v_BGSU)
    return y_BTGQU, jax.nn.logsumexp(logits_BGQTS, axis=-1)


def blockwise(q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array, scores: Scores, terms: Terms) -> tuple[Array, Array]:
    """Exact attention by online softmax over blocks of keys: memory grows with T, not with T x S.

    Only the log-sum-exp of each row is kept for the backward pass, which computes the weights again. Where queries are
    fewer than keys, as in a cache, blocks behind the last key that is no padding are not read. Heads that talk need
    their whole rows at once: then the blocks are of queries. Raises ValueError where `unblocked` says why.
    Milakov & Gimelshein 2018; Dao et al. 2022, algorithms 1 and 4.
    """
    if (why := unblocked(terms)) is not None:
        raise ValueError(f"kernel='blockwise' {why}; use kernel='naive'")
    if terms.mixes:
        return _by_queries(q_BTGQK, k_BGSK, v_BGSU, scores, terms)
    return _blockwise(scores, q_BTGQK, k_BGSK, v_BGSU, terms)


def unblocked(terms: Terms) -> str | None:
    """What keeps the blockwise kernel from computing this, in words; None where it can."""
    if terms.mixes and terms.key_data is not None:
        return "drops no weights of heads that are mixed, and a dropout key is given"
    return None


def _by_queries(q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array, scores: Scores, terms: Terms) -> tuple[Array, Array]:
    """`naive`, a block of queries at a time, whose weights are computed again in the backward pass."""
    tokens = q_BTGQK.shape[1]
    size = min(BLOCK, tokens)

    @jax.checkpoint
    def step(block: tuple[Array, Coords, Array | None]) -> tuple[Array, Array]:
        queries, q, selected_BTS = block
        return naive(queries, k_BGSK, v_BGSU, scores, replace(terms, q=q, selected_BTS=selected_BTS))

    q = replace(jax.tree.map(partial(_cut, size=size, axis=1), terms.q), index=_cut(terms.q.index, size, 1, PADDING))
    selected = None if terms.selected_BTS is None else _cut(terms.selected_BTS, size, 1)
    y_blocks, logsumexp_blocks = jax.lax.map(step, (_cut(q_BTGQK, size, 1), q, selected))
    return _joined(y_blocks, 1, tokens), _joined(logsumexp_blocks, 3, tokens)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise(scores: Scores, q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array, terms: Terms) -> tuple[Array, Array]:
    return _blockwise_forward(scores, q_BTGQK, k_BGSK, v_BGSU, terms)[0]


def _blockwise_forward(
    scores: Scores, q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array, terms: Terms
) -> tuple[tuple[Array, Array], tuple]:
    seen = k_BGSK.shape[2]
    batch, tokens, groups, queries, _ = q_BTGQK.shape
    size = min(BLOCK, seen)
    if tokens < min(FEW, seen) and terms.key_data is None:  # dropout is drawn for blocks of the other size
        size = min(size, FEW)

    def step(i, carry):
        peak_BGQT, sum_BGQT, y_BGQTU = carry
        k_block, v_block = (_block(x, i, size, axis=2) for x in (k_BGSK, v_BGSU))
        selected_BTS = None if terms.selected_BTS is None else _block(terms.selected_BTS, i, size, axis=2)
        k = jax.tree.map(partial(_block, i=i, size=size, axis=1), terms.k)
        again = jnp.maximum((i + 1) * size - seen, 0)  # the last block begins with keys of the one before it
        k = replace(k, index=jnp.where(jnp.arange(size) < again, PADDING, k.index))
        logits_BGQTS, seen_B11TS = logits(q_BTGQK, k_block, scores, replace(terms, k=k, selected_BTS=selected_BTS))
        new_peak_BGQT = jnp.maximum(peak_BGQT, jnp.max(logits_BGQTS, axis=-1))
        weights_BGQTS = jnp.where(seen_B11TS, jnp.exp(logits_BGQTS - new_peak_BGQT[..., None]), 0)
        shrink_BGQT = jnp.exp(peak_BGQT - new_peak_BGQT)
        sum_BGQT = shrink_BGQT * sum_BGQT + jnp.sum(weights_BGQTS, axis=-1)
        if terms.key_data is not None:
            keep_BGQTS = _keep(terms.key_data, scores, i, weights_BGQTS.shape)
            weights_BGQTS = weights_BGQTS * jnp.roll(keep_BGQTS, again, axis=-1)
        seen_v_BGQTU = jnp.einsum("bgqts,bgsu->bgqtu", weights_BGQTS, v_block, preferred_element_type=jnp.float32)
        return new_peak_BGQT, sum_BGQT, shrink_BGQT[..., None] * y_BGQTU + seen_v_BGQTU

    rows = (batch, groups, queries, tokens)
    start = (
        jnp.full(rows, jnp.finfo(jnp.float32).min),
        jnp.zeros(rows, jnp.float32),
        jnp.zeros((*rows, v_BGSU.shape[-1]), jnp.float32),
    )
    count: Array | int = math.ceil(seen / size)
    if tokens < seen:  # otherwise the count stays a number, and the loop one that can be differentiated again
        used_S = jnp.any(terms.k.index >= 0, axis=0)
        count = jnp.max(jnp.where(used_S, jnp.arange(seen) // size + 1, 0))
    peak_BGQT, sum_BGQT, y_BGQTU = jax.lax.fori_loop(0, count, step, start)
    sum_BGQT = jnp.where(sum_BGQT == 0, 1, sum_BGQT)
    y_BTGQU = jnp.moveaxis(y_BGQTU / sum_BGQT[..., None], 3, 1).astype(v_BGSU.dtype)
    logsumexp_BGQT = peak_BGQT + jnp.log(sum_BGQT)
    return (y_BTGQU, logsumexp_BGQT), (q_BTGQK, k_BGSK, v_BGSU, terms, y_BTGQU, logsumexp_BGQT)


@promoting()
def _blockwise_backward(scores: Scores, saved: tuple, cotangents: tuple[Array, Array]) -> tuple:
    q_BTGQK, k_BGSK, v_BGSU, terms, y_BTGQU, logsumexp_BGQT = saved
    dy_BTGQU, dlogsumexp_BGQT = cotangents
    dy_BGQTU = jnp.moveaxis(dy_BTGQU.astype(jnp.float32), 1, 3)
    inner_BGQT = jnp.sum(dy_BGQTU * jnp.moveaxis(y_BTGQU.astype(jnp.float32), 1, 3), axis=-1) - dlogsumexp_BGQT

    def step(carry, block):
        i, k_block, v_block, k, selected_BTS = block

        def block_logits(q_BTGQK, k_block, bias):
            block_terms = replace(terms, k=k, selected_BTS=selected_BTS, bias=bias)
            return logits(q_BTGQK, k_block, scores, block_terms)

        logits_BGQTS, pull, seen_B11TS = jax.vjp(block_logits, q_BTGQK, k_block, terms.bias, has_aux=True)
        weights_BGQTS = jnp.where(seen_B11TS, jnp.exp(logits_BGQTS - logsumexp_BGQT[..., None]), 0)
        dweights_BGQTS = jnp.einsum("bgqtu,bgsu->bgqts", dy_BGQTU, v_block.astype(jnp.float32))
        kept_BGQTS = weights_BGQTS
        if terms.key_data is not None:
            keep_BGQTS = _keep(terms.key_data, scores, i, weights_BGQTS.shape)
            kept_BGQTS, dweights_BGQTS = weights_BGQTS * keep_BGQTS, dweights_BGQTS * keep_BGQTS
        dv_block = jnp.einsum("bgqts,bgqtu->bgsu", kept_BGQTS, dy_BGQTU)
        dq, dk_block, dbias = pull(weights_BGQTS * (dweights_BGQTS - inner_BGQT[..., None]))
        return jax.tree.map(jnp.add, carry, (dq, dbias)), (dk_block, dv_block.astype(v_block.dtype))

    start = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (q_BTGQK, terms.bias))
    sums, (dk_blocks, dv_blocks) = jax.lax.scan(step, start, _blocks(k_BGSK, v_BGSU, terms))
    dq, dbias = jax.tree.map(lambda total, x: total.astype(x.dtype), sums, (q_BTGQK, terms.bias))
    seen = k_BGSK.shape[2]
    dterms = Terms(q=None, k=None, bias=dbias)  # type: ignore[arg-type] # None is the gradient of integers
    return dq, _joined(dk_blocks, 2, seen), _joined(dv_blocks, 2, seen), dterms


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)


def _keep(key_data: Array, scores: Scores, block: Array | int, shape: tuple[int, ...]) -> Array:
    """float32 of `shape`: what dropout multiplies the weights of a block of keys by; the same for every kernel."""
    key = jax.random.fold_in(jax.random.wrap_key_data(key_data), block)
    return jax.random.bernoulli(key, 1 - scores.dropout, shape).astype(jnp.float32) / (1 - scores.dropout)


def _block(x: Array, i: Array | int, size: int, axis: int) -> Array:
    """Block i of an axis; the last one is as long as the others and begins earlier."""
    return jax.lax.dynamic_slice_in_dim(x, i * size, size, axis)


Block = tuple[Array, Array, Array, Coords, Array | None]


def _blocks(k_BGSK: Array, v_BGSU: Array, terms: Terms) -> Block:
    """Numbers, keys, values, coordinates and selection along a leading axis of blocks; padding fills the last one."""
    size = min(BLOCK, k_BGSK.shape[2])
    selected = None if terms.selected_BTS is None else _cut(terms.selected_BTS, size, 2)
    k = replace(jax.tree.map(partial(_cut, size=size, axis=1), terms.k), index=_cut(terms.k.index, size, 1, PADDING))
    keys, values = _cut(k_BGSK, size, 2), _cut(v_BGSU, size, 2)
    return jnp.arange(keys.shape[0]), keys, values, k, selected


def _cut(x: Array, size: int, axis: int, fill: int = 0) -> Array:
    """Blocks of an axis, along a leading axis of their own; `fill` ends the last one."""
    count = math.ceil(x.shape[axis] / size)
    width = [(0, count * size - x.shape[axis] if i == axis else 0) for i in range(x.ndim)]
    filled = jnp.pad(x, width, constant_values=fill)
    return jnp.moveaxis(filled.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :]), axis, 0)


def _joined(blocks: Array, axis: int, length: int) -> Array:
    """The axis whose blocks `_cut` made, without what was filled in."""
    joined = jnp.moveaxis(blocks, 0, axis)
    joined = joined.reshape(*joined.shape[:axis], -1, *joined.shape[axis + 2 :])
    return jax.lax.slice_in_dim(joined, 0, length, axis=axis)


def fused(q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array, scores: Scores, terms: Terms) -> tuple[Array, None]:
    """The platform's own attention: cuDNN's where it takes these arrays (`on_cudnn`), XLA's elsewhere.

    Plain causal attention skips what it does not see; any other mask is a table of T x S bits. Nothing but the
    arguments is kept for the backward pass. Raises ValueError where `unfused` says what it cannot compute.
    """
    if (why := unfused(scores, terms)) is not None:
        raise ValueError(f"kernel='fused' {why}; use kernel='blockwise'")
    return _fused(scores, on_cudnn(q_BTGQK, k_BGSK, v_BGSU), q_BTGQK, k_BGSK, v_BGSU, terms), None


@partial(jax.checkpoint, static_argnums=(0, 1))
def _fused(scores: Scores, cudnn: bool, q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array, terms: Terms) -> Array:
    key_width, value_width = q_BTGQK.shape[-1], v_BGSU.shape[-1]
    q_BTHK = q_BTGQK.reshape(*q_BTGQK.shape[:2], -1, key_width)
    rows = q_BTHK, jnp.swapaxes(k_BGSK, 1, 2), jnp.swapaxes(v_BGSU, 1, 2)
    arrays = [_widened(x, max(key_width, value_width)) for x in rows]
    scale = key_width**-0.5 if scores.scale is None else scores.scale
    look = partial(jax.nn.dot_product_attention, scale=scale, implementation="cudnn" if cudnn else "xla")
    seen_BTS = seen_of(scores, terms)
    bias_BHTS = None if terms.bias is None else biased(terms.bias, terms).astype(q_BTGQK.dtype)

    def masked(q_BTHK: Array, k_BSGK: Array, v_BSGU: Array) -> Array:
        y_BTHU = look(q_BTHK, k_BSGK, v_BSGU, bias=bias_BHTS, mask=seen_BTS[:, None])
        return jnp.where(jnp.any(seen_BTS, axis=-1)[..., None, None], y_BTHU, 0)

    if bias_BHTS is None:
        causal_TS = jnp.tri(seen_BTS.shape[1], seen_BTS.shape[2], dtype=bool)
        y_BTHU = jax.lax.cond(jnp.all(seen_BTS == causal_TS), partial(look, is_causal=True), masked, *arrays)
    else:
        y_BTHU = masked(*arrays)
    return y_BTHU[..., :value_width].reshape(*q_BTGQK.shape[:-1], value_width)


def _widened(x: Array, width: int) -> Array:
    """The last axis filled up with zeros."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])


def unfused(scores: Scores, terms: Terms) -> str | None:
    """What keeps the fused kernel from computing this, in words; None where it can."""
    if scores.softcap is not None:
        return f"bounds no logits, and softcap={scores.softcap}"
    if terms.key_data is not None:
        return "drops no weights, and a dropout key is given"
    if terms.mixes:
        return "mixes no heads, and a map between them is given"
    return None


def on_cudnn(q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array) -> bool:
    """Whether cuDNN computes this: an NVIDIA GPU, half precision, even lengths, widths that are multiples of 8."""
    backend = jax.extend.backend.get_backend()
    tokens, seen = q_BTGQK.shape[1], k_BGSK.shape[2]
    width = max(q_BTGQK.shape[-1], v_BGSU.shape[-1])
    return (
        "cuda" in backend.platform_version
        and q_BTGQK.dtype in (jnp.bfloat16, jnp.float16)
        and tokens % 2 == seen % 2 == width % 8 == 0
        and width <= CUDNN_WIDTH
    )


class Kernel(Protocol):
    """What every attention kernel is: (y [B, T, G, Q, U], the log-sum-exp of each row's logits [B, G, Q, T]).

    None stands for a log-sum-exp that the kernel does not give.
    """

    def __call__(
        self, q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array, scores: Scores, terms: Terms
    ) -> tuple[Array, Array | None]: ...


KERNELS: dict[str, Kernel] = {"naive": naive, "blockwise": blockwise, "fused": fused, "splash": splash}


def default_kernel(
    q_BTGQK: Array, k_BGSK: Array, v_BGSU: Array, scores: Scores, terms: Terms, sinks: bool = False
) -> str:
    """Where a TPU's or a GPU's own kernel computes it that one, else "naive" up to NAIVE_KEYS keys, and "blockwise".

    "splash" on a TPU where it pays (`splash_pays`), "fused" where cuDNN takes these arrays.
    """
    if on_tpu() and splash_pays(q_BTGQK, k_BGSK, v_BGSU) and not sinks and unsplashed(terms) is None:
        return "splash"
    if on_cudnn(q_BTGQK, k_BGSK, v_BGSU) and not sinks and unfused(scores, terms) is None:
        return "fused"
    return "naive" if k_BGSK.shape[2] <= NAIVE_KEYS or unblocked(terms) is not None else "blockwise"


@checked
@promoting()
def attend(
    q_BTHK: Array,
    k_BSGK: Array,
    v_BSGU: Array,
    *,
    mask: Mask = Causal(),
    q: Coords | None = None,
    k: Coords | None = None,
    bias: LogitBias | None = None,
    scale: Number | None = None,
    softcap: Positive | None = None,
    sink_H: Array | None = None,
    selected_BTS: Array | None = None,
    mix_logits_HO: Array | None = None,
    mix_weights_OH: Array | None = None,
    dropout: Rate = 0.0,
    key: Array | None = None,
    kernel: str | None = None,
    cut: PartitionSpec | None = None,
) -> Array:
    """Attention of T queries in H heads over S keys in G heads, each serving H / G consecutive query heads.

    q, k: coordinates; None counts tokens from 0. scale: None is 1 / sqrt(K). softcap: bound on the logits.
    sink_H: a logit for each head that takes weight and gives nothing (gpt-oss).
    selected_BTS: bool, the keys that may be seen among those the mask allows; None is all of them.
    mix_logits_HO, mix_weights_OH: maps between heads before and after the softmax, None for none (talking heads).
    dropout: share of the weights that are zeroed where a `key` is given.
    kernel: a name in KERNELS; None is what `default_kernel` says.
    cut: which axes of the mesh that is set cut [B, T, H]; only kernels that no compiler can cut ask.
    Returns [B, T, H, U] in the dtype of `v_BSGU`. Raises ValueError where heads or coordinates do not fit, or where the
    kernel does not compute what is asked.
    """
    _check_shapes(q_BTHK, k_BSGK, v_BSGU, sink_H, selected_BTS)
    _check_mixing(q_BTHK.shape[2], mix_logits_HO, mix_weights_OH, sink_H)
    batch, tokens, heads, key_width = q_BTHK.shape
    seen, kv_heads = k_BSGK.shape[1:3]
    check_heads(heads, kv_heads)
    q = plain(tokens) if q is None else q
    k = plain(seen) if k is None else k
    check_rows(q, batch, tokens)
    check_rows(k, batch, seen)
    q_BTGQK = q_BTHK.reshape(batch, tokens, kv_heads, heads // kv_heads, key_width)
    cut = PartitionSpec() if cut is None else cut
    scores = Scores(mask=mask, scale=scale, softcap=softcap, dropout=dropout, cut=cut)
    key_data = None if key is None or dropout == 0 else jax.random.key_data(key)
    terms = Terms(
        q=q, k=k, bias=bias, selected_BTS=selected_BTS, mix_logits_HO=mix_logits_HO, mix_weights_OH=mix_weights_OH,
        key_data=key_data,
    )  # fmt: skip
    k_BGSK, v_BGSU = (jnp.swapaxes(x, 1, 2) for x in (k_BSGK, v_BSGU))  # as a cache keeps them
    if kernel is None:
        kernel = default_kernel(q_BTGQK, k_BGSK, v_BGSU, scores, terms, sinks=sink_H is not None)
    y_BTGQU, logsumexp_BGQT = nearest(KERNELS, kernel, "kernel")(q_BTGQK, k_BGSK, v_BGSU, scores, terms)
    if sink_H is not None:
        if logsumexp_BGQT is None:
            raise ValueError(f"kernel={kernel!r} gives no log-sum-exp, which sinks need; use kernel='blockwise'")
        sink_GQ1 = sink_H.astype(jnp.float32).reshape(kv_heads, heads // kv_heads, 1)
        left_BTGQ = jnp.moveaxis(jax.nn.sigmoid(logsumexp_BGQT - sink_GQ1), 3, 1)
        y_BTGQU = y_BTGQU * left_BTGQ[..., None].astype(y_BTGQU.dtype)
    return y_BTGQU.reshape(batch, tokens, heads, v_BSGU.shape[-1])


def _check_shapes(q: Array, k: Array, v: Array, sinks: Array | None, selected: Array | None) -> None:
    """Raise ValueError unless they are arrays whose axes that share a letter are as long."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Array | np.ndarray):
            raise ValueError(f"{name} is a {type(x).__name__}; give arrays [batch, tokens, heads, channels]")
    fits = q.ndim == k.ndim == v.ndim == 4 and q.shape[::3] == k.shape[::3] and k.shape[:3] == v.shape[:3]
    if not fits:
        shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in (("q", q), ("k", k), ("v", v)))
        raise ValueError(f"{shapes} do not fit; give q [B, T, H, K], k [B, S, G, K] and v [B, S, G, U]")
    if sinks is not None and sinks.shape != q.shape[2:3]:
        raise ValueError(f"sinks are {list(sinks.shape)}; give one for each of {q.shape[2]} heads")
    if selected is not None and (selected.dtype != bool or selected.shape[1:] != (q.shape[1], k.shape[1])):
        pairs = [q.shape[0], q.shape[1], k.shape[1]]
        raise ValueError(f"selected_BTS is {selected.dtype} {list(selected.shape)}; give booleans {pairs}")


def _check_mixing(heads: int, before: Array | None, after: Array | None, sinks: Array | None) -> None:
    """Raise ValueError unless maps between heads are from all to all of them, and no weight is still to be taken."""
    for name, mix in (("mix_logits_HO", before), ("mix_weights_OH", after)):
        if mix is not None and mix.shape != (heads, heads):
            raise ValueError(f"{name} is {list(mix.shape)}; give [{heads}, {heads}], from every head to every head")
    if after is not None and sinks is not None:
        raise ValueError("sinks take weight from each head, which mix_weights_OH has mixed by then; give one of them")


def check_heads(heads: int, kv_heads: int) -> None:
    """Raise ValueError unless query heads can be shared out evenly over key heads."""
    if heads < 1:
        raise ValueError(f"heads={heads} ask nothing; use 1 or more")
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"kv_heads={kv_heads} does not divide heads={heads}; use {divisors(heads)}")


def divisors(n: int) -> str:
    """What divides `n`, in words: "1, 2, 3 or 6"."""
    values = [str(d) for d in range(1, n + 1) if n % d == 0]
    return f"{', '.join(values[:-1])} or {values[-1]}" if len(values) > 1 else values[0]
