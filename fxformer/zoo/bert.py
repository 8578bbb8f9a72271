"""BERT: a post-norm encoder with learned positions and two types of segment, erf GELU and biases everywhere.

Devlin et al. 2019; google-research/bert. Epsilon is 1e-12; the released weights were trained with the exact GELU, the
code's tanh form came later. A name without an ending is the encoder with its pooler; `-mlm` has the head of masked
language modelling instead, `-pretraining` both, the pooler with the two labels of next-sentence prediction.
"""

from fxformer.block import Block
from fxformer.fields import Rate, Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed, Learned
from fxformer.layers.ffn import MLP
from fxformer.layers.head import Bare, HeadSpec, Pooler, Transformed
from fxformer.layers.norm import Norm
from fxformer.layers.project import Truncated
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.mask import Full
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes

NORM, INIT = Norm(kind="layer", eps=1e-12, bias=True), Truncated(0.02)


@checked
def bert(
    *,
    depth: Size,
    width: Size,
    heads: Size,
    vocab: Size = 30522,
    length: Size = 512,
    dropout: Rate = 0.1,
    head: HeadSpec = Bare(),
    pooler: Pooler | None = Pooler(init=INIT),
) -> Transformer:
    """BERT of any size; the feed-forward layer is four times as wide as the stream."""
    block = encoder_block(width=width, heads=heads, activation="gelu_erf", dropout=dropout)
    position = Learned(limit=length, init=INIT)
    return Transformer(
        embed=Embed(vocab=vocab, width=width, position=position, types=2, norm=NORM, dropout=dropout, init=INIT),
        stack=Stack(groups=(Repeat(depth, (block,)),), norm=NORM),
        head=head,
        pooler=pooler,
    )


def encoder_block(*, width: int, heads: int, activation: str, dropout: float) -> Block:
    """x <- norm(x + attention(x)), x <- norm(x + MLP(x)), every token seeing all others: BERT's block and ALBERT's."""
    return Block(
        attention=GQA(
            heads=heads,
            kv_heads=heads,
            key_width=width // heads,
            mask=Full(),
            bias=True,
            out_bias=True,
            dropout=dropout,
            init=INIT,
            value_init=INIT,
            out_init=INIT,
        ),
        ffn=MLP(inner=4 * width, activation=activation, bias=True, up_init=INIT, down_init=INIT),
        residual=Residual(placement="post", norm=NORM, dropout=dropout),
    )


def _tiny(sizes: Sizes) -> Sizes:
    return {**sizes, "depth": 3, "width": 40, "heads": 5, "vocab": 256, "length": 96}


_BASE = {"depth": 12, "width": 768, "heads": 12}
_LARGE = {"depth": 24, "width": 1024, "heads": 16}
_MASKED = {"head": Transformed(activation="gelu_erf", norm=NORM, init=INIT)}
_SENTENCES = {"pooler": Pooler(labels=2, init=INIT)}

BERT = Family(
    title="BERT",
    year=2019,
    kind="encoder",
    source="Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
    objective="masked language model and next sentence",
    build=bert,
    published={
        "bert-base": _BASE,
        "bert-base-chinese": {**_BASE, "vocab": 21128},
        "bert-base-mlm": {**_BASE, **_MASKED, "pooler": None},
        "bert-base-pretraining": {**_BASE, **_MASKED, **_SENTENCES},
        "bert-large": _LARGE,
        "bert-large-pretraining": {**_LARGE, **_MASKED, **_SENTENCES},
    },
    tiny=_tiny,
)
