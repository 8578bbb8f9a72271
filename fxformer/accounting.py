"""Parameters, FLOPs and memory, from the Spec.

FLOPs and cache are closed forms, one line in a table for each kind of layer; parameters are counted from shapes.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fxformer.block import Block
from fxformer.layers.attention import GQA
from fxformer.layers.ffn import GLU, MLP
from fxformer.model import Transformer, abstract_params


@lru_cache(maxsize=256)
def count(spec: Transformer) -> int:
    """Exact number of parameters, from shapes alone: no memory, no time."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.meta.unbox(abstract_params(spec))))


def flops(spec: Transformer, length: int, *, causal: bool = False) -> float:
    """FLOPs of the forward pass for one token, on average over a sequence of `length`; training takes three times that.

    2 for each weight of a matrix product, and 4 x heads x key width for each key of each attention. Norms, softmax and
    activations are not counted. The two conventions of the field differ in the keys: all `length` of them, as a kernel
    that masks has (PaLM, Megatron), or with `causal` the (length + 1) / 2 up to the query, as one that skips has
    (FlashAttention). A window counts no more than its size.
    """
    total = 2.0 * spec.embed.vocab * spec.embed.width
    for block in blocks(spec):
        attention, ffn = block.attention, block.ffn
        total += 2 * ATTENTION_WEIGHTS[type(attention)](attention, spec.embed.width)
        total += 2 * FFN_WEIGHTS[type(ffn)](ffn, spec.embed.width)
        total += KEY_FLOPS[type(attention)](attention) * _keys(attention.mask.reach, length, causal)
    return total


def cache_bytes(spec: Transformer, length: int = 1, *, dtype: DTypeLike = jnp.bfloat16) -> int:
    """Bytes of the records of `length` tokens in one row of the cache: by default, what each token adds.

    A window keeps no more tokens than its size.
    """
    itemsize = jnp.dtype(dtype).itemsize
    return sum(
        itemsize * _kept(block.attention.mask.reach, length) * math.prod(shape)
        for block in blocks(spec)
        for shape in block.attention.records.values()
    )


def training_bytes(spec: Transformer) -> int:
    """Bytes of parameters, gradients and Adam's moments, activations aside: 16 a parameter.

    In float32 that is 4 each; in mixed precision 2 + 2, and 12 for a float32 copy and the moments.
    Rajbhandari et al. 2020, section 3.1.
    """
    return 16 * count(spec)


def inference_bytes(spec: Transformer, dtype: DTypeLike = jnp.bfloat16) -> int:
    """Bytes of the parameters alone, cast to `dtype`."""
    return jnp.dtype(dtype).itemsize * count(spec)


def blocks(spec: Transformer) -> Iterator[Block]:
    """Every block of the stack, in order."""
    for group in spec.stack.groups:
        yield from group.blocks * group.n


# Weights that multiply one token, of a layer in a stream of width d.
ATTENTION_WEIGHTS = {GQA: lambda spec, d: 2 * d * (spec.heads + spec.kv_heads) * spec.key_width}
FFN_WEIGHTS = {MLP: lambda spec, d: 2 * d * spec.inner, GLU: lambda spec, d: 3 * d * spec.inner}

# FLOPs of one query with one key: their product, and that of the weight with the value.
KEY_FLOPS = {GQA: lambda spec: 4 * spec.heads * spec.key_width}


def _kept(reach: int | None, length: int) -> int:
    """The last of `length` tokens that a mask of this reach still lets be seen."""
    return length if reach is None else min(length, reach)


def _keys(reach: int | None, length: int, causal: bool) -> float:
    """Keys for each query, on average; a causal query t sees min(t, reach) of them, t = 1 … length."""
    kept = _kept(reach, length)
    return kept - causal * kept * (kept - 1) / (2 * length)
