"""The Transformer: encoder and decoder, post-norm, sinusoids, one table for both vocabularies and the logits.

Vaswani et al. 2017, section 3 and table 3. Embeddings are scaled by sqrt(width); no norm follows the last block, unlike
torch.nn.Transformer. The paper leaves open the vocabulary (about 37,000 pieces), epsilon, the attention's biases and
the initialisation; biases everywhere, 1e-6 and Xavier are the usual choice.
"""

import math

from fxformer.block import Block
from fxformer.fields import Rate, Size, checked
from fxformer.layers.attention import GQA
from fxformer.layers.embed import Embed, Sinusoidal
from fxformer.layers.ffn import MLP
from fxformer.layers.head import Tied
from fxformer.layers.norm import Norm
from fxformer.layers.project import Normal, Xavier
from fxformer.layers.residual import Residual
from fxformer.model import Transformer
from fxformer.ops.mask import Causal, Full, Mask
from fxformer.stack import Repeat, Stack
from fxformer.zoo.family import Family, Sizes


@checked
def transformer(
    *, encoder_depth: Size, depth: Size, width: Size, heads: Size, dropout: Rate, vocab: Size = 37000
) -> Transformer:
    """The Transformer of any size; the feed-forward layer is four times as wide as the stream."""
    norm, init = Norm(kind="layer", eps=1e-6, bias=True), Xavier()

    def attention(mask: Mask) -> GQA:
        return GQA(
            heads=heads,
            kv_heads=heads,
            key_width=width // heads,
            mask=mask,
            bias=True,
            out_bias=True,
            init=init,
            value_init=init,
            out_init=init,
        )

    ffn = MLP(inner=4 * width, activation="relu", bias=True, up_init=init, down_init=init)
    residual = Residual(placement="post", norm=norm, dropout=dropout)
    encoder = Block(attention=attention(Full()), ffn=ffn, residual=residual)
    decoder = Block(attention=attention(Causal()), cross=attention(Full()), ffn=ffn, residual=residual)
    return Transformer(
        embed=Embed(
            vocab=vocab,
            width=width,
            position=Sinusoidal(),
            scale=math.sqrt(width),
            dropout=dropout,
            init=Normal(1 / math.sqrt(width)),
        ),
        encoder=Stack(groups=(Repeat(encoder_depth, (encoder,)),), norm=norm),
        stack=Stack(groups=(Repeat(depth, (decoder,)),), norm=norm),
        head=Tied(),
    )


def _tiny(sizes: Sizes) -> Sizes:
    return {**sizes, "encoder_depth": 3, "depth": 2, "width": 40, "heads": 5, "vocab": 256}


TRANSFORMER = Family(
    title="Transformer",
    year=2017,
    kind="encoder-decoder",
    source="Vaswani et al. 2017, Attention Is All You Need",
    objective="translation: the target's causal language model given the source, labels smoothed by 0.1",
    build=transformer,
    published={
        "transformer-base": {"encoder_depth": 6, "depth": 6, "width": 512, "heads": 8, "dropout": 0.1},
        "transformer-big": {"encoder_depth": 6, "depth": 6, "width": 1024, "heads": 16, "dropout": 0.3},
    },
    tiny=_tiny,
)
