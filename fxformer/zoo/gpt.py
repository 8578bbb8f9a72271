"""GPT-2 and GPT-3: pre-norm decoders with learned positions, biases everywhere and a tied head.

Radford et al. 2019, section 2.3; openai/gpt-2. The released code initialises positions with 0.01; the paper scales the
branches' last matrices by 1 / sqrt(2 L), which the released code leaves out. Brown et al. 2020, section 2.1 and table
2.1: GPT-3 is GPT-2 with dense and locally banded attention in turn. That table prints two sizes that do not fit, XL
with 24 heads of 128 in a width of 2048, and 13B with a width of 5140; 16 heads and 5120 give the numbers of its
appendix.
"""

import math

from fxformer.block import Block
from fxformer.fields import Count, Distance, Rate, Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed, Learned
from fxformer.layers.ffn import MLP
from fxformer.layers.head import Tied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.mask import Causal, Mask, Window
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes, pairs

NORM = Norm(kind="layer", eps=1e-5, bias=True)


@checked
def gpt2(
    *, depth: Size, width: Size, heads: Size, vocab: Size = 50257, length: Size = 1024, dropout: Rate = 0.1
) -> Transformer:
    """GPT-2 of any size; the feed-forward layer is four times as wide as the stream."""
    block = _block(depth=depth, width=width, heads=heads, mask=Causal(), dropout=dropout)
    return _decoder(Repeat(depth, (block,)), width=width, vocab=vocab, length=length, dropout=dropout)


@checked
def gpt3(
    *,
    depth: Size,
    width: Size,
    heads: Size,
    vocab: Size = 50257,
    length: Size = 2048,
    band: Distance = 256,
    dense: Count = 0,
    dropout: Rate = 0.0,
) -> Transformer:
    """GPT-3 of any size; neither band, nor order, nor dropout is published, and GPT-Neo's first two stand here.

    band: tokens that a query of a banded layer sees, its own included. dense: 0 or 1, the layer of each pair that sees
    all.
    """
    if dense not in (0, 1):
        raise ValueError(f"dense={dense} is neither the first nor the second layer of a pair; use 0 or 1")
    masks = (Causal(), Window(band)) if dense == 0 else (Window(band), Causal())
    pair = tuple(_block(depth=depth, width=width, heads=heads, mask=mask, dropout=dropout) for mask in masks)
    return _decoder(Repeat(pairs(depth), pair), width=width, vocab=vocab, length=length, dropout=dropout)


def _block(*, depth: int, width: int, heads: int, mask: Mask, dropout: float) -> Block:
    init, out_init = Normal(0.02), Normal(0.02 / math.sqrt(2 * depth))
    return Block(
        attention=GQA(
            heads=heads,
            kv_heads=heads,
            key_width=width // heads,
            mask=mask,
            bias=True,
            out_bias=True,
            init=init,
            value_init=init,
            out_init=out_init,
        ),
        ffn=MLP(inner=4 * width, activation="gelu_tanh", bias=True, up_init=init, down_init=out_init),
        residual=Residual(placement="pre", norm=NORM, dropout=dropout),
    )


def _decoder(blocks: Repeat, *, width: int, vocab: int, length: int, dropout: float) -> Transformer:
    return Transformer(
        embed=Embed(vocab=vocab, width=width, position=Learned(limit=length, init=Normal(0.01)), dropout=dropout),
        stack=Stack(groups=(blocks,), norm=NORM),
        head=Tied(),
    )


def _tiny(sizes: Sizes) -> Sizes:
    return {"depth": 3, "width": 40, "heads": 5, "vocab": 256, "length": 96}


def _tiny_pairs(sizes: Sizes) -> Sizes:
    return {"depth": 4, "width": 40, "heads": 5, "vocab": 256, "length": 96, "band": 6}


GPT2 = Family(
    title="GPT-2",
    year=2019,
    kind="decoder",
    source="Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    objective="causal language model",
    build=gpt2,
    published={
        "gpt2": {"depth": 12, "width": 768, "heads": 12},
        "gpt2-medium": {"depth": 24, "width": 1024, "heads": 16},
        "gpt2-large": {"depth": 36, "width": 1280, "heads": 20},
        "gpt2-xl": {"depth": 48, "width": 1600, "heads": 25},
    },
    tiny=_tiny,
)

GPT3 = Family(
    title="GPT-3",
    year=2020,
    kind="decoder",
    source="Brown et al. 2020, Language Models are Few-Shot Learners",
    objective="causal language model",
    build=gpt3,
    published={
        "gpt3-small": {"depth": 12, "width": 768, "heads": 12},
        "gpt3-medium": {"depth": 24, "width": 1024, "heads": 16},
        "gpt3-large": {"depth": 24, "width": 1536, "heads": 16},
        "gpt3-xl": {"depth": 24, "width": 2048, "heads": 16},
        "gpt3-2.7b": {"depth": 32, "width": 2560, "heads": 32},
        "gpt3-6.7b": {"depth": 32, "width": 4096, "heads": 32},
        "gpt3-13b": {"depth": 40, "width": 5120, "heads": 40},
        "gpt3-175b": {"depth": 96, "width": 12288, "heads": 96},
    },
    tiny=_tiny_pairs,
)
