"""GLM: a prefix is seen both ways, what follows causally; positions say the place in the text and in a span.

Du et al. 2022 and THUDM/GLM: Megatron's pre-norm GPT-2 with two learned tables, each of one position more than a
sequence has. Zeng et al. 2023 and THUDM/GLM-130B: each norm's output is both a branch's input and, times sqrt(2 L), its
shortcut, which is DeepNorm moved by one sublayer; DeepNet itself has (2 L)^(1/4). GLM-130B's scores are divided by the
number of the layer and multiplied again, which changes nothing but half precision.
"""

import math

from fxformer.block import Block
from fxformer.fields import Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed, LearnedPair
from fxformer.layers.ffn import GLU, MLP
from fxformer.layers.head import Tied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal, Xavier
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.mask import Causal, Prefix
from fxformer.ops.rotary import Rotary
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes, columns

NORM, MASK, DROPOUT = Norm(kind="layer", eps=1e-5, bias=True), Causal() | Prefix(), 0.1


@checked
def glm(*, depth: Size, width: Size, heads: Size, vocab: Size, length: Size) -> Transformer:
    """GLM of any size; the feed-forward layer is four times as wide as the stream."""
    init, out_init = Normal(0.02), Normal(0.02 / math.sqrt(2 * depth))
    block = Block(
        attention=GQA(
            heads=heads,
            kv_heads=heads,
            key_width=width // heads,
            mask=MASK,
            bias=True,
            out_bias=True,
            dropout=DROPOUT,
            init=init,
            value_init=init,
            out_init=out_init,
        ),
        ffn=MLP(inner=4 * width, activation="gelu_tanh", bias=True, up_init=init, down_init=out_init),
        residual=Residual(placement="pre", norm=NORM, dropout=DROPOUT),
    )
    position = LearnedPair(limit=length + 1, init=init)
    return Transformer(
        embed=Embed(vocab=vocab, width=width, position=position, dropout=DROPOUT, init=init),
        stack=Stack(groups=(Repeat(depth, (block,)),), norm=NORM),
        head=Tied(),
    )


@checked
def glm_130b(*, depth: Size, width: Size, heads: Size, inner: Size, vocab: Size = 150528) -> Transformer:
    """GLM-130B's structure of any size; the gate is exact GELU, and the embedding learns at a tenth of the rate."""
    key_width = width // heads
    init, branch_init = Xavier(), Xavier(gain=1 / math.sqrt(2 * depth))
    block = Block(
        attention=GQA(
            heads=heads,
            kv_heads=heads,
            key_width=key_width,
            mask=MASK,
            rotary=Rotary(width=key_width),
            bias=True,
            out_bias=True,
            dropout=DROPOUT,
            init=init,
            value_init=branch_init,
            out_init=branch_init,
        ),
        ffn=GLU(inner=inner, activation="gelu_erf", bias=True, up_init=branch_init, down_init=branch_init),
        residual=Residual(placement="shifted", norm=NORM, skip=math.sqrt(2 * depth), dropout=DROPOUT),
    )
    return Transformer(
        embed=Embed(vocab=vocab, width=width, dropout=DROPOUT, shrink=0.1),
        stack=Stack(groups=(Repeat(depth, (block,)),), norm=NORM),
        head=Tied(),
    )


def _tiny(sizes: Sizes) -> Sizes:
    return {"depth": 3, "width": 40, "heads": 5, "vocab": 256, "length": 96}


def _tiny_130b(sizes: Sizes) -> Sizes:
    return {"depth": 3, "width": 48, "heads": 6, "inner": 128, "vocab": 256}


_sizes = columns("depth", "width", "heads", "vocab", "length")

GLM = Family(
    title="GLM",
    year=2021,
    kind="prefix decoder",
    source="Du et al. 2022, GLM: General Language Model Pretraining with Autoregressive Blank Infilling",
    objective="blank infilling: short spans; 2B and 10B of sentences and documents too",
    build=glm,
    published={
        "glm-base": _sizes(12, 768, 12, 30592, 512),
        "glm-large": _sizes(24, 1024, 16, 30592, 512),
        "glm-2b": _sizes(36, 2048, 32, 50304, 1024),
        "glm-10b": _sizes(48, 4096, 64, 50304, 1024),
    },
    tiny=_tiny,
)

GLM_130B = Family(
    title="GLM-130B",
    year=2022,
    kind="prefix decoder",
    source="Zeng et al. 2023, GLM-130B: An Open Bilingual Pre-trained Model",
    objective="blank infilling, 30 % short spans and 70 % the rest of a document, and 5 % of all data instructions",
    build=glm_130b,
    published={"glm-130b": {"depth": 70, "width": 12288, "heads": 96, "inner": 32768}},
    tiny=_tiny_130b,
)
