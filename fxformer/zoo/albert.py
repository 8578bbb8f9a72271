"""ALBERT: BERT with one block for all layers and tables of width 128, widened after their norm; tanh GELU.

Lan et al. 2020; google-research/albert. Sharing saves parameters, not time: the block runs once a layer. Dropout is
that of the first release; the second, of the same shapes, has none. `-pretraining` has the head of masked language
modelling, at the width of the tables, and the pooler with the two labels of sentence-order prediction.
"""

from fxformer.fields import Rate, Size, checked
from fxformer.layers.embed import Embed, Learned
from fxformer.layers.head import Bare, HeadSpec, Pooler, Transformed
from fxformer.model import Transformer
from fxformer.stack import Repeat, Stack
from fxformer.zoo.bert import INIT, NORM, encoder_block
from fxformer.zoo.family import Family, Sizes


@checked
def albert(
    *,
    depth: Size,
    width: Size,
    heads: Size,
    factor: Size = 128,
    vocab: Size = 30000,
    length: Size = 512,
    dropout: Rate = 0.1,
    head: HeadSpec = Bare(),
    pooler: Pooler | None = Pooler(init=INIT),
) -> Transformer:
    """ALBERT of any size; `factor` is the width of the tables."""
    block = encoder_block(width=width, heads=heads, activation="gelu_tanh", dropout=dropout)
    return Transformer(
        embed=Embed(
            vocab=vocab,
            width=width,
            factor=factor,
            position=Learned(limit=length, init=INIT),
            types=2,
            norm=NORM,
            dropout=dropout,
            init=INIT,
        ),
        stack=Stack(groups=(Repeat(depth, (block,), tied=True),), norm=NORM),
        head=head,
        pooler=pooler,
    )


def _tiny(sizes: Sizes) -> Sizes:
    return {**sizes, "depth": 3, "width": 40, "heads": 5, "factor": 12, "vocab": 256, "length": 96}


_BASE = {"depth": 12, "width": 768, "heads": 12}
_PRETRAINING = {
    "head": Transformed(activation="gelu_tanh", norm=NORM, init=INIT),
    "pooler": Pooler(labels=2, init=INIT),
}

ALBERT = Family(
    title="ALBERT",
    year=2020,
    kind="encoder",
    source="Lan et al. 2020, ALBERT: A Lite BERT for Self-supervised Learning of Language Representations",
    objective="masked language model of n-grams and sentence order",
    build=albert,
    published={
        "albert-base": _BASE,
        "albert-base-pretraining": {**_BASE, **_PRETRAINING},
        "albert-large": {"depth": 24, "width": 1024, "heads": 16},
        "albert-xlarge": {"depth": 24, "width": 2048, "heads": 16},
        "albert-xxlarge": {"depth": 12, "width": 4096, "heads": 64, "dropout": 0.0},
    },
    tiny=_tiny,
)
