"""Parameters, FLOPs and memory, from the Spec.

FLOPs and cache are closed forms, one line in a table for each kind of layer; parameters are counted from shapes.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from fxformer.block import Block, BlockModule
from fxformer.coords import plain
from fxformer.fields import checked
from fxformer.layers.attention import GQA, MLA, AttentionSpec, Differential
from fxformer.layers.bias import BIASES
from fxformer.layers.context import Context, Memory
from fxformer.layers.embed import Embed, EmbedModule
from fxformer.layers.ffn import GLU, MLP, MoE
from fxformer.layers.head import HEADS, Bare, Labels, PoolerModule, Span, Tied, Transformed, Untied
from fxformer.layers.residual import PLACEMENTS, OwnParameters
from fxformer.model import Transformer
from fxformer.mtp import MTPModule
from fxformer.stack import Stack


@checked
def count(spec: Transformer) -> int:
    """Exact number of parameters, from shapes alone: of each part once, times how often it stands in the model."""
    return _count(spec)


@lru_cache(maxsize=256)
def _count(spec: Transformer) -> int:
    embed, coords = spec.embed, plain(LENGTH)
    tokens_BT = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
    x_BTD = jax.ShapeDtypeStruct((1, LENGTH, embed.width), jnp.float32)
    table_VD = jax.ShapeDtypeStruct((embed.vocab, embed.factor or embed.width), jnp.float32)
    total = _made(EmbedModule(embed), (tokens_BT,), (coords, x_BTD.dtype))
    total += _made(HEADS[type(spec.head)](spec.head), (x_BTD, table_VD))
    total += sum(_of_stack(stack, x_BTD) for stack in (spec.encoder, spec.stack) if stack is not None)
    if spec.pooler is not None:
        total += _made(PoolerModule(spec.pooler), (x_BTD,), (coords,))
    if spec.mtp is not None:
        total += _made(MTPModule(spec.mtp), (x_BTD, x_BTD), (Context(coords=coords), None))
    return total


LENGTH = 2  # tokens that parameters are counted with


def _of_stack(spec: Stack, x_BTD: jax.ShapeDtypeStruct) -> int:
    blocks = [(1 if group.tied else group.n, block) for group in spec.groups for block in group.blocks]
    bias = 0 if spec.bias is None else _made(BIASES[type(spec.bias)](spec.bias), ())
    memory = spec.memory_tokens * x_BTD.shape[-1]
    return bias + memory + sum(n * _of_block(block, x_BTD) for n, block in blocks) + _made(End(spec), (x_BTD,))


@lru_cache(maxsize=1024)
def _of_block(spec: Block, x_BTD: jax.ShapeDtypeStruct) -> int:
    return _made(Alone(spec), (x_BTD,))


def _made(module: nn.Module, arrays: tuple[jax.ShapeDtypeStruct, ...], rest: tuple[Any, ...] = ()) -> int:
    """How many parameters a module makes when it is called so; nothing is computed."""
    made = jax.eval_shape(lambda *arrays: module.init(jax.random.key(0), *arrays, *rest), *arrays)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.meta.unbox(made)))


class Alone(nn.Module):
    """A block outside of its stack; where it has cross-attention, that reads what goes in."""

    spec: Block

    @nn.compact
    def __call__(self, x_BTD: Array) -> None:
        context = Context(coords=plain(LENGTH), memory=Memory(x_BTD, plain(LENGTH)))
        stream = PLACEMENTS[self.spec.residual.placement].enter(x_BTD)
        BlockModule(self.spec, name="block")(stream, context, None)


class End(nn.Module):
    """What a stack does after its last block."""

    spec: Stack

    @nn.compact
    def __call__(self, x_BTD: Array) -> None:
        placement = PLACEMENTS[self.spec.placement]
        placement.leave(placement.enter(x_BTD), OwnParameters(self, self.spec.norm))


def flops(spec: Transformer, length: int, *, causal: bool = False) -> float:
    """FLOPs of the forward pass for one token, on average over a sequence of `length`; training takes three times that.

    2 for each weight of a matrix product that the token meets (of experts, those it is sent to), and for each key of
    each attention those of its comparison and of its value. Norms, softmax and activations are not counted. An encoder
    reads as many tokens. The two conventions of the field differ in the keys: all `length` of them, as a kernel that
    masks has (PaLM, Megatron), or with `causal` the (length + 1) / 2 up to the query, as one that skips has
    (FlashAttention). A window counts no more than its size. What memory tokens take is shared out over the sequence.
    """
    width = spec.embed.width
    total = 2.0 * HEAD_WEIGHTS[type(spec.head)](spec.head, spec.embed)
    total += 2.0 * width * (spec.embed.factor or 0)
    total += _stack_flops(spec.stack, width, length, causal)
    return total if spec.encoder is None else total + _stack_flops(spec.encoder, width, length, False)


def _stack_flops(spec: Stack, width: int, length: int, causal: bool) -> float:
    """Of each token of the text; memory tokens see each other where the mask is causal and only what is seen counts."""
    memory, total = spec.memory_tokens, 0.0
    for block in spec.blocks:
        keys = _keys(block.attention.mask.reach, length, causal)
        total += _block_flops(block, width, keys + memory, length)
        if memory:
            seen = memory if causal else keys + memory
            total += memory / length * _block_flops(block, width, seen, length)
    return total


def _block_flops(block: Block, width: int, keys: float, encoder_length: int) -> float:
    attention = _attention_flops(block.attention, width, keys)
    cross = 0.0 if block.cross is None else _attention_flops(block.cross, width, encoder_length)
    return attention + cross + 2 * FFN_WEIGHTS[type(block.ffn)](block.ffn, width)


def _attention_flops(spec: AttentionSpec, width: int, keys: float) -> float:
    return 2 * ATTENTION_WEIGHTS[type(spec)](spec, width) + KEY_FLOPS[type(spec)](spec) * keys


def cache_bytes(spec: Transformer, length: int = 1, *, encoder_length: int = 0, dtype: DTypeLike = jnp.bfloat16) -> int:
    """Bytes of the records of `length` tokens in one row of the cache: by default, what each token adds.

    A window keeps no more tokens than its size. encoder_length: tokens of an encoder whose keys and values are kept.
    """
    numbers = sum(
        _kept(block.attention.mask.reach, length) * _size(block.attention) + encoder_length * _size(block.cross)
        for block in spec.stack.blocks
    )
    return jnp.dtype(dtype).itemsize * numbers


def _size(spec: AttentionSpec | None) -> int:
    """Numbers in the record of one token."""
    return 0 if spec is None else sum(math.prod(sizes.values()) for sizes in spec.records.values())


def training_bytes(spec: Transformer) -> int:
    """Bytes of parameters, gradients and Adam's moments, activations aside: 16 a parameter.

    In float32 that is 4 each; in mixed precision 2 + 2, and 12 for a float32 copy and the moments.
    Rajbhandari et al. 2020, section 3.1.
    """
    return 16 * count(spec)


def inference_bytes(spec: Transformer, dtype: DTypeLike = jnp.bfloat16) -> int:
    """Bytes of the parameters alone, cast to `dtype`."""
    return jnp.dtype(dtype).itemsize * count(spec)


def _gqa_weights(spec: GQA, d: int) -> int:
    gates = {None: 0, "head": spec.heads, "channel": spec.heads * spec.key_width}
    return d * (2 * (spec.heads + spec.kv_heads) * spec.key_width + gates[spec.gate])


def _mla_weights(spec: MLA, d: int) -> int:
    source = d if spec.query_latent is None else spec.query_latent
    down = d * (spec.latent + spec.rope_width) + (0 if spec.query_latent is None else d * source)
    query = source * spec.heads * (spec.nope_width + spec.rope_width)
    up = spec.latent * spec.heads * (spec.nope_width + spec.value_width)
    index = spec.index
    asked = 0 if index is None else source * index.heads * index.width + d * (index.width + index.heads)
    return down + query + up + spec.heads * spec.value_width * d + asked


def _mla_key_flops(spec: MLA) -> int:
    asked = 0 if spec.index is None else 2 * spec.index.heads * spec.index.width
    return 2 * spec.heads * (spec.nope_width + spec.rope_width + spec.value_width) + asked


def _moe_weights(spec: MoE, d: int) -> int:
    """The router, as many experts as it chooses, and the shared one."""
    chosen = spec.router.k * FFN_WEIGHTS[type(spec.expert)](spec.expert, d)
    shared = 0 if spec.shared is None else FFN_WEIGHTS[type(spec.shared)](spec.shared, d)
    return d * spec.experts + chosen + shared


# Weights that multiply one token, of a layer in a stream of width d.
ATTENTION_WEIGHTS: dict[type, Callable[[Any, int], int]] = {
    GQA: _gqa_weights,
    MLA: _mla_weights,
    Differential: lambda spec, d: 4 * d * (spec.heads + spec.kv_heads) * spec.key_width,
}
FFN_WEIGHTS: dict[type, Callable[[Any, int], int]] = {
    MLP: lambda spec, d: 2 * d * spec.inner,
    GLU: lambda spec, d: 3 * d * spec.inner,
    MoE: _moe_weights,
}
HEAD_WEIGHTS: dict[type, Callable[[Any, Embed], int]] = {
    Tied: lambda spec, embed: embed.vocab * embed.width,
    Untied: lambda spec, embed: embed.vocab * embed.width,
    Transformed: lambda spec, embed: (embed.vocab + embed.width) * (embed.factor or embed.width),
    Bare: lambda spec, embed: 0,
    Labels: lambda spec, embed: embed.width * spec.labels,
    Span: lambda spec, embed: embed.width * 2,
}

# FLOPs of one query with one key: their product, that of the weight with the value, and the mixing of heads.
KEY_FLOPS: dict[type, Callable[[Any], int]] = {
    GQA: lambda spec: spec.heads * (4 * spec.key_width + 2 * spec.heads * (spec.mix_logits + spec.mix_weights)),
    MLA: _mla_key_flops,
    Differential: lambda spec: 2 * spec.heads * 2 * (spec.key_width + spec.value_width),  # both maps read the values
}


def _kept(reach: int | None, length: int) -> int:
    """The last of `length` tokens that a mask of this reach still lets be seen."""
    return length if reach is None else min(length, reach)


def _keys(reach: int | None, length: int, causal: bool) -> float:
    """Keys for each query, on average; a causal query t sees min(t, reach) of them, t = 1 … length."""
    kept = _kept(reach, length)
    return kept - causal * kept * (kept - 1) / (2 * length)
