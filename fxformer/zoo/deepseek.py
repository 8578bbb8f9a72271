"""DeepSeek V2, V3 and V3.2: latent attention, shared experts beside routed ones, the first layers dense.

DeepSeek-AI 2024 (V2), section 2 and 3.1; 2024 (V3), section 2 and 4.2; 2025 (V3.2-Exp), section 2; the configs of
deepseek-ai. Shared experts are one layer as wide as all of them. Rotary pairs are interleaved, those of the indexer
half-split. YaRN reaches forty times 4096 tokens and multiplies logits by the square of its magnitude; DeepSeek's code
leaves it out where no more than 4096 tokens are asked for.
"""

import math
from dataclasses import replace
from typing import Any

from fxformer.block import Block
from fxformer.fields import Count, Least, Size, checked
from fxformer.layers.attention import MLA
from fxformer.layers.attention.indexer import Indexer
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU, FFNSpec, MoE
from fxformer.layers.head import Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.mtp import MTP
from fxformer.ops.rotary import Rotary, YaRN, magnitude
from fxformer.ops.route import Router, Sigmoid, TopK
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes

YARN = YaRN(factor=40.0, original_length=4096)


@checked
def deepseek(
    *,
    depth: Size,
    width: Size,
    heads: Size,
    query_latent: Size | None,
    first: Count,
    first_inner: Size,
    experts: Size,
    shared: Count,
    inner: Size,
    router: Router,
    selection_bias: bool = False,
    mscale: Least = 1.0,
    index: Indexer | None = None,
    mtp: bool = False,
    latent: Size = 512,
    nope_width: Size = 128,
    value_width: Size = 128,
    rotary: Rotary = Rotary(width=64, pairing="interleaved", scaling=YARN),
    vocab: Size = 102_400,
) -> Transformer:
    """DeepSeek of any size: `first` dense layers, then layers of `shared` and `experts` of width `inner`.

    mscale: of YaRN's magnitude. For V2 its paper prints 0.0707 ln s + 1, which is 0.707 and what V2-Lite has; the
    config of V2 leaves it at 1.0, and so do V3's. mtp: with the module that predicts the token after the next.
    """
    norm, init = Norm(kind="rms", eps=1e-6), Normal(0.006)

    def glu(inner: int) -> GLU:
        return GLU(inner=inner, activation="silu", up_init=init, down_init=init)

    def block(ffn: FFNSpec) -> Block:
        return Block(attention=attention, ffn=ffn, residual=Residual(placement="pre", norm=norm))

    attention = MLA(
        heads=heads,
        nope_width=nope_width,
        value_width=value_width,
        latent=latent,
        query_latent=query_latent,
        rotary=rotary,
        norm=norm,
        scale=magnitude(YARN.factor, mscale) ** 2 / math.sqrt(nope_width + rotary.width),
        index=index,
        init=init,
        value_init=init,
        out_init=init,
    )
    moe = MoE(
        experts=experts,
        expert=glu(inner),
        router=router,
        shared=glu(shared * inner),
        selection_bias=selection_bias,
        per_row=True,
        router_init=init,
    )
    dense, sparse = block(glu(first_inner)), block(moe)
    return Transformer(
        embed=Embed(vocab=vocab, width=width, init=init),
        stack=Stack(groups=(Repeat(first, (dense,)), Repeat(depth - first, (sparse,))), norm=norm),
        head=Untied(init=init),
        mtp=MTP(block=sparse, norm=norm, init=init) if mtp else None,
    )


def _tiny(sizes: Sizes) -> Sizes:
    """Two dense layers stand for V3's three; three groups of three experts for eight of more."""
    router, index = sizes["router"], sizes.get("index")
    tiny: dict[str, Any] = {
        **sizes,
        "depth": 4 if sizes["first"] > 1 else 3,
        "width": 42,
        "heads": 6,
        "query_latent": None if sizes["query_latent"] is None else 24,
        "first": 2 if sizes["first"] > 1 else 1,
        "first_inner": 72,
        "experts": 9,
        "inner": 14,
        "latent": 20,
        "nope_width": 10,
        "value_width": 12,
        "rotary": Rotary(width=8, pairing="interleaved", scaling=YARN),
        "vocab": 256,
    }
    if router.groups > 1:
        tiny["router"] = replace(router, k=4, groups=3, kept_groups=2)
    else:
        tiny["router"] = replace(router, k=4)
    if index is not None:
        tiny["index"] = replace(index, heads=11, width=16, keep=7, rotary=replace(index.rotary, width=8))
    return tiny


V3: dict[str, Any] = {
    "depth": 61,
    "width": 7168,
    "heads": 128,
    "query_latent": 1536,
    "first": 3,
    "first_inner": 18432,
    "experts": 256,
    "shared": 1,
    "inner": 2048,
    "router": Sigmoid(k=8, scale=2.5, groups=8, kept_groups=4),
    "selection_bias": True,
    "vocab": 129_280,
}

DEEPSEEK_V2 = Family(
    title="DeepSeek-V2",
    year=2024,
    kind="decoder",
    source="DeepSeek-AI 2024, DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model",
    objective="causal language model",
    build=deepseek,
    published={
        "deepseek-v2-lite": {
            "depth": 27,
            "width": 2048,
            "heads": 16,
            "query_latent": None,
            "first": 1,
            "first_inner": 10944,
            "experts": 64,
            "shared": 2,
            "inner": 1408,
            "router": TopK(k=6),
            "mscale": 0.707,
        },
        "deepseek-v2": {
            "depth": 60,
            "width": 5120,
            "heads": 128,
            "query_latent": 1536,
            "first": 1,
            "first_inner": 12288,
            "experts": 160,
            "shared": 2,
            "inner": 1536,
            "router": TopK(k=6, scale=16.0, groups=8, kept_groups=3),
        },
    },
    tiny=_tiny,
)

DEEPSEEK_V3 = Family(
    title="DeepSeek-V3",
    year=2024,
    kind="decoder",
    source="DeepSeek-AI 2024, DeepSeek-V3 Technical Report; 2025, DeepSeek-V3.2-Exp",
    objective="causal language model and multi-token prediction, one token further",
    build=deepseek,
    published={
        "deepseek-v3": V3,
        "deepseek-v3-mtp": {**V3, "mtp": True},
        "deepseek-v3.2": {**V3, "index": Indexer(rotary=Rotary(width=64, scaling=YARN), init=Normal(0.006))},
    },
    tiny=_tiny,
)
