"""Switch Transformer: T5's encoder and decoder, where every second feed-forward layer is a choice of one expert.

Fedus et al. 2021, section 2 and table 9; google/switch, and the configs `switch_classic` of flaxformer for its sizes.
Weights are drawn with a tenth of the usual variance. XXL has gated GELU and a head of its own, as T5 v1.1 has. Its
Switch-C is left out: paper and code disagree about its heads.
"""

import math
from dataclasses import replace
from typing import Any

from fxformer.block import Block
from fxformer.fields import Least, Rate, Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.bias import Buckets
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU, MLP, FFNSpec, MoE
from fxformer.layers.head import Tied, Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal, Truncated
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.dispatch import Capacity
from fxformer.ops.mask import Causal, Full, Mask
from fxformer.ops.route import Switch
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes, pairs


@checked
def switch(
    *,
    depth: Size,
    width: Size,
    heads: Size,
    ffn: MLP | GLU,
    experts: Size,
    tied: bool = True,
    key_width: Size = 64,
    capacity: Least = 1.25,
    dropout: Rate = 0.1,
    expert_dropout: Rate = 0.1,
    vocab: Size = 32128,
) -> Transformer:
    """Switch of any size: `depth` layers in the encoder and in the decoder; the second of each pair has experts.

    ffn: the dense layer, and each expert. tied: logits are x E^T / sqrt(width), E the embedding's table.
    capacity: 1.25 to train, 2.0 to evaluate. expert_dropout: 0.4 to fine-tune.
    """
    norm = Norm(kind="rms", eps=1e-6)
    up_init, down_init = _init(width), _init(ffn.inner)
    dense = replace(ffn, dropout=dropout, up_init=up_init, down_init=down_init)
    moe = MoE(
        experts=experts,
        expert=replace(dense, dropout=expert_dropout),
        router=Switch(),
        dispatch=Capacity(factor=capacity),
        per_row=True,
        jitter=1e-2,
        router_init=up_init,
    )

    def attention(mask: Mask) -> GQA:
        return GQA(
            heads=heads,
            kv_heads=heads,
            key_width=key_width,
            mask=mask,
            scale=1.0,
            dropout=dropout,
            init=_init(width * key_width),
            key_init=up_init,
            value_init=up_init,
            out_init=_init(heads * key_width),
        )

    def stack(mask: Mask, cross: GQA | None) -> Stack:
        def block(ffn: FFNSpec) -> Block:
            residual = Residual(placement="pre", norm=norm, dropout=dropout)
            return Block(attention=attention(mask), cross=cross, ffn=ffn, residual=residual)

        bias = Buckets(heads=heads, bidirectional=mask.bidirectional, deviation=1 / math.sqrt(width))
        return Stack(groups=(Repeat(pairs(depth), (block(dense), block(moe))),), norm=norm, bias=bias, dropout=dropout)

    return Transformer(
        embed=Embed(vocab=vocab, width=width, dropout=dropout, init=Normal(1.0)),
        encoder=stack(Full(), None),
        stack=stack(Causal(), attention(Full())),
        head=Tied(scale=1 / math.sqrt(width)) if tied else Untied(init=up_init),
    )


def _init(fan_in: int) -> Truncated:
    """Section 2.4: deviation sqrt(s / fan in) with s = 0.1, cut at two of it."""
    return Truncated(math.sqrt(0.1 / fan_in))


def _tiny(sizes: Sizes) -> Sizes:
    """Room for every token, so that reading in parts is reading at once: what is dropped depends on the rest."""
    tiny = {**sizes, "depth": 4, "width": 40, "heads": 6, "key_width": 8, "ffn": replace(sizes["ffn"], inner=24)}
    return {**tiny, "experts": 5, "capacity": 5.0, "vocab": 256}


BASE: dict[str, Any] = {"depth": 12, "width": 768, "heads": 12, "ffn": MLP(inner=3072, activation="relu")}
LARGE: dict[str, Any] = {"depth": 24, "width": 1024, "heads": 16, "ffn": MLP(inner=4096, activation="relu")}
XXL: dict[str, Any] = {"depth": 24, "width": 4096, "heads": 64, "ffn": GLU(inner=10240, activation="gelu_tanh")}

SWITCH = Family(
    title="Switch Transformer",
    year=2021,
    kind="encoder-decoder",
    source="Fedus, Zoph & Shazeer 2021, Switch Transformers",
    objective="span corruption",
    build=switch,
    published={
        **{f"switch-base-{experts}": {**BASE, "experts": experts} for experts in (8, 16, 32, 64, 128, 256)},
        "switch-large-128": {**LARGE, "experts": 128},
        "switch-xxl-128": {**XXL, "experts": 128, "tied": False},
    },
    tiny=_tiny,
)
