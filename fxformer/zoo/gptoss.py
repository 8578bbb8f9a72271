"""gpt-oss: experts with a clamped gate, attention with sinks, local in every other layer, biases in every matrix.

OpenAI 2025, gpt-oss model card, section 2; openai/gpt-oss. The first layer of each pair sees 128 tokens. Queries and
keys are multiplied by YaRN's magnitude, which is here the square on the logits; its ramp is not rounded to whole pairs
of channels. The initialisation is unpublished; 0.02 is the usual choice.
"""

import math
from typing import Any

from fxformer.block import Block
from fxformer.fields import Distance, Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU, MoE
from fxformer.layers.head import Untied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.mask import Causal, Mask, Window
from fxformer.ops.rotary import Rotary, YaRN, magnitude
from fxformer.ops.route import TopK
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes, pairs

YARN = YaRN(factor=32.0, original_length=4096, truncate=False)


@checked
def gpt_oss(
    *,
    depth: Size,
    experts: Size,
    chosen: Size = 4,
    width: Size = 2880,
    heads: Size = 64,
    kv_heads: Size = 8,
    key_width: Size = 64,
    inner: Size = 2880,
    window: Distance = 128,
    vocab: Size = 201_088,
) -> Transformer:
    """gpt-oss of any size; experts give (min(g, 7) sigmoid(1.702 min(g, 7)) (clip(u, -7, 7) + 1)) W_down + b."""
    norm, init = Norm(kind="rms", eps=1e-5), Normal(0.02)
    expert = GLU(
        inner=inner, activation="gelu_sigmoid", bias=True, limit=7.0, up_offset=1.0, up_init=init, down_init=init
    )

    def block(mask: Mask) -> Block:
        return Block(
            attention=GQA(
                heads=heads,
                kv_heads=kv_heads,
                key_width=key_width,
                mask=mask,
                rotary=Rotary(width=key_width, base=150_000.0, scaling=YARN),
                scale=magnitude(YARN.factor) ** 2 / math.sqrt(key_width),
                sinks=True,
                bias=True,
                out_bias=True,
                init=init,
                value_init=init,
                out_init=init,
            ),
            ffn=MoE(
                experts=experts,
                expert=expert,
                router=TopK(k=chosen, renormalise=True),
                router_bias=True,
                router_init=init,
            ),
            residual=Residual(placement="pre", norm=norm),
        )

    return Transformer(
        embed=Embed(vocab=vocab, width=width, init=init),
        stack=Stack(groups=(Repeat(pairs(depth), (block(Window(window)), block(Causal()))),), norm=norm),
        head=Untied(init=init),
    )


def _tiny(sizes: Sizes) -> Sizes:
    tiny: dict[str, Any] = {"depth": 4, "experts": 5, "chosen": 2, "width": 48, "heads": 6, "kv_heads": 3}
    return {**tiny, "key_width": 10, "inner": 28, "window": 7, "vocab": 256}


GPT_OSS = Family(
    title="gpt-oss",
    year=2025,
    kind="decoder",
    source="OpenAI 2025, gpt-oss-120b & gpt-oss-20b Model Card",
    objective="causal language model, then reinforcement learning on reasoning",
    build=gpt_oss,
    published={
        "gpt-oss-20b": {"depth": 24, "experts": 32},
        "gpt-oss-120b": {"depth": 36, "experts": 128},
    },
    tiny=_tiny,
)
