"""Gemma 2: norms on both sides of each sublayer, bounded logits, and attention that is local in every other layer.

Gemma Team 2024, section 2 and table 1; google/gemma-2. Gains are 1 + a parameter, the embedding is scaled by
sqrt(width), the first layer of each pair sees 4096 tokens. Hugging Face rounds that scale to the dtype of the weights.
The initialisation is unpublished; 0.02 is the usual choice.
"""

import math

from fxformer.block import Block
from fxformer.fields import Distance, Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU
from fxformer.layers.head import Tied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.mask import Causal, Mask, Window
from fxformer.ops.rotary import Rotary
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes, columns, pairs


@checked
def gemma2(
    *,
    depth: Size,
    width: Size,
    heads: Size,
    kv_heads: Size,
    key_width: Size,
    query_width: Size,
    inner: Size,
    window: Distance = 4096,
    vocab: Size = 256_000,
) -> Transformer:
    """Gemma 2 of any size; logits are scaled by 1 / sqrt(query_width), which in the 27B is width / heads."""
    norm, init = Norm(kind="rms", eps=1e-6, offset=1.0), Normal(0.02)

    def block(mask: Mask) -> Block:
        return Block(
            attention=GQA(
                heads=heads,
                kv_heads=kv_heads,
                key_width=key_width,
                mask=mask,
                rotary=Rotary(width=key_width),
                softcap=50.0,
                scale=1 / math.sqrt(query_width),
                init=init,
                value_init=init,
                out_init=init,
            ),
            ffn=GLU(inner=inner, activation="gelu_tanh", up_init=init, down_init=init),
            residual=Residual(placement="sandwich", norm=norm),
        )

    return Transformer(
        embed=Embed(vocab=vocab, width=width, scale=math.sqrt(width), init=init),
        stack=Stack(groups=(Repeat(pairs(depth), (block(Window(window)), block(Causal()))),), norm=norm),
        head=Tied(softcap=30.0),
    )


def _tiny(sizes: Sizes) -> Sizes:
    own_scale = sizes["query_width"] != sizes["key_width"]
    return {
        "depth": 4,
        "width": 48,
        "heads": 6,
        "kv_heads": 3,
        "key_width": 10,
        "query_width": 14 if own_scale else 10,
        "inner": 72,
        "window": 5,
        "vocab": 256,
    }


_sizes = columns("depth", "width", "heads", "kv_heads", "key_width", "query_width", "inner")

GEMMA2 = Family(
    title="Gemma 2",
    year=2024,
    kind="decoder",
    source="Gemma Team 2024, Gemma 2: Improving Open Language Models at a Practical Size",
    objective="causal language model; 2B and 9B learn a larger model's probabilities instead of the tokens",
    build=gemma2,
    published={
        "gemma2-2b": _sizes(26, 2304, 8, 4, 256, 256, 9216),
        "gemma2-9b": _sizes(42, 3584, 16, 8, 256, 256, 14336),
        "gemma2-27b": _sizes(46, 4608, 32, 16, 128, 144, 36864),
    },
    tiny=_tiny,
)
