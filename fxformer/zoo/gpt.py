"""GPT-2: a pre-norm decoder with learned positions, biases everywhere and a tied head.

Radford et al. 2019, section 2.3; openai/gpt-2. The released code initialises positions with 0.01; the paper scales the
branches' last matrices by 1 / sqrt(2 L), which the released code leaves out.
"""

import math

from fxformer.block import Block
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed, Learned, Tied
from fxformer.layers.ffn import MLP
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes


def gpt2(
    *, depth: int, width: int, heads: int, vocab: int = 50257, length: int = 1024, dropout: float = 0.1
) -> Transformer:
    """GPT-2 of any size; the feed-forward layer is four times as wide as the stream."""
    norm = Norm(kind="layer", eps=1e-5, bias=True)
    init, out_init = Normal(0.02), Normal(0.02 / math.sqrt(2 * depth))
    block = Block(
        attention=GQA(
            heads=heads,
            kv_heads=heads,
            key_width=width // heads,
            bias=True,
            out_bias=True,
            init=init,
            value_init=init,
            out_init=out_init,
        ),
        ffn=MLP(inner=4 * width, activation="gelu_tanh", bias=True, up_init=init, down_init=out_init),
        residual=Residual(placement="pre", norm=norm, dropout=dropout),
    )
    return Transformer(
        embed=Embed(vocab=vocab, width=width, position=Learned(limit=length, init=Normal(0.01)), dropout=dropout),
        stack=Stack(groups=(Repeat(depth, (block,)),), norm=norm),
        head=Tied(),
    )


def _tiny(sizes: Sizes) -> Sizes:
    return {"depth": 3, "width": 40, "heads": 5, "vocab": 256, "length": 96}


GPT2 = Family(
    title="GPT-2",
    year=2019,
    kind="decoder",
    source="Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    build=gpt2,
    published={
        "gpt2": {"depth": 12, "width": 768, "heads": 12},
        "gpt2-medium": {"depth": 24, "width": 1024, "heads": 16},
        "gpt2-large": {"depth": 36, "width": 1280, "heads": 20},
        "gpt2-xl": {"depth": 48, "width": 1600, "heads": 25},
    },
    tiny=_tiny,
)
