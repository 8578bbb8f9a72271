"""GLaM: a decoder where every other feed-forward layer sends each token to two of 64 experts.

Du et al. 2022, section 4 and table 4; `glam.py` of google/praxis. Dense layers are gated with GELU, experts are two
matrices with ReLU: the printed 96.6 billion active parameters of the 64B count them so. Each layer has a logit bias of
its own, and no 1 / sqrt(key_width); as in T5 the initial queries stand for it. Logits are scaled by 1 / sqrt(width).
Capacity is not published: GShard's stands here.
"""

import math

from fxformer.block import Block
from fxformer.fields import Least, Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.bias import Buckets
from fxformer.layers.embed import Embed
from fxformer.layers.ffn import GLU, MLP, FFNSpec, MoE
from fxformer.layers.head import Tied
from fxformer.layers.norm import Norm
from fxformer.layers.project import FanIn, Normal
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.dispatch import Capacity
from fxformer.ops.route import GShard
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes, pairs


@checked
def glam(
    *,
    depth: Size,
    width: Size,
    heads: Size,
    inner: Size,
    experts: Size = 64,
    key_width: Size = 128,
    capacity: Least = 1.0,
    vocab: Size = 256_000,
) -> Transformer:
    """GLaM of any size; the first layer of each pair has experts."""
    norm = Norm(kind="rms", eps=1e-6)
    moe = MoE(
        experts=experts,
        expert=MLP(inner=inner, activation="relu"),
        router=GShard(),
        dispatch=Capacity(factor=capacity),
        per_row=True,
    )

    def block(ffn: FFNSpec) -> Block:
        return Block(
            attention=GQA(
                heads=heads,
                kv_heads=heads,
                key_width=key_width,
                scale=1.0,
                relative=Buckets(heads=heads),
                init=FanIn(gain=1 / math.sqrt(key_width)),
                key_init=FanIn(),
            ),
            ffn=ffn,
            residual=Residual(placement="pre", norm=norm),
        )

    return Transformer(
        embed=Embed(vocab=vocab, width=width, init=Normal(1.0)),
        stack=Stack(
            groups=(Repeat(pairs(depth), (block(moe), block(GLU(inner=inner, activation="gelu_tanh")))),), norm=norm
        ),
        head=Tied(scale=1 / math.sqrt(width)),
    )


def _tiny(sizes: Sizes) -> Sizes:
    """Room for every token, so that reading in parts is reading at once: what is dropped depends on the rest."""
    sizes = {"depth": 4, "width": 40, "heads": 6, "inner": 56, "experts": 5, "key_width": 8, "capacity": 2.5}
    return {**sizes, "vocab": 256}


GLAM = Family(
    title="GLaM",
    year=2021,
    kind="decoder",
    source="Du et al. 2022, GLaM: Efficient Scaling of Language Models with Mixture-of-Experts",
    objective="causal language model",
    build=glam,
    published={
        "glam-8b": {"depth": 32, "width": 4096, "heads": 32, "inner": 16384},
        "glam-64b": {"depth": 64, "width": 8192, "heads": 128, "inner": 32768},
    },
    tiny=_tiny,
)
