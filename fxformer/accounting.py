"""Parameters, FLOPs and memory in closed form, from the Spec."""

import math
from collections.abc import Iterator
from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fxformer.block import Block
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Free, Tied
from fxformer.model import Transformer, abstract_params


@lru_cache(maxsize=256)
def count(spec: Transformer) -> int:
    """Exact number of parameters, from shapes alone: no memory, no time."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.meta.unbox(abstract_params(spec))))


@lru_cache(maxsize=256)
def flops(spec: Transformer, length: int, *, causal: bool = False) -> float:
    """FLOPs of the forward pass for one token of a sequence of `length`; a training step takes three times as many.

    Two for each weight of a matrix product, and the attention's products with all keys of the sequence. `causal`
    counts only the keys that a causal query sees, (length + 1) / 2 on average, as a kernel that skips the others does.
    A window sees at most its size.
    """
    leaves = jax.tree_util.tree_leaves_with_path(nn.meta.unbox(abstract_params(spec)))
    weights = sum(math.prod(leaf.shape) for path, leaf in leaves if path[-1].key == "weight")
    attention = sum(ATTENTION_FLOPS[type(b.attention)](b.attention, _keys(b, length, causal)) for b in blocks(spec))
    return 2.0 * weights + HEAD_FLOPS[type(spec.head)](spec) + attention


def cache_bytes(spec: Transformer, dtype: DTypeLike = jnp.bfloat16) -> int:
    """Bytes that one more token takes in the cache of one row, while no window is full."""
    elements = sum(math.prod(shape) for block in blocks(spec) for shape in block.attention.records.values())
    return elements * jnp.dtype(dtype).itemsize


def training_bytes(spec: Transformer) -> int:
    """Bytes of mixed-precision training with Adam, 16 a parameter: 2 + 2 for weights and gradients, 12 for the copy in
    float32 and two moments. Rajbhandari et al. 2020, section 3.1."""
    return 16 * count(spec)


def blocks(spec: Transformer) -> Iterator[Block]:
    """Every block of the stack, in order."""
    for group in spec.stack.groups:
        yield from group.blocks * group.n


def _gqa(attention: GQA, keys: float) -> float:
    """Products of queries with keys, and of weights with values."""
    return 2 * 2 * attention.heads * attention.key_width * keys


ATTENTION_FLOPS = {GQA: _gqa}
HEAD_FLOPS = {Tied: lambda spec: 2.0 * spec.embed.vocab * spec.embed.width, Free: lambda spec: 0.0}


def _keys(block: Block, length: int, causal: bool) -> float:
    keys = (length + 1) / 2 if causal else length
    reach = block.attention.mask.reach
    return keys if reach is None else min(keys, reach)
