"""T5: encoder and decoder, pre-RMSNorm without any bias, and position as a learned bias on the logits.

Raffel et al. 2020, section 2.1; google-research/text-to-text-transfer-transformer. Products of queries and keys are not
divided by sqrt(key width): the queries' initialisation is, and it is not Xavier's. One table of buckets serves all
layers of a stack, two-sided in the encoder; cross-attention has none. Version 1.1 was pretrained without dropout.
"""

import math
from collections.abc import Callable
from typing import Any

from fxformer.block import Block
from fxformer.fields import Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.bias import Buckets
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU, MLP, FFNSpec
from fxformer.layers.head import HeadSpec, Tied, Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import FanIn, Normal
from fxformer.layers.residual import Residual
from fxformer.lookup import nearest
from fxformer.model import Transformer
from fxformer.ops.mask import Causal, Full, Mask
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes

DROPOUT = 0.1


def relu_tied(width: int, inner: int) -> tuple[FFNSpec, HeadSpec]:
    """Version 1.0: relu(x W) V, and logits x E^T / sqrt(width)."""
    return MLP(inner=inner, activation="relu", dropout=DROPOUT), Tied(scale=1 / math.sqrt(width))


def gated_free(width: int, inner: int) -> tuple[FFNSpec, HeadSpec]:
    """Version 1.1: (gelu(x W) * x U) V, and logits from a matrix of their own."""
    return GLU(inner=inner, activation="gelu_tanh", dropout=DROPOUT), Untied()


VERSIONS: dict[str, Callable[[int, int], tuple[FFNSpec, HeadSpec]]] = {"1.0": relu_tied, "1.1": gated_free}


@checked
def t5(
    *,
    version: str,
    encoder_depth: Size,
    depth: Size,
    width: Size,
    heads: Size,
    key_width: Size,
    inner: Size,
    vocab: Size = 32128,
) -> Transformer:
    """T5 of any size and a version in VERSIONS; heads * key_width need not be the width of the stream."""
    norm = Norm(kind="rms", eps=1e-6)
    ffn, head = nearest(VERSIONS, version, "T5 version")(width, inner)

    def attention(mask: Mask) -> GQA:
        return GQA(
            heads=heads,
            kv_heads=heads,
            key_width=key_width,
            mask=mask,
            scale=1.0,
            dropout=DROPOUT,
            init=FanIn(1 / math.sqrt(key_width)),
            key_init=FanIn(),
        )

    def stack(depth: int, block: Block, *, bidirectional: bool) -> Stack:
        bias = Buckets(heads=heads, bidirectional=bidirectional, deviation=1 / math.sqrt(width))
        return Stack(groups=(Repeat(depth, (block,)),), norm=norm, bias=bias, dropout=DROPOUT)

    residual = Residual(placement="pre", norm=norm, dropout=DROPOUT)
    encoder = Block(attention=attention(Full()), ffn=ffn, residual=residual)
    decoder = Block(attention=attention(Causal()), cross=attention(Full()), ffn=ffn, residual=residual)
    return Transformer(
        embed=Embed(vocab=vocab, width=width, dropout=DROPOUT, init=Normal(1.0)),
        encoder=stack(encoder_depth, encoder, bidirectional=True),
        stack=stack(depth, decoder, bidirectional=False),
        head=head,
    )


def _tiny(sizes: Sizes) -> Sizes:
    return {
        "version": sizes["version"],
        "encoder_depth": 3,
        "depth": 2,
        "width": 40,
        "heads": 6,
        "key_width": 10,
        "inner": 104,
        "vocab": 256,
    }


def _sizes(version: str, depth: int, width: int, heads: int, key_width: int, inner: int) -> dict[str, Any]:
    return {
        "version": version,
        "encoder_depth": depth,
        "depth": depth,
        "width": width,
        "heads": heads,
        "key_width": key_width,
        "inner": inner,
    }


SOURCE = "Raffel et al. 2020, Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"

T5 = Family(
    title="T5",
    year=2020,
    kind="encoder-decoder",
    source=SOURCE,
    objective="span corruption, mixed with supervised tasks as text to text",
    build=t5,
    published={
        "t5-small": _sizes("1.0", 6, 512, 8, 64, 2048),
        "t5-base": _sizes("1.0", 12, 768, 12, 64, 3072),
        "t5-large": _sizes("1.0", 24, 1024, 16, 64, 4096),
        "t5-3b": _sizes("1.0", 24, 1024, 32, 128, 16384),
        "t5-11b": _sizes("1.0", 24, 1024, 128, 128, 65536),
    },
    tiny=_tiny,
)

T5_GATED = Family(
    title="T5 v1.1",
    year=2020,
    kind="encoder-decoder",
    source=f"{SOURCE}; released_checkpoints.md",
    objective="span corruption",
    build=t5,
    published={
        "t5-v1.1-small": _sizes("1.1", 8, 512, 6, 64, 1024),
        "t5-v1.1-base": _sizes("1.1", 12, 768, 12, 64, 2048),
        "t5-v1.1-large": _sizes("1.1", 24, 1024, 16, 64, 2816),
        "t5-v1.1-xl": _sizes("1.1", 24, 2048, 32, 64, 5120),
        "t5-v1.1-xxl": _sizes("1.1", 24, 4096, 64, 64, 10240),
    },
    tiny=_tiny,
)
